"""How long a model stays loaded that nobody uses, and where what it has read goes meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from chatbridge import BackendType, ConfigPath, Options, Plugins
from chatbridge.config import ModelSettings, load
from chatbridge.testing import plugin_of
from chatbridge.testing.toy import load_toy


class Keeping(Options):
    keep_states: Annotated[ConfigPath | Literal[False] | None, Field(description="Where states go.")] = None


PLUGINS = Plugins(
    [
        plugin_of(
            backends=[
                BackendType("plain", Options, "", load=load_toy),
                BackendType("keeping", Keeping, "", load=load_toy),
            ]
        )
    ],
    discover=False,
)


def model(folder: Path, keys: str) -> ModelSettings:
    file = folder / "bots.yaml"
    file.write_text(f"models: {{m: {{{keys}}}}}\n", encoding="utf-8")
    return load(file, PLUGINS, {}).models["m"]


@pytest.mark.parametrize(
    ("keys", "minutes"),
    [
        ("backend: plain", 0),
        ("backend: plain, idle_minutes: 0", 0),
        ("backend: plain, idle_minutes: 1", 1),
        ("backend: plain, idle_minutes: 10080", 10_080),
    ],
)
def test_it_stays_loaded_unless_a_time_is_set(tmp_path: Path, keys: str, minutes: int) -> None:
    assert model(tmp_path, keys).idle_minutes == minutes
    assert bool(model(tmp_path, keys).when_idle) == bool(minutes)


@pytest.mark.parametrize(
    ("keys", "folder"),
    [
        ("backend: plain", "idle-states"),
        ("backend: keeping", "idle-states"),
        ("backend: keeping, keep_states: mine", "mine"),
        ("backend: keeping, keep_states: false", None),
    ],
)
def test_what_it_has_read_goes_where_its_own_options_say_or_beside_the_database(
    tmp_path: Path, keys: str, folder: str | None
) -> None:
    found = model(tmp_path, f"{keys}, idle_minutes: 5")
    assert found.states_folder == (None if folder is None else tmp_path / folder)
    where = "stays in " + str(tmp_path / folder) if folder else "histories are read again then, since its keep_states"
    assert where in found.when_idle


def test_the_database_is_where_files_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "bots.yaml"
    file.write_text("store: data/chats.sqlite3\nmodels: {m: {backend: plain, idle_minutes: 5}}\n", encoding="utf-8")
    assert load(file, PLUGINS, {}).models["m"].states_folder == tmp_path / "data" / "idle-states"


def test_a_model_is_the_same_one_however_long_it_stays(tmp_path: Path) -> None:
    never, soon = (model(tmp_path, f"backend: plain, idle_minutes: {minutes}") for minutes in (0, 5))
    assert never != soon, "a program that runs has to see that it has changed"
    assert never.loads_like(soon)
    assert not never.loads_like(model(tmp_path, "backend: plain, idle_minutes: 5, max_batch: 2"))
