"""The names of our packages, and the lines that install them: from the folder that chatbridge comes from, since no
index has them. On the day that one has, `_line` is what changes. Knows no plugin but by the name of its package.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

CORE = "chatbridge-core"
"""What the core is called as a package. `chatbridge` is another project's name on the index."""

OTHERS = "chatbridge"
"""That project; its package has a folder of the same name, and so replaces ours when it is installed."""

FIRST_PARTY = {
    "backend": {
        "llama_cpp": "chatbridge-llama-cpp",
        "transformers": "chatbridge-transformers",
        "glm": "chatbridge-glm",
        "rwkv": "chatbridge-rwkv",
    },
    "frontend": {
        "discord": "chatbridge-discord",
        "telegram": "chatbridge-telegram",
    },
}
"""Backends and frontends that have a package of their own."""


def install_command(kind: str, name: str) -> str:
    """What installs a plugin of ours that offers it, as "pip install plugins/glm"; "" for none of ours."""
    return _line(f"plugins/{name}") if name in FIRST_PARTY[kind] else ""


def install_extra(name: str) -> str:
    """What installs an extra of the core, such as `hub`."""
    return _line(".", name)


def replaced_by() -> str:
    """The version of the other project called chatbridge that is installed beside or over ours; "" for none."""
    try:
        return version(OTHERS)
    except PackageNotFoundError:
        return ""


def stale() -> str:
    """Where the package that is installed has its code, if it is not the one that runs; "" otherwise."""
    try:
        files = distribution(CORE).files
        place = next((file for file in files or () if file.as_posix() == "chatbridge/__init__.py"), None)
    except PackageNotFoundError:
        return ""
    found = Path(str(place.locate())) if place is not None else None
    return str(found.parent) if found and found.exists() and not found.samefile(_package() / "__init__.py") else ""


def _line(folder: str, extra: str = "") -> str:
    source = _source()
    if source is None:
        what = f"{folder}[{extra}]" if extra else folder
        return f"{_pip()} install {shlex.quote(what)} (in the folder of chatbridge's source)"
    place = os.path.normpath(source / folder)
    near = os.path.relpath(place) if Path.cwd() == source or source in Path.cwd().parents else place
    return f"{_pip()} install {shlex.quote(f'{near}[{extra}]' if extra else near)}"


def _source() -> Path | None:
    """The folder that chatbridge is run from, or was installed from by `pip install .`; None where none is known."""
    return next((source for source in (_package().parent, _installed_from()) if _has_plugins(source)), None)


def _installed_from() -> Path | None:
    with suppress(PackageNotFoundError, ValueError, TypeError, KeyError):  # no such record, or a damaged one
        told = str(json.loads(distribution(CORE).read_text("direct_url.json") or "")["url"])
        return Path(url2pathname(urlsplit(told).path)) if told.startswith("file:") else None
    return None


def _has_plugins(source: Path | None) -> bool:
    return source is not None and (source / "plugins" / "llama_cpp").is_dir()


def _pip() -> str:
    """The pip of this Python, as it is called from here."""
    own = Path(sys.prefix)
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "pip"
    program = own / ("Scripts" if os.name == "nt" else "bin") / "pip"
    return shlex.quote(os.path.relpath(program) if own.parent == Path.cwd() else str(program))


def _package() -> Path:
    return Path(__file__).resolve().parents[1]
