"""Webhooks: updates are posted to the bot's own listener, in order, again and again until it takes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from chatbridge.testing.telegram.parameters import MAX_DEPTH, Parameters
from chatbridge.testing.telegram.state import Bot, Json, Webhook, World
from chatbridge.testing.wire.calls import Call, Calls
from chatbridge.testing.wire.faults import Faults
from chatbridge.testing.wire.forms import parse_json
from chatbridge.testing.wire.http import Reset, Response
from chatbridge.testing.wire.post import post

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"


class Webhooks:
    """One task for each bot with a webhook; a post is in the record of calls as `webhook`, with the bot's status.

    Faults of `webhook` befall what is posted: it comes slowly, or broken, or the connection is reset before.
    `retry`: real seconds before an update that was not taken is posted again; doubled each time, up to a minute.
    """

    def __init__(
        self,
        world: World,
        calls: Calls,
        faults: Faults,
        retry: float,
        call: Callable[[Bot, str, Parameters], Awaitable[None]],
    ) -> None:
        self._world, self._calls, self._faults, self._retry, self._call = world, calls, faults, retry, call
        self._tasks: dict[Bot, asyncio.Task[None]] = {}
        world.listeners.append(self._wake)

    def _wake(self, bot: Bot) -> None:
        hook = bot.webhook
        if hook is None or not bot.updates:
            return
        task = self._tasks.get(bot)
        if task is None or task.done():
            self._tasks[bot] = asyncio.get_running_loop().create_task(self._deliver(bot))

    async def _deliver(self, bot: Bot) -> None:
        wait = self._retry
        while bot.updates and (hook := bot.webhook) is not None:
            update = bot.updates[0]
            if await self._post(bot, hook, update):
                wait = self._retry
                if bot.updates[:1] == [update]:
                    bot.updates.pop(0)
            else:
                await asyncio.sleep(wait)
                wait = min(wait * 2, 60)

    async def _post(self, bot: Bot, hook: Webhook, update: Json) -> bool:
        """Whether the bot took an update."""
        call = self._calls.begin(Call("webhook", bot.user.username or "", self._world.clock(), update))
        headers = {"Content-Type": "application/json"} | ({SECRET_HEADER: hook.secret} if hook.secret else {})
        posted, fault = Response(body=json.dumps(update).encode()), self._faults.take(call)
        try:
            if fault is not None:
                posted = await fault.befall(call, posted if fault.acts else None)
            status, body = await post(hook.url, posted.body, headers, pieces=posted.pieces, pause=posted.pause)
        except (OSError, EOFError, Reset) as error:
            self._calls.end(call, self._world.clock(), None, None)
            hook.error, hook.error_at = f"Connection failed: {error}", self._world.clock()
            return False
        self._calls.end(call, self._world.clock(), status, None)
        if not 200 <= status < 300:
            hook.error, hook.error_at = f"Wrong response from the webhook: {status}", self._world.clock()
            return False
        await self._answered(bot, body)
        return True

    async def _answered(self, bot: Bot, body: bytes) -> None:
        try:
            given = parse_json(body, depth=MAX_DEPTH)
        except ValueError:
            return
        if isinstance(given, dict) and "method" in given:
            await self._call(bot, str(given.pop("method")), Parameters(given, {}))

    async def aclose(self) -> None:
        """Post nothing more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
