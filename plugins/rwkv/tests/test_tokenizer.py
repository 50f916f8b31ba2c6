"""The two vocabularies against recorded ids and against the package's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chatbridge_rwkv import package
from chatbridge_rwkv.tokenizer import END_NAME, BpeTokenizer, WorldTokenizer, choose
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import ModelLoadError

from .conftest import TOKENIZER, recorded, there

CASES = recorded("tokenizers.json")


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return WorldTokenizer()


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return BpeTokenizer(there(TOKENIZER))


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the World vocabulary, of which the package's own tokenizer takes less than hundreds of megabytes."""
    lines = (package.folder() / "rwkv_vocab_v20230424.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("world") / "part.txt"
    path.write_text("".join([*lines[:4000], *lines[4000::16]]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def theirs(part: Path) -> Iterator[Any]:
    """The package's own tokenizer on that part."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("their_tokenizer", package.folder() / "rwkv_tokenizer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(part))


@pytest.fixture(scope="module")
def ours(part: Path) -> WorldTokenizer:
    return WorldTokenizer(part)


def test_recorded_ids_of_world(world: WorldTokenizer) -> None:
    assert CASES["world_vocab"]["cases"]
    for case in CASES["world_vocab"]["cases"]:
        assert world.encode(case["text"], start=True) == case["ids"]
        assert world.decode(case["ids"]) == case["text"].encode()
    assert world.size == CASES["world_vocab"]["max_id"] + 1


def test_recorded_ids_of_byte_pairs(bpe: BpeTokenizer) -> None:
    for case in recorded("reference_v4.json")["toy_tokenizer"]:
        assert bpe.encode(case["text"], start=True) == case["ids"]
        assert bpe.decode(case["ids"]) == case["text"].encode()


texts = st.text(max_size=40) | st.text(alphabet="ab \n\t0你好，🦊\r", max_size=40)


@given(text=texts)
@settings(deadline=None)
def test_world_is_the_packages_own(text: str, ours: WorldTokenizer, theirs: Any) -> None:
    text = text.encode("utf-8", "replace").decode()
    ids = theirs.encode(text)
    assert ours.encode(text, start=False) == ids
    assert ours.decode(ids) == text.encode()


def test_the_end_can_not_be_written(world: WorldTokenizer, bpe: BpeTokenizer) -> None:
    for tokenizer in (world, bpe):
        assert tokenizer.special(END_NAME) == 0
        assert 0 not in tokenizer.encode(f"a{END_NAME}b{END_NAME}", start=True)
        assert tokenizer.decode([0]) == b""
    assert world.decode([0, 65535]) == b""


def test_half_characters_become_question_marks(world: WorldTokenizer, bpe: BpeTokenizer) -> None:
    for tokenizer in (world, bpe):
        assert tokenizer.decode(tokenizer.encode("a\ud800b", start=True)) == b"a?b"


def test_the_vocabularies_size_decides(tmp_path: Path, part: Path) -> None:
    model = tmp_path / "model.pth"
    assert choose(None, model, 65536).kind == "World"
    with pytest.raises(ModelLoadError, match="20B_tokenizer"):
        choose(None, model, 50277)
    (tmp_path / "20B_tokenizer.json").write_bytes(there(TOKENIZER).read_bytes())
    assert choose(None, model, 50277).kind == "20B"
    assert choose(str(part), model, 65530).kind == "World"


@pytest.mark.parametrize(
    "content", ["nonsense", "1 'a' 2\n", "1 'a' 1\n", "x 'a' 1\n", "1 [1] 1\n", "1 __import__('os') 1\n"]
)
def test_files_that_are_no_world_vocabulary(content: str, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_text(content)
    with pytest.raises(ModelLoadError, match="no World vocabulary"):
        WorldTokenizer(path)


def test_equal_vocabularies_have_equal_names(world: WorldTokenizer, bpe: BpeTokenizer) -> None:
    assert BpeTokenizer(TOKENIZER).fingerprint == bpe.fingerprint
    assert world.fingerprint != bpe.fingerprint
