"""ChatRWKV's commands in a chat: aside from the conversation, tried again, gone on with, and by their old names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from chatbridge import (
    Author,
    Bot,
    Bridge,
    Channel,
    CommandError,
    Finish,
    Message,
    Notice,
    Plugins,
    Prompt,
    ReplyStream,
    SettingsSource,
)
from chatbridge.config import load

from .conftest import TOKENIZER, V4, there

pytestmark = pytest.mark.warm("torch")

ALIASES = {
    "+gen": "/gen", "+i": "/instruct", "+qq": "/qq", "+++": "/more", "++": "/again", "+": "/regenerate",
    "+reset": "/reset",
}  # fmt: skip
ROOM = Channel("room", kind="group")


@pytest.fixture
async def bot(tmp_path: Path, warm_workers: None) -> AsyncIterator[Bot]:
    written = {
        "models": {
            "raven": {"backend": "rwkv", "path": str(there(V4)), "tokenizer": str(there(TOKENIZER)), "threads": 1}
        },
        "defaults": {
            "template": "rwkv-raven-alice",
            "system": "Alice is a fox.",
            "reply_to": "always",
            "language": "en",
            "speaker_names": "always",
            "aliases": ALIASES,
            "sampling": {"temperature": 0, "max_tokens": 8},
        },
    }
    file = tmp_path / "bots.yaml"
    file.write_text(yaml.safe_dump(written, allow_unicode=True), encoding="utf-8")
    plugins = Plugins()
    async with Bridge(SettingsSource(load(file, plugins, {})), plugins) as bridge:
        yield bridge.bot("raven")


async def said(bot: Bot, text: str) -> tuple[str, Finish | None]:
    turn = await bot.receive(Message(f"m{text}", ROOM, Author("1", "Bob"), text))
    if isinstance(turn, Notice):
        return turn.text, None
    assert isinstance(turn, ReplyStream)
    return "".join([chunk.text async for chunk in turn]), turn.finish


async def prompts(bot: Bot, *texts: str) -> list[int]:
    """How many tokens each text is for the model."""
    (backend,) = bot.services.models.loaded().values()
    from chatbridge import Text

    counts = []
    for text in texts:
        prompt: Prompt = (Text(text),)
        counts.append(await backend.count_tokens(prompt))
    return counts


async def test_the_old_names_work(bot: Bot) -> None:
    first, _ = await said(bot, "hello")
    free, finish = await said(bot, "+gen The fox")
    assert finish is not None
    assert finish.usage.generated == 8
    instructed, other = await said(bot, "+i Write a story")
    question, third = await said(bot, "+QQ what is a fox")
    assert other is not None
    assert third is not None
    task = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    expected = await prompts(
        bot, "\nThe fox", f"\n{task}\n\n# Instruction:\nWrite a story\n\n# Response:\n", "\nQ: what is a fox\nA:"
    )
    assert [finish.usage.prompt, other.usage.prompt, third.usage.prompt] == expected
    again, _ = await said(bot, "++")
    assert again == question
    more, gone_on = await said(bot, "+++")
    assert gone_on is not None
    assert gone_on.reply.text.startswith(question)
    assert more
    # The conversation itself has gone on from none of it.
    assert [node.text for node in await bot.dialogue(ROOM).path()] == ["hello", first]
    repeated, _ = await said(bot, "+")
    assert repeated == first
    assert (await said(bot, "+reset"))[0].startswith("A new conversation begins")
    assert await bot.dialogue(ROOM).path() == []
    assert len({free, instructed, question}) == 3


async def test_what_is_missing_is_told(bot: Bot) -> None:
    with pytest.raises(CommandError, match="Say /gen TEXT"):
        await said(bot, "+gen")
    for text in ("++", "+++"):
        with pytest.raises(CommandError):
            await said(bot, text)


def test_the_commands_and_the_template_are_offered() -> None:
    plugins = Plugins()
    assert {"gen", "instruct", "qq", "again", "more"} <= set(plugins.chat_commands)
    assert "rwkv-free" in plugins.templates
    assert "states" in plugins.commands
