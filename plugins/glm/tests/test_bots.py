"""A whole bot with the recorded model: what the original's `chat()` answered, said again for nothing, and two rooms."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatbridge import Author, Bridge, Channel, Finish, Message, Plugins, ReplyStream, SettingsSource
from chatbridge.config import load

from .conftest import folder_of, opened, recorded

SETTINGS = f"""
models:
  glm: {{backend: glm, path: {folder_of()}, threads: 1}}
defaults: {{model: glm, reply_to: always, language: zh, sampling: {{temperature: 0, max_tokens: MOST, stop: []}}}}
bots:
  both: {{frontend: repl}}
"""


async def said(reply: object) -> tuple[str, Finish]:
    """What the bot answers, and what it cost."""
    assert isinstance(reply, ReplyStream)
    text = "".join([chunk.text async for chunk in reply])
    assert reply.finish is not None
    return text, reply.finish


@pytest.mark.warm("torch")
async def test_a_bot_answers_as_the_original_chat(tmp_path: Path, warm_workers: None) -> None:
    chat = recorded("reference.json")["chat"][0]
    sure = chat["tokens_before_first_margin_below_0.01"]
    file = tmp_path / "bots.yaml"
    file.write_text(SETTINGS.replace("MOST", str(sure)), encoding="utf-8")
    plugins = Plugins()
    model = opened(folder_of())
    expected = model.tokenizer.decode(chat["new_tokens"][:sure]).decode().strip()
    model.close()
    async with Bridge(SettingsSource(load(file, plugins, {})), plugins) as bridge:
        bot = bridge.bot("both")

        async def ask(channel: str, text: str) -> tuple[str, Finish]:
            message = Message(f"{channel}-{text}", Channel(channel), Author("1", "Bob"), text)
            return await said(await bot.receive(message))

        first, other = await asyncio.gather(ask("1", chat["query"]), ask("2", "What is the weather?"))
        assert first[0] == expected
        assert first[1].usage.prompt == len(chat["input_ids"])
        assert other[0] != first[0]
        again, cost = await said(bot.dialogue(Channel("1"), "").regenerate("zh"))
        assert again == first[0]
        assert cost.usage.read == 1  # all of the prompt but the last token was there
        longer = await ask("1", "谢谢")
        assert longer[1].usage.cached == 0  # another prompt, which is read in both directions
