"""The two forms of LLaMA against each other, as Meta's code and transformers' conversion have left them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import ModelLoadError
from chatbridge.model_files.arrays import StoredTensor, Weights
from chatbridge.model_files.sentencepiece_files import count_pieces, read_sentencepiece
from chatbridge.model_tools.matrices import Matrix, Turned, floats, spans
from chatbridge.model_tools.merging.llama_layouts import (
    LlamaSizes,
    from_meta,
    params_for,
    sizes_of,
    to_meta,
    usual_parts,
)
from chatbridge.model_tools.merging.perplexity import SENTENCES, encode, logits, perplexity
from chatbridge.model_tools.progress import Silent
from chatbridge.model_tools.tables import FORMS, LLAMA_LAYER, LLAMA_TOP
from chatbridge.testing import fixtures

LLAMA = fixtures() / "llama"


@pytest.fixture
def hub() -> Iterator[Weights]:
    with Weights.of_files(sorted((LLAMA / "hf").glob("*.bin"))) as weights:
        yield weights


@pytest.fixture
def sizes(hub: Weights) -> LlamaSizes:
    return sizes_of(json.loads((LLAMA / "hf" / "config.json").read_text()), hub)


def whole(matrix: Matrix) -> np.ndarray:
    return matrix.read(0, matrix.shape[0])


@pytest.mark.parametrize("folder", ["meta-1shard", "meta-2shard"])
def test_metas_form_is_hugging_faces_and_the_other_way_round(folder: str, hub: Weights, sizes: LlamaSizes) -> None:
    params = json.loads((LLAMA / folder / "params.json").read_text())
    with ExitStack() as files:
        parts = [files.enter_context(Weights.of_files([file])) for file in sorted((LLAMA / folder).glob("*.pth"))]
        seen = from_meta(parts, params)
        assert sizes_of(params, seen) == replace(sizes, context=2048)  # which Meta's form does not say
        for name in sizes.names:
            assert (whole(seen[name]) == hub[name].read()).all()
        for part, made in zip(parts, to_meta(hub, sizes, len(parts)), strict=True):
            assert {*part} - {*made} == {"rope.freqs"}
            for name in made:
                assert (whole(made[name]) == part[name].read()).all()


@given(st.integers(0, 63), st.integers(0, 63))
def test_any_rows_can_be_read_of_what_is_joined_turned_and_cut(first: int, last: int) -> None:
    first, last = sorted((first, last))
    with ExitStack() as files:
        files_of = sorted((LLAMA / "meta-2shard").glob("*.pth"))
        parts = [files.enter_context(Weights.of_files([file])) for file in files_of]
        seen = from_meta(parts, {"n_heads": 4})
        for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
            assert (seen[name].read(first, last + 1) == whole(seen[name])[first : last + 1]).all()
            again = Turned(seen[name], 4, to_halves=False)
            assert (Turned(again, 4, to_halves=True).read(first, last + 1) == whole(seen[name])[first : last + 1]).all()
            together = [seen[name].read(*span) for span in spans(seen[name], 1 << 10)]
            assert len(together) > 1
            assert (np.concatenate(together) == whole(seen[name])).all()


def test_what_meta_published_is_told_by_its_width() -> None:
    large = LlamaSizes(layers=40, width=5120, heads=40, kv_heads=40, inner=13824, rows=49953)
    assert usual_parts(large) == 2
    assert params_for(large) == {"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-6,
                                 "vocab_size": -1}  # fmt: skip
    assert params_for(LlamaSizes(32, 4096, 32, 32, 11008, 32000))["multiple_of"] == 256
    odd = params_for(LlamaSizes(32, 4096, 32, 32, 11009, 32000))
    assert (odd["multiple_of"], int(odd["ffn_dim_multiplier"] * 10922)) == (1, 11009)


@pytest.mark.parametrize(
    "config",
    [
        {}, {"num_attention_heads": 0}, {"num_attention_heads": 5}, {"num_attention_heads": "4"},
        {"num_attention_heads": 4, "num_key_value_heads": 3}, {"num_attention_heads": 4, "num_key_value_heads": 2},
        {"num_attention_heads": 4, "rms_norm_eps": None}, {"num_attention_heads": 4, "rope_theta": "x"},
        {"num_attention_heads": True}, {"num_attention_heads": 64}, {"num_attention_heads": 4, "rms_norm_eps": 1e400},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_are_no_llamas_are_refused_in_words(config: dict[str, object], hub: Weights) -> None:
    with pytest.raises(ModelLoadError):
        sizes_of(config, hub)


@pytest.mark.parametrize("prompt", ["p0", "p1"])
def test_logits_are_those_of_the_original_code(prompt: str, hub: Weights, sizes: LlamaSizes) -> None:
    recorded = np.load(LLAMA / "reference_hf.npz")[f"hf.{prompt}.logits"][0]
    ids = np.load(LLAMA / "reference_meta_1shard.npz")[f"{prompt}.input_ids"][0].tolist()
    before = [5, 6, 7]
    made = logits(hub, sizes, [before, ids], Silent())[len(before) :]
    np.testing.assert_allclose(made, recorded, atol=2e-4)


def test_perplexity_is_that_of_the_recorded_logits(hub: Weights, sizes: LlamaSizes) -> None:
    recorded = np.load(LLAMA / "reference_hf.npz")["hf.p1.logits"][0].astype(np.float64)
    ids = np.load(LLAMA / "reference_meta_1shard.npz")["p1.input_ids"][0].tolist()
    chances = np.exp(recorded) / np.exp(recorded).sum(axis=1, keepdims=True)
    wanted = np.exp(-np.mean([np.log(chances[at, ids[at + 1]]) for at in range(len(ids) - 1)]))
    assert perplexity(hub, sizes, [ids], Silent()) == pytest.approx(wanted, rel=1e-4)
    assert perplexity(hub, sizes, [ids, ids], Silent()) == pytest.approx(wanted, rel=1e-4)


def test_heads_that_share_keys_see_what_each_would_with_keys_of_its_own(hub: Weights, sizes: LlamaSizes) -> None:
    class Doubled:
        def __init__(self, matrix: Matrix) -> None:
            self._matrix, self.dtype, self.shape = matrix, matrix.dtype, (64, 64)

        def read(self, first: int, last: int) -> np.ndarray:
            half = self._matrix.read(0, 32).reshape(2, 16, 64)
            return np.repeat(half, 2, axis=0).reshape(64, 64)[first:last]

    class Half(Doubled):
        def __init__(self, matrix: Matrix) -> None:
            super().__init__(matrix)
            self.shape = (32, 64)

        def read(self, first: int, last: int) -> np.ndarray:
            return self._matrix.read(first, last)

    shared, own = dict[str, Matrix](hub), dict[str, Matrix](hub)
    for name in hub:
        if "k_proj" in name or "v_proj" in name:
            shared[name], own[name] = Half(hub[name]), Doubled(hub[name])
    grouped = sizes_of({"num_attention_heads": 4, "num_key_value_heads": 2}, shared)
    ids = [[1, 40, 300, 17, 9]]
    np.testing.assert_allclose(logits(shared, grouped, ids, Silent()), logits(own, sizes, ids, Silent()), atol=1e-5)
    parts = to_meta(shared, grouped, 2)
    assert parts[0]["layers.0.attention.wk.weight"].shape == (16, 64)
    back = from_meta(parts, params_for(grouped))
    assert (floats(back["model.layers.0.self_attn.k_proj.weight"], 0, 32) == hub[
        "model.layers.0.self_attn.k_proj.weight"].floats(0, 32)).all()  # fmt: skip


@pytest.mark.parametrize("model", [LLAMA / "tokenizer.model", LLAMA / "chinese-llama-lora" / "tokenizer.model"])
def test_sentences_are_cut_as_sentencepiece_cuts_them(model: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = sentencepiece.SentencePieceProcessor(str(model))
    pieces = [(text, score) for text, score, _ in read_sentencepiece(model).pieces]
    assert len(pieces) == count_pieces(model)
    for text in (*SENTENCES, "你好！今天过得怎么样？ The fox reads.", "a"):
        assert encode(pieces, text) == [1, *theirs.encode(text)]


def test_what_is_cut_by_columns_is_read_once(hub: Weights, sizes: LlamaSizes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    plain = StoredTensor._bytes

    def counted(tensor: StoredTensor, start: int, count: int) -> bytearray:
        read[tensor.name] += count
        return plain(tensor, start, count)

    monkeypatch.setattr(StoredTensor, "_bytes", counted)
    for part in to_meta(hub, sizes, 2):
        for matrix in part.values():
            whole(matrix)
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.o_proj.weight"):
        assert read[name] == hub[name].nbytes


def test_one_table_has_the_names_of_all_forms() -> None:
    """What Hugging Face's form, Meta's and GGUF call a tensor is said once, and no name stands twice in it."""
    for names in ([getattr(one, form) for one in (*LLAMA_TOP, *LLAMA_LAYER)] for form in ("hub", "gguf")):
        assert len(names) == len({*names}) == 12
    for form in FORMS:
        if form.architecture == "llama":
            targets = {entry.target for entry in form.block.values() if entry.needed}
            assert targets == {f"{one.gguf}.weight" for one in LLAMA_LAYER}
