"""Where the records lie that tests compare with: what the original code computed, once. Knows none of them."""

from __future__ import annotations

import os
from pathlib import Path


def fixtures() -> Path:
    """The folder of records: the project's own tests/fixtures, or the one of the same layout in CHATBRIDGE_FIXTURES."""
    named = os.environ.get("CHATBRIDGE_FIXTURES")
    return Path(named) if named else Path(__file__).parents[2] / "tests" / "fixtures"
