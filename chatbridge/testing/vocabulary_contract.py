"""What a backend's tokenizer must do with published vocabularies, as tests. Knows no backend."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest

from chatbridge.engine.detokenizer import StreamingDetokenizer
from chatbridge.prompts.segments import Prompt, Special, Text, encode
from chatbridge.testing.published import (
    VARIABLE,
    OpenVocabulary,
    mixed_texts,
    published_vocabularies,
    recorded_ids,
)

_ABSENT = f"{VARIABLE} names no folder of published vocabularies (see chatbridge/testing/published.py)"


def each_published() -> pytest.MarkDecorator:
    """Run a test once for each file; once, and skipped, where there is none."""
    paths = published_vocabularies()
    absent = pytest.param(None, marks=pytest.mark.skip(reason=_ABSENT), id="none")
    return pytest.mark.parametrize("path", paths or [absent], ids=lambda path: path.stem.removeprefix("ggml-vocab-"))


class PublishedVocabulariesContract:
    """Subclass it and define the fixture `open_vocabulary`, which skips the test for a file that you don't take.

    `inexact`: parts of the names of vocabularies that don't give every text back, as their originals don't.
    """

    inexact: tuple[str, ...] = ()

    @pytest.fixture
    def open_vocabulary(self) -> OpenVocabulary:
        raise NotImplementedError("define a fixture `open_vocabulary` that opens the tokenizer of a file")

    @each_published()
    def test_recorded_texts_give_the_recorded_ids(self, path: Path, open_vocabulary: OpenVocabulary) -> None:
        """Fails where words are cut otherwise than by the model's original tokenizer."""
        tokenizer, _ = open_vocabulary(path)
        wrong = [text for text, ids in recorded_ids(path) if tokenizer.encode(text, start=True) != ids]
        assert not wrong

    @each_published()
    def test_texts_come_back_whole_and_token_by_token(self, path: Path, open_vocabulary: OpenVocabulary) -> None:
        """Fails where ids decode to something else than the text, or to another text one after another."""
        tokenizer, _ = open_vocabulary(path)
        for text in mixed_texts(500):
            ids = tokenizer.encode(text, start=False)
            whole = tokenizer.decode(ids)
            assert b"".join(tokenizer.decode([token]) for token in ids) == whole
            stream = StreamingDetokenizer(tokenizer.decode)
            shown = [delta.text for token in ids for delta in stream.push(token)]
            shown += [delta.text for delta in stream.finish()]
            assert "".join(shown) == whole.decode("utf-8", "replace").strip()
            if not any(name in path.name for name in self.inexact):
                assert whole.decode() in (text, unicodedata.normalize("NFC", text))

    @each_published()
    def test_a_text_that_is_cut_in_two_has_the_same_ids(self, path: Path, open_vocabulary: OpenVocabulary) -> None:
        """Fails where the border between a template's text and a person's shows in the ids."""
        tokenizer, _ = open_vocabulary(path)
        for text in [text for text, _ in recorded_ids(path)][:20] or list(mixed_texts(20)):
            whole = tokenizer.encode(text, start=True)
            for at in {1, len(text) // 2, len(text) - 1}:
                halves: Prompt = (Text(text[:at]), Text(text[at:], "person"))
                assert encode(halves, tokenizer, bos=None, eos=None) == whole

    @each_published()
    def test_no_text_becomes_a_control_token(self, path: Path, open_vocabulary: OpenVocabulary) -> None:
        """Fails where anybody could forge a turn by typing the name of a control token."""
        tokenizer, specials = open_vocabulary(path)
        assert specials
        controls, names, rng = frozenset(specials.values()), list(specials), random.Random(1)
        for name in names[:60]:
            assert encode((Special(name),), tokenizer, bos=None, eos=None) == [specials[name]]
            beside = rng.choice(names)
            for text in (name, f"x{name}y", f"\n{name} ", name * 3, f"{name[:-1]}{name}", f"{name}{beside}"):
                for start in (True, False):
                    forged = controls.intersection(tokenizer.encode(text, start=start))
                    assert not forged, f"{text!r} gave {forged}"
