"""The files in examples/deploy say what chatbridge can do, and name what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from chatbridge.cli import cli
from chatbridge.operations.lag import LoopLag
from chatbridge.operations.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"


def parses(arguments: list[str]) -> bool:
    """Whether the command line takes these."""
    name, *rest = arguments
    # As a part of the whole command line: a command keeps the names of its help option from the first context it sees.
    above = click.Context(cli, **cli.context_settings)
    command = cli.get_command(above, name)
    assert command is not None, name
    command.make_context(name, rest, parent=above)
    return True


def test_the_unit_starts_chatbridge_as_it_can_be_started() -> None:
    unit = (DEPLOY / "chatbridge.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=\S+/chatbridge (.*)$", unit, re.MULTILINE)
    assert parses(command.split())
    keys = re.findall(r"^([A-Za-z]+)=", unit, re.MULTILINE)
    assert len(keys) == len(set(keys))
    (grace,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(grace) > 10, "shorter than the usual `drain`"


def test_the_container_is_made_of_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert parses(json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1]))
    for path in re.findall(r"/src/([\w/]+)", text):
        assert (ROOT / path / "pyproject.toml").exists(), path
    for extra in re.findall(r"/src\[(\w+)\]", text):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


async def test_the_metrics_that_are_told_of_are_those_that_there_are() -> None:
    told = set(re.findall(r"`(chatbridge_\w+)`", (DEPLOY / "README.md").read_text(encoding="utf-8")))
    text = (await Metrics(LoopLag()).text()).decode()
    there = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert told == {name for name in there if not name.endswith("_created")}
