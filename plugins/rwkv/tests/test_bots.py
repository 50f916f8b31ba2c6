"""Whole bots: an RWKV-4 and an RWKV-7 model in two channels at once, regenerations, edits, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from chatbridge import Author, Bridge, Channel, Finish, Message, Notice, Plugins, ReplyStream, SettingsSource
from chatbridge.config import load

from .conftest import TOKENIZER, V4, V7, there

pytestmark = [pytest.mark.usefixtures("warm_workers"), pytest.mark.warm("torch")]

FOUR = f"four: {{backend: rwkv, path: {V4}, tokenizer: {TOKENIZER}, threads: 1, template: rwkv-raven-alice}}"
SEVEN = f"seven: {{backend: rwkv, path: {V7}, tokenizer: {TOKENIZER}, threads: 1, template: rwkv-world}}"
SEVEN_ALONE = f"""
models:
  {SEVEN}
defaults: {{reply_to: always, language: en, sampling: {{temperature: 0, max_tokens: 12, stop: []}}}}
bots:
  both:
    frontend: repl
    channels:
      "7": {{model: seven}}
"""
BOTH = (
    SEVEN_ALONE.replace("models:", f"models:\n  {FOUR}")
    + """
      "77": {model: seven}
      "4": {model: four}
      "44": {model: four}
"""
)
TEXTS = ["hello there, tell me about the river", "and the fox?", "why", "who are you", "and then"]


@asynccontextmanager
async def bridge(folder: Path, text: str = SEVEN_ALONE) -> AsyncIterator[Bridge]:
    for path in (V4, V7, TOKENIZER):
        there(path)
    file = folder / "bots.yaml"
    file.write_text(text, encoding="utf-8")
    plugins = Plugins()
    async with Bridge(SettingsSource(load(file, plugins, {})), plugins) as bridge:
        yield bridge


async def said(bridge: Bridge, channel: str, text: str, number: int = 0) -> tuple[str, Finish | None]:
    """What the bot answers, and what it cost."""
    message = Message(f"{channel}-{number}-{text}", Channel(channel), Author("1", "Bob"), text)
    turn = await bridge.bot("both").receive(message)
    if isinstance(turn, Notice):
        return turn.text, None
    assert isinstance(turn, ReplyStream)
    return "".join([chunk.text async for chunk in turn]), turn.finish


async def talk(bridge: Bridge, channel: str) -> list[str]:
    return [(await said(bridge, channel, text, number))[0] for number, text in enumerate(TEXTS)]


async def test_two_architectures_in_two_channels_of_one_bot_at_once(tmp_path: Path) -> None:
    async with bridge(tmp_path, BOTH) as running:
        together = await asyncio.gather(talk(running, "4"), talk(running, "7"))
        models = running.models.loaded()
        assert {name: backend.info.architecture for name, backend in models.items()} == {
            "four": "RWKV-4",
            "seven": "RWKV-7",
        }
        alone = [await talk(running, channel) for channel in ("44", "77")]
    assert together == alone
    assert together[0] != together[1]


async def test_turns_regenerations_and_edits_read_only_what_is_new(tmp_path: Path) -> None:
    async with bridge(tmp_path) as running:
        costs = []
        for number, text in enumerate(TEXTS):
            _, finish = await said(running, "7", text, number)
            assert finish is not None
            costs.append(finish.usage)
        for before, usage in pairwise(costs):
            # The last turn's reply but for its last token, which nobody has read yet.
            assert usage.cached >= before.prompt + before.generated - 1
        answer, finish = await said(running, "7", "/regenerate")
        assert finish is not None
        assert finish.usage.read == 1
        again, finish = await said(running, "7", "/edit and then what, dear fox?")
        assert finish is not None
        assert finish.usage.cached >= costs[-2].prompt + costs[-2].generated - 1
        assert again != answer


async def test_a_restart_reads_nothing_again(tmp_path: Path) -> None:
    async with bridge(tmp_path) as running:
        for number, text in enumerate(TEXTS[:4]):
            await said(running, "7", text, number)
    states = tmp_path / "rwkv-states"
    assert [*states.iterdir()]
    async with bridge(tmp_path) as running:
        _, finish = await said(running, "7", TEXTS[4], 4)
        assert finish is not None
        assert finish.usage.prompt > 80
        # Only the last answer's last token, the new message and the header of the answer: a token is a byte at least.
        assert finish.usage.read <= 1 + len(f"\n\nUser: {TEXTS[4]}\n\nAssistant:")
