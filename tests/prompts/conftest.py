"""Fixtures of the prompt tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .tokenizers import Family, families, there


@pytest.fixture(scope="session")
def tokenizers_by_name() -> dict[str, Family]:
    """The recorded tokenizers."""
    return {family.name: family for family in families()}


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """The recorded prompt strings."""
    return json.loads(there("prompts/prompts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def hostile() -> list[str]:
    """Texts that try to forge a turn. They are kept as JSON, for half characters are among them."""
    return json.loads((Path(__file__).parent / "hostile.json").read_text(encoding="utf-8"))
