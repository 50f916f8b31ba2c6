"""Real vocabularies that nobody here made, where they are at hand: those whose words NumPy knows how to cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from chatbridge_numpy.tokenizer import read_tokenizer

from chatbridge import GgufHeader, Tokenizer
from chatbridge.testing import OpenVocabulary, PublishedVocabulariesContract


class TestPublished(PublishedVocabulariesContract):
    @pytest.fixture
    def open_vocabulary(self) -> OpenVocabulary:
        def opened(path: Path) -> tuple[Tokenizer, Mapping[str, int]]:
            header = GgufHeader(path, reader="numpy")
            if header.metadata.get("tokenizer.ggml.model") not in ("llama", "gpt2"):
                pytest.skip(f"{path.name}: of a kind that numpy does not take")
            tokenizer = read_tokenizer(header.metadata, path)
            return tokenizer, tokenizer.vocabulary.specials

        return opened
