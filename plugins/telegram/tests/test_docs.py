"""What the two READMEs say is true: the steps lead to a bot that answers, excerpts are accepted, options are told."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
from chatbridge_telegram.options import TelegramOptions

from chatbridge.testing import ReadmeContract, TelegramServer, readmes, start_program

ROOM = Path(__file__).parents[1]
ENGLISH, _ = readmes(ROOM)


class TestReadmes(ReadmeContract):
    folder, package, options = ROOM, "chatbridge_telegram", TelegramOptions
    secret = ("telegram", "123456789:AAE-x2_y")
    excerpts = 3


def test_what_the_log_is_said_to_say_is_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOM / "chatbridge_telegram").glob("*.py"))
    code = re.sub(r"[\"']\n\s*f?[\"']", "", code)
    told = re.findall(r"^\| `([^`]+)` \| \D", ENGLISH.text.partition("## When something")[2], re.MULTILINE)
    assert len(told) == 5
    for line in told:
        assert all(part.strip() in code for part in re.split("…|httpx", line)[:1]), line


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
async def test_the_steps_lead_to_a_bot_that_answers(roomy: TelegramServer, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "telegram").write_text(roomy.bot.token)
    settings = ENGLISH.blocks("yaml")[0]
    # The one line that a new user does not have: the stand-in in the place of Telegram.
    settings += f"    api_url: {roomy.api_url}\n    file_url: {roomy.file_url}\n"
    (tmp_path / "bots.yaml").write_text(settings)
    check = await start_program(tmp_path, "check")
    assert await check.wait() == 0
    program = await start_program(tmp_path, "run", "--verbose")
    await roomy.say(roomy.private(), "how do I add a Telegram bot?")
    assert len((await roomy.next_answer(within=60)).text) > 20
    program.send_signal(signal.SIGTERM)
    output, _ = await program.communicate()
    assert program.returncode == 0, output.decode()
    assert [line for line in output.decode().splitlines() if roomy.bot.token in line] == []
