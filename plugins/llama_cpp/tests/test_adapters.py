"""LoRA adapters and control vectors give the recorded numbers, can be mixed, and are refused where they do nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge import Author, BackendError, Bridge, Channel, Message, ModelLoadError, Plugins, ReplyStream
from chatbridge.config import SettingsSource, load
from chatbridge.engine.engine import Engine
from chatbridge.testing import (
    Arrays,
    PeftAdapter,
    finish_all,
    greedy_ids,
    greedy_request,
    llama_metadata,
    sentencepiece_metadata,
    write_gguf,
    write_lora,
)

from .conftest import EXACT, RECORDS, Load, recorded_adapter, recorded_sizes

TOLERANCE = 2e-4


def adapter(folder: Path, recorded: PeftAdapter, name: str = "adapter") -> Path:
    return write_lora(folder / f"{name}.gguf", recorded.pairs, recorded.alpha)


def scaled_by(factor: float, recorded: PeftAdapter) -> PeftAdapter:
    """An adapter that does so many times as much; at 0 it is as before training."""
    pairs = {name: array * factor if name.endswith("lora_b") else array for name, array in recorded.pairs.items()}
    return replace(recorded, pairs=pairs)


def vector(folder: Path, directions: Arrays, **metadata: Any) -> Path:
    return write_gguf(folder / "vector.gguf", metadata, directions, architecture="controlvector")


def logits(model: Any, ids: Any) -> np.ndarray:
    return model.logits(model.new_state(), [int(i) for i in ids])


@pytest.fixture
def alpaca(tmp_path: Path) -> Path:
    return adapter(tmp_path, recorded_adapter("alpaca-lora"), "alpaca")


@pytest.mark.parametrize("name", ["lora.p0.logits_merged", "lora16.p0.logits"])
def test_alpaca_adapters_give_the_recorded_logits(
    tmp_path: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load, name: str
) -> None:
    file = "alpaca-lora-r16-qkvo" if name.startswith("lora16") else "alpaca-lora"
    path = adapter(tmp_path, recorded_adapter(file))
    model = model_of(meta_path, **EXACT, lora=path)
    np.testing.assert_allclose(logits(model, reference["p0.input_ids"]), reference[name], atol=TOLERANCE)


def test_an_adapted_model_answers_as_recorded(
    alpaca: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    model, base = model_of(meta_path, **EXACT, lora=alpaca), model_of(meta_path, **EXACT)
    prompt = reference["p0.input_ids"].tolist()
    recorded = reference["lora.p0.greedy"].tolist()
    assert prompt + greedy_ids(model, [prompt], max_tokens=len(recorded) - len(prompt))[0] == recorded
    assert model.info.details["lora"] == f"{alpaca} on 4 tensors, rank 8, alpha 16, scale 1"
    assert model.info.fingerprint != base.info.fingerprint
    assert model.info.vocabulary == base.info.vocabulary


def test_chinese_llama_gives_the_recorded_logits(
    tmp_path: Path, meta_arrays: Arrays, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    import sentencepiece

    # Seven adapted matrices a layer; the embedding and the output are replaced, by more rows.
    chinese = sentencepiece.SentencePieceProcessor(model_file=str(RECORDS / "chinese-llama-lora" / "tokenizer.model"))
    recorded = recorded_adapter("chinese-llama-lora")
    metadata = llama_metadata(**recorded_sizes()) | sentencepiece_metadata(chinese)
    path = write_gguf(tmp_path / "chinese.gguf", metadata, meta_arrays | recorded.replaced)
    model = model_of(path, **EXACT, lora=adapter(tmp_path, recorded))
    ids = reference["chinese_llama.input_ids"].tolist()
    np.testing.assert_allclose(logits(model, ids), reference["chinese_llama.logits_unmerged_fp32"], atol=TOLERANCE)
    greedily = reference["chinese_llama.greedy"].tolist()
    assert ids + greedy_ids(model, [ids], max_tokens=len(greedily) - len(ids))[0] == greedily


def test_a_scale_is_a_factor_and_adapters_add_up(
    tmp_path: Path, alpaca: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    ids = reference["p0.input_ids"]
    half = adapter(tmp_path, scaled_by(0.5, recorded_adapter("alpaca-lora")), "half")
    scaled = model_of(meta_path, **EXACT, lora=[{"path": alpaca, "scale": 0.5}])
    twice = model_of(meta_path, **EXACT, lora=[half, half])
    np.testing.assert_allclose(logits(scaled, ids), logits(model_of(meta_path, **EXACT, lora=half), ids), atol=1e-5)
    np.testing.assert_allclose(logits(twice, ids), reference["lora.p0.logits_merged"], atol=TOLERANCE)
    assert scaled.info.fingerprint != model_of(meta_path, **EXACT, lora=alpaca).info.fingerprint


def test_a_control_vector_is_added_behind_its_layer(
    tmp_path: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    ids = reference["p0.input_ids"]
    direction = np.random.default_rng(1).standard_normal(recorded_sizes()["dim"])
    path = vector(tmp_path, {"direction.1": direction}, **{"controlvector.model_hint": "llama"})
    strong = model_of(meta_path, **EXACT, control_vectors=[{"path": path, "scale": 2.0}])
    twice = model_of(meta_path, **EXACT, control_vectors=[path, path])
    np.testing.assert_allclose(logits(strong, ids), logits(twice, ids), atol=1e-4)
    assert np.abs(logits(strong, ids) - reference["p0.logits"]).max() > 0.1
    assert strong.info.details["control vector"] == f"{path} on 1 layers, scale 2"


def test_channels_with_different_adapters_are_answered_by_one_base(
    tmp_path: Path, alpaca: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    other = adapter(tmp_path, recorded_adapter("alpaca-lora-r16-qkvo"), "other")
    direction = np.random.default_rng(1).standard_normal(recorded_sizes()["dim"])
    steering = vector(tmp_path, {"direction.1": direction})
    adapters = {"eight": alpaca, "sixteen": {"lora": other}, "steered": {"control_vectors": steering}}
    model = model_of(meta_path, **EXACT, adapters=adapters)
    ids = reference["p0.input_ids"]
    recorded = {"": "p0.logits", "eight": "lora.p0.logits_merged", "sixteen": "lora16.p0.logits"}
    for name in [*recorded, *reversed(recorded)]:
        state = model.new_state(adapter=name)
        np.testing.assert_allclose(model.logits(state, ids.tolist()), reference[recorded[name]], atol=TOLERANCE)
    alone = {
        "": model_of(meta_path, **EXACT),
        "eight": model_of(meta_path, **EXACT, lora=alpaca),
        "sixteen": model_of(meta_path, **EXACT, lora=other),
        "steered": model_of(meta_path, **EXACT, control_vectors=steering),
    }
    names = list(alone) * 2
    asked = [greedy_request(ids.tolist(), max_tokens=12, name=str(i), bos=model.info.bos) for i in range(len(names))]
    requests = [replace(request, adapter=name) for request, name in zip(asked, names, strict=True)]
    ended = finish_all(Engine(model), requests)
    answers = [list(ended[str(i)].reply.tokens) for i in range(len(names))]
    assert answers == [greedy_ids(alone[name], [ids.tolist()], max_tokens=12)[0] for name in names]
    assert len({tuple(answer) for answer in answers}) > 2
    assert model.info.details["adapter eight"] == f"lora {alpaca} on 4 tensors, rank 8, alpha 16, scale 1"
    assert model.info.fingerprint == alone[""].info.fingerprint


async def test_two_channels_are_answered_in_one_process(
    tmp_path: Path, alpaca: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    text = f"""\
