"""Fixtures that every test may use."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def scale() -> int:
    """How many times the everyday sample a test runs: 1, or 10 with CHATBRIDGE_FULL=1 (see the README)."""
    return 10 if os.environ.get("CHATBRIDGE_FULL") == "1" else 1
