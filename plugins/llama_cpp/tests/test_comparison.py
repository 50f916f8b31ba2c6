"""How far a quantised file is from its source: the numbers against plain NumPy, and what can't be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_llama_cpp.comparison import ROWS, compare, own_text, score, summary, windows
from chatbridge_llama_cpp.model import LlamaModel
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import Conversion, ModelLoadError, inspect_model
from chatbridge.testing import llama_metadata, random_llama, write_gguf

from .architectures import write_architecture
from .conftest import EXACT, Quantize, opened
from .quantizing import WIDE, write_model

Metadata = dict[str, Any]
TEXT = "It was a dark and stormy night; the rain fell in torrents. 北风与太阳正在争论谁更强大。\n" * 12


@pytest.fixture(scope="module")
def tokenizer(random_metadata: Metadata) -> Metadata:
    return {key: value for key, value in random_metadata.items() if key.startswith("tokenizer.")}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, tokenizer: Metadata) -> dict[str, Path]:
    """One model as files of three types, the third of the coarsest kind that NumPy makes."""
    folder = tmp_path_factory.mktemp("compared")
    return {kind: write_model(folder / f"{kind}.gguf", tokenizer, kind=kind) for kind in ("F32", "Q8_0", "Q4_0")}


def job_for(source: Path, made: Path, folder: Path, text: str | None = TEXT, nbytes: int = 1 << 30) -> Metadata:
    if text is not None:
        (folder / "text.txt").write_text(text, encoding="utf-8")
    return {
        "source": str(source), "made": str(made), "folder": str(folder), "bytes": nbytes, "threads": 1,
        "text": str(folder / "text.txt") if text is not None else None,
    }  # fmt: skip


def log_softmax(row: np.ndarray) -> np.ndarray:
    wide = row.astype(np.float64)
    found: np.ndarray = wide - np.log(np.sum(np.exp(wide - wide.max()))) - wide.max()
    return found


def by_hand(source: LlamaModel, made: LlamaModel, text: str, length: int) -> dict[str, Any]:
    """The same numbers, token by token."""
    ids = source.tokenizer.encode(text, start=True)
    bos = source.info.bos
    assert bos is not None
    surprise: list[tuple[float, float]] = []
    divergence: list[float] = []
    agree: list[bool] = []
    for at in range(0, len(ids), length - 1):
        piece = [bos, *ids[at : at + length - 1]]
        first, second = (model.logits(model.new_state(), piece) for model in (source, made))
        for i, target in enumerate(piece[1:]):
            p, q = log_softmax(first[i]), log_softmax(second[i])
            surprise.append((-p[target], -q[target]))
            divergence.append(float(sum(np.exp(a) * (a - b) for a, b in zip(p, q, strict=True))))
            agree.append(p.argmax() == q.argmax())
    means = np.mean(surprise, axis=0)
    return {
        "tokens": len(divergence),
        "source": np.exp(means[0]),
        "made": np.exp(means[1]),
        "mean": np.mean(divergence),
        "p99": np.percentile(divergence, 99),
        "same": np.mean(agree),
    }


def test_the_numbers_are_those_of_plain_numpy(paths: dict[str, Path], tmp_path: Path) -> None:
    told: list[Metadata] = []
    found = compare(job_for(paths["F32"], paths["Q4_0"], tmp_path), told.append)
    models = [opened(paths[kind], **EXACT) for kind in ("F32", "Q4_0")]
    expected = by_hand(*models, TEXT, WIDE["context"])
    for model in models:
        model.close()
    assert expected["tokens"] > 2 * WIDE["context"] > 2 * ROWS
    assert (found["tokens"], found["window"]) == (expected["tokens"], WIDE["context"])
    assert found["text_tokens"] == found["read_tokens"] == found["tokens"]
    for name in ("source", "made"):
        assert found["perplexity"][name] == pytest.approx(expected[name], rel=1e-4)
    assert found["kl_divergence"]["mean"] == pytest.approx(expected["mean"], rel=1e-3)
    assert found["kl_divergence"]["p99"] == pytest.approx(expected["p99"], rel=1e-3)
    assert found["same_top_token"] == pytest.approx(expected["same"], abs=2 / expected["tokens"])
    assert sum(found["histogram"]["counts"]) == found["tokens"]
    nbytes = 4 * WIDE["vocabulary"] * found["tokens"]
    assert [one["begin"][1] for one in told if "begin" in one] == [nbytes, nbytes]
    assert sum(one.get("advance", 0) for one in told) == 2 * nbytes
    assert {file.name for file in tmp_path.iterdir()} == {"text.txt"}


def test_eight_bits_are_nearer_than_four_and_the_same_file_is_the_same(paths: dict[str, Path], tmp_path: Path) -> None:
    found = {kind: compare(job_for(paths["F32"], path, tmp_path), lambda facts: None) for kind, path in paths.items()}
    assert found["F32"]["kl_divergence"]["max"] == 0
    assert found["F32"]["same_top_token"] == 1
    assert 0 < found["Q8_0"]["kl_divergence"]["mean"] < 0.02 * found["Q4_0"]["kl_divergence"]["mean"]
    assert 0.95 < found["Q8_0"]["same_top_token"] < 1.01
    assert found["Q4_0"]["same_top_token"] < found["Q8_0"]["same_top_token"]


def test_divergence_by_hand() -> None:
    source, made = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32)), np.log(np.array([[0.25, 0.75], [0.9, 0.1]]))
    scores = score(source, made.astype(np.float32), [0, 1])
    assert scores.divergence == pytest.approx([0.5 * np.log(2) + 0.5 * np.log(2 / 3), 0], abs=1e-6)
    assert scores.source == pytest.approx(-np.log([0.5, 0.1]), rel=1e-6)
    assert scores.made == pytest.approx(-np.log([0.25, 0.1]), rel=1e-6)
    assert scores.agree.tolist() == [False, True]
    assert summary([scores])["perplexity"]["source"] == pytest.approx((0.5 * 0.1) ** -0.5)


def test_what_the_source_holds_for_impossible_counts_for_nothing() -> None:
    source = np.array([[0, -np.inf, 0]], np.float32)
    assert score(source, np.array([[0, 5, 0]], np.float32), [0]).divergence[0] == pytest.approx(
        np.log(1 + np.exp(5) / 2)
    )
    assert score(source, source, [0]).divergence[0] == 0


@given(st.lists(st.integers(0, 99), max_size=60), st.one_of(st.none(), st.just(7)), st.integers(2, 20))
def test_windows_have_every_token_once(ids: list[int], bos: int | None, length: int) -> None:
    pieces = windows(ids, bos, length)
    assert all(1 < len(piece) <= length for piece in pieces)
    if bos is None:
        left = len(ids) % length == 1
        assert [token for piece in pieces for token in piece] == ids[: len(ids) - left]
    else:
        assert all(piece[0] == bos for piece in pieces)
        assert [token for piece in pieces for token in piece[1:]] == ids


def test_our_own_text_is_in_both_languages() -> None:
    text = own_text()
    assert 2000 < len(text) < 8000
    assert sum("\u4e00" <= character <= "\u9fff" for character in text) > 400
    assert sum(character.isascii() for character in text) > 1500


def test_a_text_that_has_no_room_is_cut_and_told_of(paths: dict[str, Path], tmp_path: Path) -> None:
    row = 4 * WIDE["vocabulary"]
    found = compare(job_for(paths["F32"], paths["Q8_0"], tmp_path, nbytes=row * 40), lambda facts: None)
    assert (found["read_tokens"], found["tokens"]) == (40, 40)
    assert found["text_tokens"] > 400
    with pytest.raises(ModelLoadError, match=r"room for the logits of 15 tokens alone, 1,920 bytes each.*--check-gib"):
        compare(job_for(paths["F32"], paths["Q8_0"], tmp_path, nbytes=row * 16 - 1), lambda facts: None)


def no_number(folder: Path, tokenizer: Metadata) -> Path:
    arrays = random_llama(**WIDE)
    arrays["output_norm.weight"] = np.full(WIDE["dim"], np.nan, np.float32)
    return write_gguf(folder / "nan.gguf", llama_metadata(**WIDE) | tokenizer, arrays)


def test_a_model_that_computes_no_numbers_is_named(paths: dict[str, Path], tmp_path: Path, tokenizer: Metadata) -> None:
    with pytest.raises(ModelLoadError, match=r"nan\.gguf: the model computes what is no number"):
        compare(job_for(paths["F32"], no_number(tmp_path, tokenizer), tmp_path), lambda facts: None)


@pytest.mark.parametrize("architecture", ["gemma2", "mamba", "rwkv7"])
def test_other_architectures_are_quantised_and_compared(tmp_path: Path, tokenizer: Metadata, architecture: str) -> None:
    from chatbridge_llama_cpp.converters import converters

    path = write_architecture(tmp_path, architecture, tokenizer)
    (tmp_path / "text.txt").write_text(TEXT[:400], encoding="utf-8")
    options = {"check": True, "check_text": tmp_path / "text.txt", "threads": 1}
    work = Conversion(inspect_model(path), "q8_0", tmp_path / "made.gguf", options)
    (converter,) = converters()
    converter.convert(work)
    plan, _, check = work.report.steps
    assert plan["bytes"] == (tmp_path / "made.gguf").stat().st_size
    assert plan["tensors"]["Q8_0"] > 4
    assert 0 < check["kl_divergence"]["mean"] < 0.1
    assert check["same_top_token"] > 0.9


# --- by the command line ---------------------------------------------------------------------------------------------


def test_check_prints_the_numbers_draws_them_and_puts_them_into_the_report(
    quantize: Quantize, paths: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    made = tmp_path / "made.gguf"
    code, told, errors = quantize(paths["F32"], "-o", made, "q8_0", "--check-text", tmp_path / "text.txt")
    assert (code, errors) == (0, "")
    (_, _, check) = json.loads((tmp_path / "made.gguf.report.json").read_text())["steps"]
    assert f"compared on {check['tokens']:,} tokens of text.txt\n" in told
    assert f"  same top token   {check['same_top_token']:.2%}\n" in told
    assert f"{check['perplexity']['source']:,.4g} in the source" in told
    picture = tmp_path / "made.gguf.check.svg"
    assert picture.exists() != ("####" in told)
    # Its source says no template, so the one that it was trained with has to be named.
    assert told.endswith(f": chatbridge repl -m {made} -t NAME\n")


@pytest.mark.parametrize(
    ("content", "phrase"),
    [(b"\xff\xfe\x00", "this is no text in UTF-8"), (b" \n", "the file has no text"), (None, "it can't be read")],
    ids=["no text", "empty", "absent"],
)
def test_a_text_that_is_none_is_refused_before_anything_is_made(
    quantize: Quantize, paths: dict[str, Path], tmp_path: Path, content: bytes | None, phrase: str
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    code, _, errors = quantize(paths["F32"], "-o", tmp_path / "made.gguf", "q8_0", "--check-text", text)
    assert code == 1
    assert errors.startswith(f"chatbridge: {text}: ")
    assert phrase in errors
    assert not list(tmp_path.glob("made*"))


def test_what_is_made_stays_where_it_can_not_be_compared(
    quantize: Quantize, paths: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("Short.")
    made = tmp_path / "made.gguf"
    code, _, errors = quantize(paths["F32"], "-o", made, "q8_0", "--check-text", tmp_path / "text.txt")
    assert code == 1
    assert f"{made} is made, and could not be compared: the text has " in errors
    assert made.exists()
    assert [step["step"] for step in json.loads((tmp_path / "made.gguf.report.json").read_text())["steps"]] == [
        "plan",
        "quantise",
    ]
