"""What tests of delivery begin with: a bot on a fake service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chatbridge import Author, Channel, ChannelSettings, Delivery, Limits, Message, Options
from chatbridge.config import BotSettings
from chatbridge.testing import FakeService, ScriptedBackend, bridge_with, run_virtually, scripted

PRIVATE, GROUP = Channel("p"), Channel("g", kind="group")
ANN = Author("a", "Ann")


def said(text: str, id: str = "1", channel: Channel = PRIVATE, language: str = "") -> Message:
    return Message(id, channel, ANN, text, language=language)


class Harness:
    """A bot on a fake service; the store's folder and the service outlive the program."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.service = FakeService(limits or Limits(2000))

    @asynccontextmanager
    async def program(self, backend: ScriptedBackend, **options: Any) -> AsyncIterator[Delivery]:
        """One run of the program; it ends when the block does, after everything was answered unless `drain` says so.

        `settings`: those of all channels; `bot`: the bot's own, such as `limits`; `open_chat`: in place of the fake
        service's. The rest goes to `Delivery`.
        """
        wanted = {"reply_to": "always", "language": "en", "thinking": "show", **options.pop("settings", {})}
        own = BotSettings("bot", "fake", Options(), **options.pop("bot", {}))
        async with bridge_with(
            scripted(backend),
            self.folder / "store.sqlite3",
            defaults=ChannelSettings(**wanted),
            plugins=options.pop("plugins", ()),
            bots=[own],
            clock=self.service.clock.time,
        ) as bridge:
            options.setdefault("drain", 1e9)
            open_chat = options.pop("open_chat", self.service.chat)
            async with Delivery(bridge.bot("bot"), open_chat, self.service.limits, **options) as delivery:
                yield delivery

    def shown(self, chat: str = "p") -> list[str]:
        return self.service.shown(chat)

    def buttons(self, chat: str = "p") -> list[tuple[str, ...]]:
        """What the buttons under each message do."""
        return [tuple(button.action for button in content.buttons) for content in self.service.messages[chat].values()]

    def id(self, at: int, chat: str = "p") -> str:
        """The id of a message, counted as they are shown."""
        return list(self.service.messages[chat])[at]


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[Harness], None]:
    """The test runs in a time that leaps."""

    def run(harness: Harness) -> None:
        run_virtually(test(harness))
        assert harness.service.violations == []

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def spoken(delivery: Delivery, channel: Channel = PRIVATE) -> list[str]:
    """What the conversation holds, along its current path."""
    return [node.text for node in await delivery.bot.dialogue(channel).path()]
