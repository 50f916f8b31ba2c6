"""RWKV's World vocabularies (`tokenizer.ggml.model: rwkv`): the longest piece that comes next, and recorded ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chatbridge_llama_cpp.model import LlamaModel
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbridge import LocalModel
from chatbridge.testing import LocalModelContract

from .architectures import VOCABULARY, write_architecture
from .conftest import EXACT, model_with, opened

RECORDED = {
    261: b"\n\n", 267: b"  ", 632: b"12", 654: b"34", 676: b"56", 698: b"78", 710: b"90", 3255: b"\xe9\xbe",
    3319: b"\xf0\x9f", 4571: b" hi", 5585: b"Ass", 5641: b"Bob", 10267: "世".encode(), 10464: "你".encode(),
    11685: "好".encode(), 14610: "界".encode(), 19126: "！".encode(), 19137: "，".encode(), 24281: b"User",
    32890: b"Alice", 38685: b" hello", 41693: b"istant", 49366: b"leading",
}  # fmt: skip
"""The pieces of the recorded texts, by their ids in the World vocabulary; 1 to 256 are the bytes."""
MORE = [b"<s", b"s>", b"[P", b"AD", b"PAD", b"D1]", b"\\x", b"'\"", b"\t\t", "世界人".encode(), b"\xa5\xbd", b"llo"]
PIECES: Mapping[bytes, int] = {
    **{bytes([byte]): byte + 1 for byte in range(256)},
    **{piece: 257 + i for i, piece in enumerate([*RECORDED.values(), *MORE])},
}
LONGEST = max(map(len, PIECES))
FRAGMENTS = [
    "<s>",
    "<s",
    "[PAD1]",
    "[PAD2]",
    "User",
    "Assistant",
    " hello",
    "\n",
    "\\x3c",
    "\\",
    "'",
    "你好",
    "🦊",
    "\t",
]
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TEXTS = st.one_of(ANY, st.lists(st.one_of(st.sampled_from(FRAGMENTS), ANY), max_size=12).map("".join))


def world_metadata(size: int = VOCABULARY) -> dict[str, Any]:
    """`tokenizer.ggml.*` as llama.cpp's converter writes it, with an end of text first and paddings last."""
    left = size - len(PIECES) - 1
    paddings = [f"[PAD{left - i}]" for i in range(left)]
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": ["<s>", *(repr(piece)[2:-1] for piece in PIECES), *paddings],
        "tokenizer.ggml.token_type": [3, *[1] * len(PIECES), *[5] * left],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": PIECES[b"\n\n"],
    }


def longest_first(raw: bytes) -> list[int]:
    """The reference: at each place the longest piece (BlinkDL/ChatRWKV, rwkv_tokenizer.py)."""
    ids, at = [], 0
    while at < len(raw):
        piece = max((raw[at : at + n] for n in range(1, LONGEST + 1) if raw[at : at + n] in PIECES), key=len)
        ids.append(PIECES[piece])
        at += len(piece)
    return ids


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    model = model_with(tmp_path_factory.mktemp("world"), world_metadata())
    yield model
    model.close()


def test_recorded_texts_give_the_recorded_ids(model: LlamaModel) -> None:
    ours = {number: PIECES[piece] for number, piece in RECORDED.items()}
    path = Path(__file__).parent / "fixtures" / "world_cases.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))["cases"]
    for case in recorded:
        ids = model.tokenizer.encode(case["text"], start=True)
        assert ids == [ours.get(number, number) for number in case["ids"]], case["text"]
    assert len(recorded) > 5


@given(text=TEXTS)
@settings(deadline=None)
@example(text="<s><s>[PAD1]<s> \\x3c' \"\n\n")
def test_any_text_gives_the_longest_pieces(model: LlamaModel, text: str) -> None:
    for start in (True, False):
        ids = model.tokenizer.encode(text, start=start)
        assert ids == longest_first(text.encode())
        assert model.tokenizer.decode(ids) == text.encode()


def test_names_of_tokens_without_text_are_text(model: LlamaModel) -> None:
    tokenizer = model.tokenizer
    assert tokenizer.special("<s>") == 0
    assert tokenizer.encode("<s>" * 2, start=True) == [PIECES[b"<s"], PIECES[b">"]] * 2
    for text in ("<s>", "[PAD1]", "a<s>b", "<s>" * 3000):
        assert tokenizer.decode(tokenizer.encode(text, start=False)) == text.encode()


def test_a_byte_that_no_piece_begins_with_is_left_to_the_unknown_token(tmp_path: Path) -> None:
    metadata = world_metadata()
    at = PIECES[b"Q"]
    metadata["tokenizer.ggml.tokens"][at] = "Qu"
    model = model_with(tmp_path, metadata)
    assert model.tokenizer.encode("Quay", start=True) == [at, *longest_first(b"ay")]
    assert model.tokenizer.encode("aQb", start=True) == longest_first(b"ab")
    metadata["tokenizer.ggml.tokens"][0], metadata["tokenizer.ggml.token_type"][0] = "<unk>", 2
    model.close()
    model = model_with(tmp_path, metadata)
    assert model.tokenizer.encode("aQb", start=True) == [PIECES[b"a"], 0, PIECES[b"b"]]
    model.close()


class TestRwkv7WithItsOwnVocabulary(LocalModelContract):
    @pytest.fixture
    def model(self, tmp_path: Path) -> LocalModel:
        return opened(write_architecture(tmp_path, "rwkv7", world_metadata()), **EXACT)
