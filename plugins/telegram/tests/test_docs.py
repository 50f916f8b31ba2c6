"""What the two READMEs say is true: the steps lead to a bot that answers, excerpts are accepted, options are told."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
from chatbridge_telegram.options import TelegramOptions

from chatbridge import Plugins
from chatbridge.testing import Document, TelegramServer, readmes, start_program

ROOM = Path(__file__).parents[1]
READMES = readmes(ROOM)


def with_secret(folder: Path, token: str) -> None:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "telegram").write_text(f"{token}\n")


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_excerpt_is_accepted(readme: Document, tmp_path: Path) -> None:
    with_secret(tmp_path, "123456789:AAE-x2_y")
    found = list(readme.settings(tmp_path, Plugins()))
    assert len(found) == 3
    for settings in found:
        (bot,) = settings.bots.values()
        assert isinstance(bot.options, TelegramOptions)


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_option_is_told_with_its_default(readme: Document) -> None:
    told = readme.options()
    assert set(told) - {"token_file"} == set(TelegramOptions.model_fields)
    for name, field in TelegramOptions.model_fields.items():
        if not field.is_required() and field.default not in (None, frozenset()) and not name.endswith("_url"):
            assert told[name][0] == str(field.default).lower()


def test_both_languages_say_the_same() -> None:
    english, chinese = READMES
    assert english.shape() == chinese.shape()


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_the_tree_has_every_file(readme: Document) -> None:
    tree = readme.tree()
    assert {path for path in tree if path.suffix == ".py"} == set((ROOM / "chatbridge_telegram").glob("*.py"))
    assert all(path.exists() and caption for path, caption in tree.items())


def test_what_the_log_is_said_to_say_is_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOM / "chatbridge_telegram").glob("*.py"))
    code = re.sub(r"[\"']\n\s*f?[\"']", "", code)
    told = re.findall(r"^\| `([^`]+)` \| \D", READMES[0].text.partition("## When something")[2], re.MULTILINE)
    assert len(told) == 5
    for line in told:
        assert all(part.strip() in code for part in re.split("…|httpx", line)[:1]), line


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
async def test_the_steps_lead_to_a_bot_that_answers(roomy: TelegramServer, tmp_path: Path) -> None:
    with_secret(tmp_path, roomy.bot.token)
    settings = READMES[0].blocks("yaml")[0]
    # The one line that a new user does not have: the stand-in in the place of Telegram.
    settings += f"    api_url: {roomy.api_url}\n    file_url: {roomy.file_url}\n"
    (tmp_path / "bots.yaml").write_text(settings)
    check = await start_program(tmp_path, "check")
    assert await check.wait() == 0
    program = await start_program(tmp_path, "run", "--verbose")
    await roomy.say(roomy.private(), "how do I add a Telegram bot?")
    answer = await roomy.next_message(within=60)
    assert len(answer.text) > 20
    program.send_signal(signal.SIGTERM)
    output, _ = await program.communicate()
    assert program.returncode == 0, output.decode()
    assert [line for line in output.decode().splitlines() if roomy.bot.token in line] == []