models:
  llama: {{backend: llama_cpp, path: "{meta_path}", threads: 1, kv_type_k: f32, kv_type_v: f32,
           adapters: {{alpaca: "{alpaca}"}}}}
templates: {{talk: {{user: "User: {{text}}\\n", assistant: "Assistant: {{text}}\\n"}}}}
defaults: {{template: talk, reply_to: always, sampling: {{temperature: 0, max_tokens: 12}}}}
bots: {{b: {{frontend: repl, channels: {{one: {{adapter: alpaca}}}}}}}}
"""
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    plugins = Plugins()
    finished = {}
    async with Bridge(SettingsSource(load(tmp_path / "bots.yaml", plugins)), plugins) as bridge:
        for name in ("one", "two"):
            message = Message(name, Channel(name), Author("ann", "Ann"), "hi")
            turn = await bridge.bot("b").receive(message)
            assert isinstance(turn, ReplyStream)
            async for chunk in turn:
                finish = chunk.finish
            assert finish is not None
            finished[name] = finish
        assert len(bridge.models.loaded()) == 1
    assert finished["one"].reply.tokens != finished["two"].reply.tokens
    assert finished["two"].usage.cached == 0, "the same prompt, which another adapter has read"


def test_a_named_adapter_adds_to_the_models_own(
    tmp_path: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    half = adapter(tmp_path, scaled_by(0.5, recorded_adapter("alpaca-lora")), "half")
    steering = vector(tmp_path, {"direction.1": np.random.default_rng(1).standard_normal(recorded_sizes()["dim"])})
    both = {"lora": half, "control_vectors": steering}
    model = model_of(meta_path, **EXACT, **both, adapters={"more": half, "steered": {"control_vectors": steering}})
    ids = reference["p0.input_ids"]
    for name, same in (
        ("more", {"lora": [half, half], "control_vectors": steering}),
        ("steered", {"lora": half, "control_vectors": [steering, steering]}),
    ):
        expected = logits(model_of(meta_path, **EXACT, **same), ids)
        np.testing.assert_allclose(model.logits(model.new_state(adapter=name), ids.tolist()), expected, atol=1e-4)


def test_a_saved_state_belongs_to_its_adapter(
    alpaca: Path, meta_path: Path, reference: dict[str, np.ndarray], model_of: Load
) -> None:
    model = model_of(meta_path, **EXACT, adapters={"alpaca": alpaca})
    ids = reference["p0.input_ids"].tolist()
    state = model.new_state(adapter="alpaca")
    model.logits(state, ids[:-1])
    saved = state.fork().save()
    with pytest.raises(BackendError, match="another model"):
        model.new_state(saved)
    restored = model.new_state(saved, "alpaca")
    np.testing.assert_array_equal(model.logits(restored, ids[-1:]), model.logits(state, ids[-1:]))


def test_a_named_adapter_that_does_nothing_is_refused(
    tmp_path: Path, alpaca: Path, meta_path: Path, model_of: Load
) -> None:
    idle = {"lora": [{"path": alpaca, "scale": 0}]}
    refused(model_of, meta_path, "alpaca.gguf", "changes nothing", adapters={"good": alpaca, "idle": idle})
    with pytest.raises(ValueError, match="an adapter needs lora or control_vectors"):
        model_of(meta_path, adapters={"empty": {}})


def refused(model_of: Load, base: Path, *phrases: str, **options: Any) -> None:
    with pytest.raises(ModelLoadError) as caught:
        model_of(base, **options)
    for phrase in phrases:
        assert phrase in str(caught.value)


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path, meta_path: Path, model_of: Load) -> None:
    untrained = adapter(tmp_path, scaled_by(0, recorded_adapter("alpaca-lora")), "untrained")
    refused(model_of, meta_path, "untrained.gguf", "changes nothing", lora=untrained)


def test_a_scale_of_nothing_is_refused(alpaca: Path, meta_path: Path, model_of: Load) -> None:
    refused(model_of, meta_path, "alpaca.gguf", "changes nothing", lora=[{"path": alpaca, "scale": 0}])


def test_a_model_is_no_adapter_and_an_adapter_no_model(alpaca: Path, meta_path: Path, model_of: Load) -> None:
    refused(model_of, meta_path, "no LoRA adapter", "chatbridge model convert", lora=meta_path)
    refused(model_of, alpaca, "an adapter, not a model", "lora:")
    refused(model_of, meta_path, "no control vector", "llama-cvector-generator", control_vectors=meta_path)


@pytest.mark.parametrize(
    ("pairs", "phrases"),
    [
        ({"blk.7.attn_q.weight": (64, 64)}, ("blk.7.attn_q.weight", "take the model that it was trained on")),
        ({"blk.0.attn_q.weight": (64, 128)}, ("incorrect shape", "take the model that it was trained on")),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    tmp_path: Path, meta_path: Path, model_of: Load, pairs: dict[str, tuple[int, int]], phrases: tuple[str, ...]
) -> None:
    arrays: Arrays = {}
    for name, (rows, columns) in pairs.items():
        arrays |= {f"{name}.lora_a": np.ones((4, columns)), f"{name}.lora_b": np.ones((rows, 4))}
    refused(model_of, meta_path, *phrases, lora=write_lora(tmp_path / "adapter.gguf", arrays, 8))


@pytest.mark.parametrize(("name", "length"), [("direction.1", 63), ("direction.2", 64), ("direction.x", 64)])
def test_a_control_vector_of_another_model_is_refused(
    tmp_path: Path, meta_path: Path, model_of: Load, name: str, length: int
) -> None:
    path = vector(tmp_path, {name: np.ones(length)})
    refused(model_of, meta_path, name, "fits no layer", control_vectors=path)


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path, alpaca: Path, meta_path: Path, model_of: Load) -> None:
    for _ in range(20):
        refused(model_of, meta_path, "no such file", lora=tmp_path / "absent.gguf")
    assert model_of(meta_path, lora=alpaca).info.details["lora"]
