"""The same numbers as Meta's, Hugging Face's, PEFT's and BELLE's own code gave for the same weights, array by array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chatbridge_transformers.model import TransformersModel

from .conftest import BLOOM, LLAMA, Load, arrays, change, copy_of, greedy, opened, recorded

TOLERANCE = 2e-4
"""Of logits in float32, as recorded with them: Meta's and Hugging Face's code differ by 1.4e-5."""

ROUNDED = 0.1
"""Where the recorded weights were rounded to 16 bits after an adapter was merged into them, and ours were not."""

CHINESE = ("chinese_llama", "chinese_alpaca")


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def logits(model: TransformersModel, ids: Any, adapter: str = "") -> np.ndarray:
    state = model.new_state(None, adapter)
    try:
        return model.logits(state, [int(i) for i in ids])
    finally:
        state.release()


def generated(row: np.ndarray, prompt: Sequence[int], eos: Sequence[int]) -> list[int]:
    """What a recorded row has behind its prompt, up to the first end."""
    found = row.tolist()[len(prompt) :]
    ends = [at for at, token in enumerate(found) if token in eos]
    return found[: ends[0] + 1] if ends else found


def weight(model: TransformersModel, name: str) -> np.ndarray:
    """A matrix of the loaded model."""
    return model._open().way._causal.model.get_parameter(name).detach().float().numpy()  # type: ignore[attr-defined]


@pytest.mark.parametrize("prompt", ["p0", "p1"])
def test_llama_computes_as_metas_code_and_hugging_faces(
    llama: TransformersModel, reference: dict[str, np.ndarray], prompt: str
) -> None:
    found = logits(llama, reference[f"{prompt}.input_ids"][0])
    close(found, reference[f"hf.{prompt}.logits"][0])
    close(found, reference[f"{prompt}.logits"][0])
    steps = reference[f"{prompt}.incremental_logits"][0]
    ids = reference[f"{prompt}.input_ids"][0].tolist()
    state = llama.new_state()
    pieces = [ids[: len(ids) - len(steps) + 1], *([token] for token in ids[len(ids) - len(steps) + 1 :])]
    close(np.stack([llama.logits(state, piece)[-1] for piece in pieces]), steps)
    state.release()


def test_llama_goes_on_as_recorded(llama: TransformersModel, reference: dict[str, np.ndarray]) -> None:
    ids = reference["p0.input_ids"][0].tolist()
    expected = generated(reference["hf.p0.greedy"][0], ids, llama.info.eos)
    assert greedy(llama, ids, len(expected)) == expected
    meta = recorded(LLAMA / "reference_meta_1shard.json")["greedy_single"]["ids"]
    assert greedy(llama, ids, len(meta) - len(ids)) == meta[len(ids) :]


def test_a_padded_batch_goes_on_as_recorded(llama: TransformersModel, reference: dict[str, np.ndarray]) -> None:
    padded = reference["hf.batch.input_ids"].shape[1]
    for row, mask, whole in zip(
        reference["hf.batch.input_ids"],
        reference["hf.batch.attention_mask"],
        reference["hf.batch.greedy"],
        strict=True,
    ):
        ids = row[mask == 1].tolist()
        expected = generated(whole, [0] * padded, llama.info.eos)
        assert greedy(llama, ids, len(expected)) == expected


@pytest.mark.parametrize(("name", "array"), [("alpaca", "lora.p0.logits_unmerged"), ("qkvo", "lora16.p0.logits")])
def test_adapters_of_single_conversations_compute_as_peft(
    llama: TransformersModel, reference: dict[str, np.ndarray], name: str, array: str
) -> None:
    ids = reference["p0.input_ids"][0]
    close(logits(llama, ids, name), reference[array][0])
    close(logits(llama, ids), reference["hf.p0.logits"][0])


def test_an_adapter_goes_on_as_recorded(llama: TransformersModel, reference: dict[str, np.ndarray]) -> None:
    ids = reference["p0.input_ids"][0].tolist()
    expected = generated(reference["lora.p0.greedy"][0], ids, llama.info.eos)
    assert greedy(llama, ids, len(expected), "alpaca") == expected


def test_a_merged_adapter_gives_the_recorded_matrices(model_of: Load, reference: dict[str, np.ndarray]) -> None:
    model = model_of(LLAMA / "hf", lora=LLAMA / "alpaca-lora")
    close(logits(model, reference["p0.input_ids"][0]), reference["lora.p0.logits_merged"][0])
    matrices = [name for name in reference if name.startswith("lora.merged.")]
    assert matrices
    for name in matrices:
        *_, layer, projection = name.split(".")
        close(weight(model, f"model.layers.{layer}.self_attn.{projection}.weight"), reference[name])


@pytest.fixture(scope="module", params=CHINESE)
def chinese(request: pytest.FixtureRequest) -> Iterator[tuple[str, TransformersModel]]:
    """Chinese-LLaMA, and Chinese-Alpaca on top of it."""
    folders = [LLAMA / f"{name.replace('_', '-')}-lora" for name in CHINESE[: CHINESE.index(request.param) + 1]]
    model = opened(LLAMA / "hf", lora=folders)
    yield request.param, model
    model.close()


def test_chinese_models_compute_as_their_own_merge(
    chinese: tuple[str, TransformersModel], reference: dict[str, np.ndarray]
) -> None:
    name, model = chinese
    assert recorded(LLAMA / "tokenizer_cases.json")["sizes"][name] == model.info.vocab_size == model.tokenizer.size
    ids = reference[f"{name}.input_ids"][0]
    found = logits(model, ids)
    close(found, reference[f"{name}.logits"][0], ROUNDED)
    close(weight(model, "model.layers.0.self_attn.q_proj.weight"), reference[f"{name}.layer0_q_proj"], ROUNDED)
    if (exact := reference.get(f"{name}.logits_unmerged_fp32")) is not None:
        close(found, exact[0])


def test_chinese_models_go_on_as_recorded_up_to_a_near_tie(
    chinese: tuple[str, TransformersModel], reference: dict[str, np.ndarray]
) -> None:
    name, model = chinese
    ids = reference[f"{name}.input_ids"][0].tolist()
    expected = generated(reference[f"{name}.greedy"][0], ids, model.info.eos)
    found = logits(model, [*ids, *expected])[len(ids) - 1 : -1]
    margins = np.diff(np.sort(found, axis=1)[:, -2:])[:, 0]
    near = next((at for at, margin in enumerate(margins) if margin < ROUNDED), len(expected))
    assert near > 0, "the record is no good: its first token is chance"
    assert found.argmax(axis=1).tolist()[:near] == expected[:near]


def test_every_recorded_array_of_llama_is_compared() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for name in arrays(LLAMA / "reference_hf.npz"):
        plain = name.replace("p1", "{prompt}").replace("p0", "{prompt}")
        for kind in CHINESE:
            plain = plain.replace(kind, "{name}")
        assert name in source or plain in source or name.startswith("lora.merged."), name


@pytest.fixture(scope="module", params=["hf", "hf-3heads"])
def belle(request: pytest.FixtureRequest) -> Iterator[tuple[TransformersModel, dict[str, np.ndarray]]]:
    """BLOOM with a number of heads that is a power of two, and with another; the second has no tokenizer of its own."""
    model = opened(BLOOM / request.param, tokenizer=BLOOM / "hf")
    yield model, arrays(BLOOM / f"reference_{request.param}.npz")
    model.close()


@pytest.mark.parametrize("prompt", ["p0", "p1"])
def test_bloom_computes_as_recorded(belle: tuple[TransformersModel, dict[str, np.ndarray]], prompt: str) -> None:
    model, reference = belle
    ids = reference[f"{prompt}.input_ids"][0].tolist()
    close(logits(model, ids), reference[f"{prompt}.logits"][0])
    expected = generated(reference[f"{prompt}.greedy"][0], ids, model.info.eos)
    assert greedy(model, ids, len(expected)) == expected


def test_bloom_computes_a_batch_as_recorded(belle: tuple[TransformersModel, dict[str, np.ndarray]]) -> None:
    model, reference = belle
    rows = [row[mask == 1].tolist() for row, mask in zip(
        reference["batch.input_ids"], reference["batch.attention_mask"], strict=True
    )]  # fmt: skip
    way = model._open().way
    states = [model.new_state() for _ in rows]
    longest = max(map(len, rows))
    with torch.inference_mode():
        # All but the last five one by one and beside one another, with others as long as they are in the batch.
        for start, end in pairwise([0, 1, longest - 5, *range(longest - 4, longest + 1)]):
            part = [(state, ids[start:end]) for state, ids in zip(states, rows, strict=True) if ids[start:end]]
            found = way.forward(part, range(len(part)))
            for row, (state, tokens) in enumerate(part):
                state.length += len(tokens)
                number = states.index(state)
                at = len(reference["batch.input_ids"][number]) - len(rows[number]) + state.length - 1
                close(found[row].numpy(), reference["batch.logits"][number, at])


def test_bloom_without_the_prefix_of_its_names_is_the_same(tmp_path: Path, model_of: Load) -> None:
    folder = copy_of(BLOOM / "hf", tmp_path / "bloom")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    bare = {name.removeprefix("transformer."): value for name, value in weights.items() if "lm_head" not in name}
    torch.save(bare, folder / "pytorch_model.bin")
    reference = arrays(BLOOM / "reference_hf.npz")
    close(logits(model_of(folder), reference["p0.input_ids"][0]), reference["p0.logits"][0])


def test_the_first_class_names_and_wrong_ids_are_read_right(
    tmp_path: Path, model_of: Load, reference: dict[str, np.ndarray]
) -> None:
    # As decapoda-research's LLaMA, of which most early adapters were made.
    folder = copy_of(LLAMA / "hf", tmp_path / "m", architectures=["LLaMAForCausalLM"], bos_token_id=0, eos_token_id=1)
    names = {"bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LLaMATokenizer"}
    change(folder / "tokenizer_config.json", **names)
    (folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    model = model_of(folder)
    assert (model.info.bos, model.info.eos) == (1, (2,))
    assert "config.json: eos_token_id: 1 is <s>, and 2 is used" in model.info.details["wrong ids"]
    close(logits(model, reference["p0.input_ids"][0]), reference["hf.p0.logits"][0])
