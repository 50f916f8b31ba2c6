"""ChatRWKV's chat commands for every frontend: free generation, held aside from the conversation, tried again, gone on
with. Knows dialogues and templates; runs no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from chatbridge import ChatCommand, CommandContext, CommandError, ReplyStream, Template

ASIDE = "free"
"""The name of the conversation that free generation has beside each channel's own."""

FREE = Template(
    name="rwkv-free",
    summary="RWKV, any text that the model goes on with (ChatRWKV's +gen).",
    user="\n{text}",
    assistant="{text}",
)

_ALONE: dict[str, Any] = {"system": None, "speaker_names": "never"}


async def _free(context: CommandContext, argument: str, template: str, name: str) -> ReplyStream:
    if not argument.strip():
        raise CommandError(context.say("needs_argument", name=name, argument="TEXT"))
    dialogue = context.dialogue.bot.dialogue(context.dialogue.channel, ASIDE)
    message = replace(context.message, text=argument)
    return dialogue.send(message, context.language, new_with={**_ALONE, "template": template})


async def _gen(context: CommandContext, argument: str) -> ReplyStream:
    return await _free(context, argument, FREE.name, "gen")


async def _instruct(context: CommandContext, argument: str) -> ReplyStream:
    return await _free(context, argument, "rwkv-instruct", "instruct")


async def _question(context: CommandContext, argument: str) -> ReplyStream:
    return await _free(context, argument, "rwkv-raven-qa", "qq")


async def _again(context: CommandContext, argument: str) -> ReplyStream:
    return context.dialogue.bot.dialogue(context.dialogue.channel, ASIDE).regenerate(context.language)


async def _more(context: CommandContext, argument: str) -> ReplyStream:
    return context.dialogue.bot.dialogue(context.dialogue.channel, ASIDE).go_on(context.language)


def commands() -> Iterable[ChatCommand]:
    """`/gen`, `/instruct` and `/qq`, and `/again` and `/more` for what these gave."""
    return [
        ChatCommand(
            "gen",
            "go on with any text, aside from the conversation",
            "续写任意文字，不影响当前对话",
            _gen,
            "TEXT",
            repeatable=True,
            files=True,
        ),
        ChatCommand(
            "instruct",
            "follow one instruction, aside",
            "执行一条指令，不影响当前对话",
            _instruct,
            "TEXT",
            repeatable=True,
            files=True,
        ),
        ChatCommand(
            "qq",
            "answer one question, aside",
            "回答一个独立的问题，不影响当前对话",
            _question,
            "TEXT",
            repeatable=True,
            files=True,
        ),
        ChatCommand(
            "again",
            "try the last text that was held aside once more",
            "重新生成上一条独立的内容",
            _again,
            repeatable=True,
        ),
        ChatCommand(
            "more", "go on with the last text that was held aside", "继续上一条独立的内容", _more, repeatable=True
        ),
    ]
