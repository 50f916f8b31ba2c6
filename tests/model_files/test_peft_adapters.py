"""An adapter's ranks, targets and sizes are those of its tensors, and what it says otherwise is a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge import ModelDescription, inspect_model
from chatbridge.model_files.peft_adapters import adapter_file, short_name

from .writers import Shapes, write_adapter

LAYER = "base_model.model.model.layers.0.self_attn"


def lora(*names: str, rank: int = 4, layer: str = LAYER) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        found |= {f"{layer}.{name}.lora_A.weight": (rank, 16), f"{layer}.{name}.lora_B.weight": (16, rank)}
    return found


def inspected(folder: Path, shapes: Shapes, **config: object) -> ModelDescription:
    return inspect_model(write_adapter(folder / "a", shapes, **config))


def told(found: ModelDescription) -> list[str]:
    return [f"{one.severity}: {one.message}" for one in found.problems]


def test_facts_are_those_of_the_tensors(tmp_path: Path) -> None:
    shapes = {**lora("o_proj", "q_proj"), **lora("q_proj", layer=LAYER.replace("0", "6"), rank=2)}
    found = inspected(tmp_path, shapes, rank_pattern={"x": 2}, lora_alpha=0.5, target_modules=["q_proj", "x.o_proj"])
    about = found.adapter
    assert about is not None
    assert (about.rank, about.alpha, about.targets, about.tensors) == ((2, 4), 0.5, ("o_proj", "q_proj"), 6)
    assert (about.layers, about.width, about.vocabulary, about.base) == (7, 16, 0, "")
    assert (found.layers, found.width, found.parameters) == (7, 16, 4 * 64 + 2 * 32)
    assert (found.architecture, found.quantization, told(found)) == ("lora", "none (float32)", [])
    whole = {"base_model.model.lm_head.weight": (48, 20), "base_model.model.norm.weight": (9,)}
    found = inspected(
        tmp_path, {**lora("o_proj"), **whole}, target_modules=["o_proj"], base_model_name_or_path="b" * 201
    )
    assert found.adapter is not None
    assert (found.width, found.vocabulary, found.adapter.base) == (20, 48, "b" * 200)


def test_ranks_may_differ_where_a_pattern_says_so(tmp_path: Path) -> None:
    shapes = {**lora("q_proj"), **lora("v_proj", rank=8)}
    words = "error: rank: adapter_config.json says 4, and the tensors 4 and 8"
    assert told(inspected(tmp_path, shapes)) == [words]
    assert not told(inspected(tmp_path, shapes, rank_pattern={"v_proj": 8}))


@pytest.mark.parametrize(
    ("names", "wanted", "words"),
    [
        (["q_proj", "v_proj"], ["q_proj", "v_proj"], []),
        (["q_proj", "v_proj"], "all-linear", []),
        (["q_proj"], ["q_proj", "v_proj"], ["warning: target_modules names v_proj, of which there are no tensors"]),
        (
            ["q_proj", "v_proj"],
            ["q_proj"],
            ["error: there are tensors of v_proj, which target_modules does not name"],
        ),
        (
            ["q_proj"],
            ["v_proj"],
            [
                "error: target_modules names v_proj, of which there are no tensors",
                "error: there are tensors of q_proj, which target_modules does not name",
            ],
        ),
    ],
)
def test_targets_are_those_that_have_tensors(
    tmp_path: Path, names: list[str], wanted: object, words: list[str]
) -> None:
    assert told(inspected(tmp_path, lora(*names), target_modules=wanted)) == words


def test_an_adapter_of_nothing_has_no_effect_and_lacks_no_targets(tmp_path: Path) -> None:
    none = {"base_model.model.model.norm.weight": (16,)}
    assert told(inspected(tmp_path, none)) == ["error: none of its tensors changes a layer: it has no effect"]
    assert not told(inspected(tmp_path, none, peft_type="ia3"))
    assert told(inspected(tmp_path, none, peft_type="cpt"))[0].startswith("error: a CPT adapter puts vectors before")
    assert told(inspected(tmp_path, lora("q_proj"), target_modules=["q_proj"], enable_lora=[True]))
    assert not told(inspected(tmp_path, lora("q_proj"), target_modules=["q_proj"], enable_lora=False))


def test_matrices_come_in_pairs_of_one_rank(tmp_path: Path) -> None:
    shapes = lora("q_proj")
    odd = {**shapes, f"{LAYER}.q_proj.lora_B.weight": (16, 5)}
    assert told(inspected(tmp_path, odd, target_modules=["q_proj"])) == [
        "error: rank of model.layers.0.self_attn.q_proj: lora_A says 4, and lora_B 5"
    ]
    del shapes[f"{LAYER}.q_proj.lora_B.weight"]
    assert told(inspected(tmp_path, shapes, target_modules=["q_proj"])) == [
        "error: model.layers.0.self_attn.q_proj has lora_A without lora_B: it has no effect"
    ]
    up = lora("q_proj", "v_proj")
    del up[f"{LAYER}.v_proj.lora_A.weight"]
    embedding = {f"{LAYER}.q_proj.lora_embedding_B": (16, 4)}
    assert told(inspected(tmp_path, {**up, **embedding}, target_modules=["q_proj"])) == [
        "error: model.layers.0.self_attn.v_proj has lora_B without lora_A: it has no effect",
        "error: model.layers.0.self_attn.q_proj has lora_embedding_B without lora_embedding_A: it has no effect",
    ]
    flat = {**lora("q_proj"), f"{LAYER}.v_proj.lora_A.weight": (4,), f"{LAYER}.v_proj.lora_B.weight": (16,)}
    assert not told(inspected(tmp_path, flat, target_modules=["q_proj"]))


def test_a_layer_has_one_pair(tmp_path: Path) -> None:
    twice = {**lora("q_proj"), f"{LAYER}.q_proj.lora_A.default.weight": (4, 16)}
    assert told(inspected(tmp_path, twice, target_modules=["q_proj"])) == [
        "error: two of its tensors are model.layers.0.self_attn.q_proj.lora_A.weight, for one layer"
    ]


@pytest.mark.parametrize(
    ("saved", "task", "severity"),
    [
        (["embed_tokens", "lm_head"], "CAUSAL_LM", "error"),
        (["model.embed_tokens", "lm_head"], None, "error"),
        (["classifier", "lm_head"], "SEQ_CLS", "warning"),
    ],
)
def test_what_was_trained_as_a_whole_is_missed(
    tmp_path: Path, saved: list[str], task: str | None, severity: str
) -> None:
    shapes = {**lora("q_proj"), "base_model.model.lm_head.weight": (48, 16)}
    found = inspected(tmp_path, shapes, target_modules=["q_proj"], modules_to_save=saved, task_type=task)
    absent = saved[0].rpartition(".")[2]
    assert told(found)[0] == f"{severity}: modules_to_save names {absent}, of which there are no tensors"
    found = inspected(tmp_path, shapes, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type=task)
    assert not any("modules_to_save" in one for one in told(found))


def test_an_embedding_and_a_head_have_as_many_rows(tmp_path: Path) -> None:
    whole = {"base_model.model.model.embed_tokens.weight": (48, 16), "base_model.model.lm_head.weight": (50, 16)}
    words = told(inspected(tmp_path, {**lora("q_proj"), **whole}, target_modules=["q_proj"]))
    assert words[0] == "error: vocabulary: its embedding or head says 48, and the other 50"
    assert words[1:] == ["warning: there is no tokenizer beside it"]


def test_names_are_short_without_what_peft_puts_around_them(tmp_path: Path) -> None:
    assert short_name("base_model.model.a.lora_A.default.weight") == "a.lora_A.weight"
    assert short_name("base_model.model.a.lora_B.default.weight") == "a.lora_B.weight"
    assert short_name("base_model.model.modules_to_save.default.a") == short_name("modules_to_save.a") == "a"
    assert adapter_file(tmp_path) is None
    folder = write_adapter(tmp_path / "a")
    assert adapter_file(folder) == folder / "adapter_model.bin"
    (folder / "adapter_model.bin").unlink()
    found = inspect_model(folder)
    wanted = "error: there is neither adapter_model.safetensors nor adapter_model.bin"
    assert (told(found), found.layers, found.parameters) == ([wanted], 0, 0)
