"""A server on loopback, and a way to fetch from it that waits for nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chatbridge.model_tools.fetching.patience import Patience
from chatbridge.model_tools.fetching.pull import look, pull
from chatbridge.model_tools.fetching.remote import parse_source
from chatbridge.model_tools.report import Report

from .server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of files."""
    with serving() as one:
        yield one


@dataclass
class Fetched:
    """How a fetch went: whether anything was to be done, its progress, what was told, and how long it waited."""

    made: bool = False
    stages: list[tuple[str, int]] = field(default_factory=list)
    bytes: int = 0
    told: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def begin(self, doing: str, total: int) -> None:
        """Of progress: a stage."""
        self.stages.append((doing, total))

    def advance(self, nbytes: int) -> None:
        """Of progress: bytes."""
        self.bytes += nbytes


Fetch = Callable[..., Fetched]


@pytest.fixture
def fetch(server: Server) -> Fetch:
    """Fetch a source into a folder; the hub is the stand-in."""

    def run(source: str, folder: Path, include: Sequence[str] = (), *, revision: str = "", **more: object) -> Fetched:
        seen = Fetched()
        patience = Patience(3, wait=seen.waited.append, tell=seen.told.append)
        parsed = parse_source(source, revision)
        work = look(parsed, folder, include, endpoint=server.address, patience=patience, **more)  # type: ignore[arg-type]
        seen.made = pull(work, Report("model pull"), seen)
        return seen

    return run
