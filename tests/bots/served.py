"""A bot in a group where Ann has been answered, and every way in which somebody else may come to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

from chatbridge import (
    Author,
    Bot,
    Channel,
    CommandError,
    Downloads,
    Message,
    Notice,
    Options,
    Press,
    RemoteFile,
    ReplyStream,
)
from chatbridge.bots.commands import BUILTIN
from chatbridge.config import BotSettings
from chatbridge.testing import ScriptedBackend, bridge_with, channel_settings, scripted
from chatbridge.texts import say
from chatbridge.types import Action

GROUP, PRIVATE = Channel("g", kind="group"), Channel("p")
ANN, BOB = Author("a", "Ann"), Author("b", "Bob")
BUTTONS: tuple[Action, ...] = get_args(Action)


class Served:
    """A bot in a group where Ann has been answered, and how much its model has been asked."""

    def __init__(self, bot: Bot, backend: ScriptedBackend) -> None:
        self.bot, self.backend, self.fetched = bot, backend, 0
        self.replying = asyncio.Event()
        """Is set when a reply is listened to, which then waits for its turn, if it must."""
        self._ids = iter(range(10**6))

    def message(self, text: str, author: Author, channel: Channel = GROUP, **more: Any) -> Message:
        fields = {"id": f"m{next(self._ids)}", "mentions_bot": True, **more}
        return Message(channel=channel, author=author, text=text, **fields)

    async def say(self, text: str, author: Author = ANN, channel: Channel = GROUP, **more: Any) -> str | None:
        """What comes back: an answer, a text, or nothing."""
        return await self._come(self.bot.receive(self.message(text, author, channel, **more)))

    async def press(self, action: Action, author: Author, channel: Channel = GROUP, at: str = "shown") -> str | None:
        return await self._come(self.bot.press(Press(action, at, channel, author)))

    async def stop(self, author: Author) -> str | None:
        stream = await self.bot.receive(self.message("go on", ANN))
        assert isinstance(stream, ReplyStream)
        said = await self.bot.stop(Press("stop", "shown", GROUP, author), stream)
        return said or None

    async def note(self, at: str = "shown", channel: Channel = GROUP, key: str = "") -> int:
        """From now on that message of the chat shows what was said last."""
        dialogue = self.bot._dialogue(key or channel.id, channel)
        node = (await dialogue.path())[-1].id
        await self.bot.message_index.note("bot", channel.id, at, node)
        return node

    async def _come(self, asked: Awaitable[Notice | ReplyStream | None]) -> str | None:
        try:
            result = await asked
            if isinstance(result, ReplyStream):
                self.replying.set()
                return "".join([chunk.text async for chunk in result])
        except CommandError as error:
            return str(error)
        return result.text if result is not None else None

    async def fetch(self, source: str, max_bytes: int) -> bytes:
        self.fetched += 1
        return b"words"


@asynccontextmanager
async def serving(
    folder: Path,
    answers: tuple[str, ...] = ("one",),
    scope: str = "thread",
    change_answers: str = "asker",
    follow_up: str = "queue",
    **own: Any,
) -> AsyncIterator[Served]:
    """`own`: the bot's settings, besides those of its channels."""
    backend = ScriptedBackend(*answers)
    settings = BotSettings("bot", "fake", Options(), **own)
    aliases = {"+model": "/model", "+again": "/regenerate"}
    defaults = channel_settings(aliases=aliases, scope=scope, change_answers=change_answers, follow_up=follow_up)
    async with bridge_with(scripted(backend), folder / "db", defaults=defaults, bots=[settings]) as bridge:
        served = Served(bridge.bot("bot"), backend)
        assert await served.say("hello") is not None
        await served.note(key="" if scope != "user" else "g/a")
        yield served


Way = Callable[[Served, Author], Awaitable[object]]


async def _file(served: Served, author: Author) -> object:
    downloads = Downloads("X", served.fetch)
    message = await served.bot.bring_files(
        served.message("look", author), [RemoteFile("a.txt", "text/plain", 5, "there")], downloads
    )
    message = message and await served.bot.fetch_files(message, downloads)
    return served.fetched or (message is not None and await served._come(served.bot.receive(message)))


WAYS: dict[str, Way] = {
    "a message": lambda served, author: served.say("hello", author),
    "a message with a file": _file,
    "an edit": lambda served, author: served.bot.revised(
        Message("shown", GROUP, author, "other words", mentions_bot=True)
    ),
    "suggestions": lambda served, author: served.bot.completions("model", served.message("", author)),
    "the button stop": lambda served, author: _refused(served.stop(author)),
}
WAYS |= {f"/{one.name}": lambda served, author, one=one: served.say(f"/{one.name}", author) for one in BUILTIN}
WAYS |= {alias: lambda served, author, alias=alias: served.say(alias, author) for alias in ("+model", "+again")}
WAYS |= {
    f"the button {action}": lambda served, author, action=action: _refused(served.press(action, author))
    for action in BUTTONS
    if action != "stop"
}


async def _refused(result: Awaitable[str | None]) -> str | None:
    """Nothing, where the person is told that they may not; else what came."""
    said = await result
    return None if said == say("en", "not_permitted") else said or "done"
