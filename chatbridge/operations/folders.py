"""Where programs keep what can be made again, on this system. Knows nobody's files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def cache_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """The folder of ours among the user's caches, which may not be there yet.

    None where there is none, as for a user of a container's who has no home.
    """
    given = os.environ if environment is None else environment
    with suppress(RuntimeError):
        if sys.platform == "win32":
            base = Path(given.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library/Caches"
        else:
            base = Path(given.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "chatbridge"
    return None
