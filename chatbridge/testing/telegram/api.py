"""Telegram's HTTP side: finds the method, counts the call, lets faults befall it, and records it. Knows no rule."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from chatbridge.testing.telegram.faults import JSON, TelegramFaults, refused
from chatbridge.testing.telegram.limits import Gauge, Limiter, Limits
from chatbridge.testing.telegram.methods import METHODS, Asked
from chatbridge.testing.telegram.parameters import Parameters
from chatbridge.testing.telegram.state import Bot, Refusal, World
from chatbridge.testing.telegram.updates import Polls
from chatbridge.testing.wire.calls import Call, Calls
from chatbridge.testing.wire.forms import parse_json
from chatbridge.testing.wire.http import Request, Response

_METHOD = re.compile(r"/bot([^/]+)/(\w+)")
_FILE = re.compile(r"/file/bot([^/]+)/(.+)")
_TOKEN = re.compile(r"\d+:[A-Za-z0-9_-]+")
_NAMES = {name.lower(): name for name in (*METHODS, "getUpdates")}
_LIGHT = frozenset({"sendChatAction", "sendMessageDraft", "sendRichMessageDraft"})
_UNCOUNTED = re.compile("get|setWebhook|deleteWebhook|logOut|close")


class Api:
    """Answers every request: methods, and downloads of files."""

    def __init__(self, world: World, polls: Polls, limits: Limits, calls: Calls) -> None:
        self._world, self._polls, self._calls = world, polls, calls
        self._limits, self._limiter = limits, Limiter(world.clock, limits)
        self._gauges: dict[Call, list[Gauge]] = {}
        self.faults = TelegramFaults(self._penalise)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        method, file = _METHOD.fullmatch(request.path), _FILE.fullmatch(request.path)
        match = method or file
        bot = self._world.bots.get(match[1]) if match else None
        name = _NAMES.get(method[2].lower(), method[2]) if method else "file" if file else request.path
        call = Call(name, bot.user.username or "" if bot else "", self._world.clock())
        self._calls.begin(call)
        response: Response | None = None
        try:
            response = await self._answer(request, call, bot, match)
            return response
        finally:
            status = response.status if response is not None else None
            self._calls.end(call, self._world.clock(), status, _decoded(response.body) if response else None)
            self._gauges.pop(call, None)

    async def _answer(self, request: Request, call: Call, bot: Bot | None, match: re.Match[str] | None) -> Response:
        if match is None or (bot is None and not _TOKEN.fullmatch(match[1])):
            return refused(Refusal(404, "Not Found"))
        if bot is None:
            return refused(Refusal(401, "Unauthorized"))
        if call.name == "file":
            return await self._befallen(call, partial(self._download, match[2]))
        try:
            given = Parameters.of(request)
            call.params, call.files = given.values, given.files
            self._count(call, bot, given)
        except Refusal as refusal:
            return self._told(call, refused(refusal))
        return self._told(call, await self._befallen(call, partial(self._act, call.name, bot, given)))

    async def call(self, bot: Bot, name: str, given: Parameters) -> None:
        """What a webhook was answered with: a method that is called at once; nobody learns what came of it."""
        call = self._calls.begin(Call(name, bot.user.username or "", self._world.clock(), given.values, given.files))
        response = await self._act(name, bot, given)
        self._calls.end(call, self._world.clock(), response.status, _decoded(response.body))

    async def _befallen(self, call: Call, act: Callable[[], Awaitable[Response]]) -> Response:
        fault = self.faults.take(call)
        if fault is None:
            return await act()
        return await fault.befall(call, await act() if fault.acts else None)

    async def _act(self, name: str, bot: Bot, given: Parameters) -> Response:
        try:
            if name == "getUpdates":
                return await self._updates(bot, given)
            if name not in METHODS:
                return refused(Refusal(404, "Not Found: method not found"))
            return _result(METHODS[name](Asked(self._world, bot, given, self._limits.query_seconds)))
        except Refusal as refusal:
            return refused(refusal)

    def _count(self, call: Call, bot: Bot, given: Parameters) -> None:
        """Count a call by its bot and its chat; getting things costs nothing."""
        lightly = call.name in _LIGHT
        chat = "" if call.name.startswith(("delete", "set")) else given.text("chat_id")
        gauges = self._gauges[call] = self._limiter.gauges(bot.token, chat, lightly=lightly)
        if _UNCOUNTED.match(call.name):
            return
        call.early = self._limiter.is_early(gauges)
        self._limiter.take(gauges, lightly=lightly)

    def _penalise(self, call: Call, seconds: float, everywhere: bool) -> Refusal:
        gauges = self._gauges[call]
        return self._limiter.penalise(gauges[0 if everywhere else min(1, len(gauges) - 1)], seconds)

    def _told(self, call: Call, response: Response) -> Response:
        if response.status == 429:
            self._limiter.tell(self._gauges[call])
        return response

    async def _updates(self, bot: Bot, given: Parameters) -> Response:
        limit, allowed = given.integer("limit"), given.object("allowed_updates")
        seconds = float(given.integer("timeout") or 0)
        found = await self._polls.poll(bot, given.integer("offset"), 100 if limit is None else limit, seconds, allowed)
        return _result(found)

    async def _download(self, path: str) -> Response:
        for file in self._world.files.values():
            if file.path == path:
                return Response(200, file.content, {"Content-Type": "application/octet-stream"})
        return refused(Refusal(404, "Not Found"))


def _result(result: object) -> Response:
    return Response(200, json.dumps({"ok": True, "result": result}).encode(), JSON)


def _decoded(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError:
        return None
