"""What the two READMEs say is true: the steps lead to a bot that answers, excerpts are accepted, options are told."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
from chatbridge_discord.options import DiscordOptions

from chatbridge.testing import DiscordServer, ReadmeContract, readmes, start_program

ROOM = Path(__file__).parents[1]
ENGLISH, _ = readmes(ROOM)


class TestReadmes(ReadmeContract):
    folder, package, options = ROOM, "chatbridge_discord", DiscordOptions
    secret = ("discord", "MTk4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs")
    excerpts = 2


def test_what_the_log_is_said_to_say_is_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOM / "chatbridge_discord").glob("*.py"))
    told = re.findall(r"^\| `([^`]+)` \| \D", ENGLISH.text.partition("## When something")[2], re.MULTILINE)
    assert len(told) == 6
    for line in told:
        assert line in code


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
async def test_the_steps_lead_to_a_bot_that_answers(roomy: DiscordServer, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "discord").write_text(roomy.bot.token)
    settings = ENGLISH.blocks("yaml")[0]
    # The one line that a new user does not have: the stand-in in the place of Discord.
    settings += f"    api_url: {roomy.api_url}\n    gateway_url: {roomy.gateway_url}\n"
    (tmp_path / "bots.yaml").write_text(settings)
    check = await start_program(tmp_path, "check")
    assert await check.wait() == 0
    program = await start_program(tmp_path, "run", "--verbose")
    await roomy.gateway.until_connected(within=60)
    await roomy.say(roomy.general, "how do I add a Discord bot?", mention=True)
    assert len((await roomy.next_answer(within=60)).text) > 20
    await roomy.until(lambda: roomy.bot.commands[None] or None, within=30)
    program.send_signal(signal.SIGTERM)
    output, _ = await program.communicate()
    assert program.returncode == 0, output.decode()
    assert [line for line in output.decode().splitlines() if roomy.bot.token in line] == []
