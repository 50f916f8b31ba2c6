"""A Telegram on loopback that python-telegram-bot talks to unmodified: one person and one bot to begin with."""

from __future__ import annotations

from types import TracebackType

from chatbridge.testing.telegram.api import Api
from chatbridge.testing.telegram.limits import Limits
from chatbridge.testing.telegram.people import People
from chatbridge.testing.telegram.state import Bot, User, World
from chatbridge.testing.telegram.updates import Polls
from chatbridge.testing.telegram.webhooks import Webhooks
from chatbridge.testing.wire.calls import Calls
from chatbridge.testing.wire.changes import Changes
from chatbridge.testing.wire.clock import Clock
from chatbridge.testing.wire.http import HttpServer


class TelegramServer(People):
    """The Bot API, with Telegram's limits, errors and rules; an async context manager.

    Point a client at `api_url` and `file_url`. `calls` records what it did, `faults` makes trouble, `clock` moves time
    on, and the methods are what people do. With python-telegram-bot::

        async with TelegramServer() as server:
            builder = Application.builder().token(server.bot.token)
            application = builder.base_url(server.api_url).base_file_url(server.file_url).build()
            async with application:
                await application.start()
                await application.updater.start_polling()
                await server.say(server.private(), "Hello!")
                assert (await server.next_message()).text == "Hello, Alice!"
                await application.updater.stop()
                await application.stop()

    What it does not know (stickers, payments, polls, channels, business accounts) it answers with 404, and records.
    """

    def __init__(
        self, *, clock: Clock | None = None, limits: Limits | None = None, webhook_retry: float = 1, port: int = 0
    ) -> None:
        self.clock = clock or Clock()
        changes = Changes()
        super().__init__(World(self.clock), changes)
        self.calls = Calls(changes)
        self._api = Api(self.world, Polls(self.world), limits or Limits(), self.calls)
        self._webhooks = Webhooks(self.world, self.calls, self._api.faults, webhook_retry, self._api.call)
        self.faults = self._api.faults
        self._http = HttpServer(self._api.handle)
        self._port = port
        self.world.listeners.append(lambda bot: changes.tell())
        self.person = self.add_person("Alice")
        self.bot = self.add_bot("Helper", "helper_bot")
        self.private()

    async def __aenter__(self) -> TelegramServer:
        await self._http.start(self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._webhooks.aclose()
        await self._http.aclose()

    @property
    def api_url(self) -> str:
        """What comes before the token in the address of a method."""
        return f"http://127.0.0.1:{self._http.port}/bot"

    @property
    def file_url(self) -> str:
        """What comes before the token in the address of a file."""
        return f"http://127.0.0.1:{self._http.port}/file/bot"

    def add_person(self, name: str, *, language: str = "en", username: str | None = None) -> User:
        """A person; `language` is that of their client."""
        user = User(self.world.new_id(), name, username or f"{name.lower()}_{self.world.new_id()}", language=language)
        self.world.users[user.id] = user
        return user

    def add_bot(self, name: str, username: str, *, privacy: bool = True, inline: bool = False) -> Bot:
        """A bot with a token of its own; `privacy`: in groups it hears only what is meant for it."""
        user = User(self.world.new_id(), name, username, is_bot=True)
        self.world.users[user.id] = user
        bot = Bot(user, f"{user.id}:token-of-{username}", privacy, inline)
        self.world.bots[bot.token] = bot
        return bot
