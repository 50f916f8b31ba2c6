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
        return _base(given, "Library/Caches", "XDG_CACHE_HOME", ".cache") / "chatbridge"
    return None


def models_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """Where models are that were fetched: the folder that CHATBRIDGE_MODELS names, else ours among the user's data.

    It may not be there yet. None where there is none, as for a user of a container's who has no home.
    """
    given = os.environ if environment is None else environment
    with suppress(RuntimeError):
        if named := given.get("CHATBRIDGE_MODELS"):
            return Path(named).expanduser().absolute()
        return _base(given, "Library/Application Support", "XDG_DATA_HOME", ".local/share") / "chatbridge/models"
    return None


def _base(given: Mapping[str, str], mac: str, variable: str, otherwise: str) -> Path:
    """The user's folder of a kind, by what each system calls it. Raises RuntimeError for a user without a home."""
    if sys.platform == "win32":
        return Path(given.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    if sys.platform == "darwin":
        return Path.home() / mac
    return Path(given.get(variable) or Path.home() / otherwise)
