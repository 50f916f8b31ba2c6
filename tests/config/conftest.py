"""Fixtures of the configuration tests. All of them read in one folder, which has the sample's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from chatbridge import ConfigError, Plugins, Settings
from chatbridge.config import load

from .samples import ENVIRONMENT, sample_plugins, write_files

Read = Callable[..., Settings]
Diagnostics = Callable[..., list[str]]


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """The sample plugins; reading a file changes nothing in them."""
    return sample_plugins()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files are."""
    folder = tmp_path_factory.mktemp("config")
    write_files(folder)
    return folder


@pytest.fixture(scope="session")
def read(folder: Path, plugins: Plugins) -> Read:
    """Reads a text as bots.yaml."""

    def run(text: str | bytes, environment: Mapping[str, str] = ENVIRONMENT) -> Settings:
        path = folder / "bots.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, plugins, environment)

    return run


@pytest.fixture(scope="session")
def diagnostics(read: Read, folder: Path) -> Diagnostics:
    """The errors in a text, as `line:column: message`; nothing for a good one."""

    def run(text: str | bytes, environment: Mapping[str, str] = ENVIRONMENT) -> list[str]:
        start = f"{folder / 'bots.yaml'}:"
        try:
            read(text, environment)
        except ConfigError as error:
            lines = str(error).splitlines()
        else:
            lines = []
        assert all(line.startswith(start) for line in lines), lines
        return [line.removeprefix(start) for line in lines]

    return run
