"""What the two READMEs say is true: the steps lead to a bot that answers, excerpts are accepted, options are told."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest
from chatbridge_discord.options import DiscordOptions

from chatbridge import Plugins
from chatbridge.config import load
from chatbridge.testing import DiscordServer

ROOM = Path(__file__).parents[1]
READMES = [ROOM / "README.md", ROOM / "README.zh.md"]


def blocks(readme: Path, language: str) -> list[str]:
    text = readme.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def with_secret(folder: Path, token: str) -> None:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "discord").write_text(f"{token}\n")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_excerpt_is_accepted(readme: Path, tmp_path: Path) -> None:
    with_secret(tmp_path, "MTk4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs")
    found = blocks(readme, "yaml")
    assert len(found) == 2
    for number, block in enumerate(found):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block if "models:" in block else found[0].partition("bots:")[0] + block)
        (bot,) = load(file, Plugins()).bots.values()
        assert isinstance(bot.options, DiscordOptions)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_option_is_told_with_its_default(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`(?:[,、] ?`(\w+)`)? \| ([^|]*)\| .* \|$", text, re.MULTILINE)
    told = {name: default.strip("` ") for one, other, default in rows for name in (one, other) if name}
    assert set(told) - {"token_file"} == set(DiscordOptions.model_fields)
    for name, field in DiscordOptions.model_fields.items():
        if field.default and not name.endswith("_url") and not field.is_required():
            assert told[name] == str(field.default).replace("True", "true")
        elif field.default is False:
            assert told[name] == "false"


def test_both_languages_say_the_same() -> None:
    english, chinese = (path.read_text(encoding="utf-8") for path in READMES)
    assert blocks(READMES[0], "sh") == blocks(READMES[1], "sh")
    for pattern in (r"^#+ ", r"^\| ", r"^\d+\. ", r"^(?:    )?\w+\.py"):
        assert len(re.findall(pattern, english, re.MULTILINE)) == len(re.findall(pattern, chinese, re.MULTILINE))


def test_the_tree_has_every_file() -> None:
    files = {path.name for path in (ROOM / "chatbridge_discord").glob("*.py")}
    for readme in READMES:
        assert set(re.findall(r"^    (\w+\.py) ", readme.read_text(encoding="utf-8"), re.MULTILINE)) == files


def test_what_the_log_is_said_to_say_is_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOM / "chatbridge_discord").glob("*.py"))
    told = re.findall(r"^\| `([^`]+)` \| \D", READMES[0].read_text().partition("## When something")[2], re.MULTILINE)
    assert len(told) == 6
    for line in told:
        assert line in code


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
async def test_the_steps_lead_to_a_bot_that_answers(roomy: DiscordServer, tmp_path: Path) -> None:
    with_secret(tmp_path, roomy.bot.token)
    settings = blocks(READMES[0], "yaml")[0]
    # The one line that a new user does not have: the stand-in in the place of Discord.
    settings += f"    api_url: {roomy.api_url}\n    gateway_url: {roomy.gateway_url}\n"
    (tmp_path / "bots.yaml").write_text(settings)
    check = await _chatbridge(tmp_path, "check")
    assert await check.wait() == 0
    program = await _chatbridge(tmp_path, "run", "--verbose")
    await roomy.gateway.until_connected(within=60)
    await roomy.say(roomy.general, "how do I add a Discord bot?", mention=True)
    answer = await roomy.next_message(within=60)
    await roomy.until(lambda: len(answer.text) > 20 or None, within=60)
    await roomy.until(lambda: roomy.bot.commands[None] or None, within=30)
    program.send_signal(signal.SIGTERM)
    output, _ = await program.communicate()
    assert program.returncode == 0, output.decode()
    assert [line for line in output.decode().splitlines() if roomy.bot.token in line] == []


async def _chatbridge(folder: Path, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "chatbridge", *words),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
