"""Models by names that are easy to type: where each is fetched from, under which licence, and what runs it.

The names are data (`catalogue.yaml`). Knows where a fetched model lies in the folder of models; fetches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.template_notes import REPORT
from chatbridge.suggest import did_you_mean, meant


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model, by the keys that the head of `catalogue.yaml` explains. `summary`: by language, "en" and "zh"."""

    name: str
    size: int
    licence: str
    backend: str
    template: str
    summary: Mapping[str, str]
    source: str = ""
    request: str = ""
    revision: str = ""
    files: tuple[str, ...] = ()
    run: str = ""
    exact: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)
    terms: str = ""

    @property
    def words(self) -> str:
        """Its size, for people."""
        return f"{'' if self.exact else 'about '}{self.size / 2**30:.1f} GiB"

    @property
    def command(self) -> str:
        """What fetches it."""
        return f"chatbridge model pull {self.name}"

    @property
    def missing(self) -> str:
        """What is told where it is wanted and was not fetched."""
        if self.request:
            return (
                f"{self.name} is given away by request only: ask at {self.request}, and name what you get by its path"
            )
        return f"{self.name} is not fetched yet ({self.words}): {self.command}"

    def keys(self, path: Path) -> dict[str, Any]:
        """Its entry in bots.yaml, by the keys there."""
        return {"backend": self.backend, "path": str(path), "template": self.template}

    def path(self, models: Path) -> Path | None:
        """What the backend is to be given, once it was fetched into the folder of models; None before."""
        folder = models / self.name
        if not (folder / REPORT).is_file():
            return None
        if not self.run:
            return folder
        found = sorted(file for file in folder.iterdir() if fnmatchcase(file.name, self.run))
        return found[0] if found else None


@cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """All of them by name, in the order in which people are shown them."""
    text = Path(__file__).with_name("catalogue.yaml").read_text(encoding="utf-8")
    told: Mapping[str, dict[str, Any]] = yaml.safe_load(text)
    return {
        name: CatalogueEntry(name, **{**keys, "files": tuple(keys.get("files", ()))}) for name, keys in told.items()
    }


def entry(name: str) -> CatalogueEntry:
    """The one of this name. Raises ModelLoadError, with the closest."""
    if (found := named(name)) is None:
        hint = did_you_mean(name, catalogue()) or "; `chatbridge model list` has all"
        raise ModelLoadError(f"there is no model {name!r} in the catalogue{hint}")
    return found


def named(name: str) -> CatalogueEntry | None:
    """The one of this name, in whatever case and with whatever between its words; None where there is none."""
    found = meant(name, catalogue())
    return catalogue()[found] if found is not None else None
