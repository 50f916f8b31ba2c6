"""Where programs keep what can be made again, and what they have fetched, on this system. Knows nobody's files."""

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


def models_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """Where models are that were fetched: the folder that CHATBRIDGE_MODELS names, else ours among the user's data.

    It may not be there yet. None where there is none, as for a user of a container's who has no home.
    """
    given = os.environ if environment is None else environment
    with suppress(RuntimeError):
        if named := given.get("CHATBRIDGE_MODELS"):
            return Path(named).expanduser().absolute()
        if sys.platform == "win32":
            base = Path(given.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library/Application Support"
        else:
            base = Path(given.get("XDG_DATA_HOME") or Path.home() / ".local/share")
        return base / "chatbridge/models"
    return None
