"""What the README of `chatbridge.testing` says is there, is there; and it says the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import chatbridge.testing
from chatbridge.testing import DiscordServer, TelegramServer

ROOM = Path(chatbridge.testing.__file__).parent
READMES = [ROOM / "README.md", ROOM / "README.zh.md"]
SERVERS = [DiscordServer(), TelegramServer()]


def _text(path: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _names(text: str) -> list[str]:
    return re.findall(r"`(\w+)", text)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_name_is_there(readme: Path) -> None:
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in _text(readme).splitlines() if "|" in line]
    start = next(index for index, row in enumerate(rows) if row[1] == "`DiscordServer`")
    public = [name for row in rows[2:start] for name in _names(row[0])]
    assert sorted(public) == sorted(set(chatbridge.testing.__all__) - {"Room", "ToyOptions"})
    for row in rows[start + 2 : start + 6]:
        for server, cell in zip(SERVERS, row[1:], strict=True):
            assert all(hasattr(server, name) for name in _names(cell)), cell
    faults = [name for row in rows[start + 7 :] for name in _names(row[0])]
    assert len(faults) > 9
    known = {name for server in SERVERS for name in dir(server.faults)}
    assert set(faults) <= known | {"pattern", "wait", "pause", "webhook"}
    gateway = re.findall(r"`(\w+)\([\w=…]*\)`", _text(readme).rsplit("server.gateway", 1)[1].split("\n## ")[0])
    assert len(gateway) == 8
    assert all(hasattr(SERVERS[0].gateway, name) for name in gateway)


def test_both_languages_name_the_same() -> None:
    one, other = (re.findall(r"`[^`\n]+`", _text(path)) for path in READMES)
    assert sorted(one) == sorted(other)
