"""Discord's HTTP side: finds the route, counts the call, lets faults befall it, and records it. Knows no rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.testing.discord import rest_applications, rest_channels, rest_webhooks
from chatbridge.testing.discord.faults import JSON, DiscordFaults, banned, too_many_requests
from chatbridge.testing.discord.gateway import Gateway
from chatbridge.testing.discord.interactions import Interactions
from chatbridge.testing.discord.limits import Bucket, Limiter, TooMany
from chatbridge.testing.discord.payloads import signature
from chatbridge.testing.discord.routes import Asked, Route, RouteResult
from chatbridge.testing.discord.state import Bot, Refusal, World
from chatbridge.testing.wire.calls import Call, Calls
from chatbridge.testing.wire.forms import Upload, parse_form, parse_json
from chatbridge.testing.wire.http import Request, Reset, Response, Upgrade

PREFIX = "/api/v10"
ROUTES: tuple[Route, ...] = (*rest_applications.ROUTES, *rest_channels.ROUTES, *rest_webhooks.ROUTES)


@dataclass(slots=True)
class _Counted:
    """Where a call counts: the name of its bot, and the bucket of its route."""

    bot: str
    bucket: Bucket
    exempt: bool


class Api:
    """Answers every request: REST, the gateway, and downloads of attachments."""

    def __init__(
        self, world: World, interactions: Interactions, limiter: Limiter, gateway: Gateway, calls: Calls
    ) -> None:
        self._world, self._interactions, self._limiter = world, interactions, limiter
        self._gateway, self._calls = gateway, calls
        self._counted: dict[Call, _Counted] = {}
        self.faults = DiscordFaults(self._block)

    async def handle(self, request: Request) -> Response | Upgrade:
        """Answer one request."""
        path = request.path.removeprefix(PREFIX)
        token = request.headers.get("authorization", "").removeprefix("Bot ")
        bot = self._world.bots.get(token)
        call = Call(f"{request.method} {path}", bot.user.name if bot else "", self._world.clock())
        self._calls.begin(call)
        status: int | None = None
        response: Response | Upgrade = Response()
        try:
            response = await self._answer(request, path, bot, call)
            status = 101 if isinstance(response, Upgrade) else response.status
        finally:
            body = None if isinstance(response, Upgrade) else _decoded(response.body)
            self._calls.end(call, self._world.clock(), status, body)
            self._counted.pop(call, None)
        return response

    async def _answer(self, request: Request, path: str, bot: Bot | None, call: Call) -> Response | Upgrade:
        if path.startswith("/gateway/") and "sec-websocket-key" in request.headers:
            fault = self.faults.take(call)
            try:
                return self._gateway.accept(request) if fault is None else await fault.befall(call, None)
            except Refusal as refusal:
                return _via(_refused(refusal))
        if path == request.path:
            answer = self._download(path, request.query)
            fault = self.faults.take(call)
            return answer if fault is None else await fault.befall(call, answer if fault.acts else None)
        if self._limiter.banned():
            return banned()
        found = ((route, route.pattern.match(path)) for route in ROUTES if route.method == request.method)
        route, match = next(((route, match) for route, match in found if match), (None, None))
        if route is None or match is None:
            return _via(Response(501, b'{"message": "the stand-in does not know this route", "code": 0}', JSON))
        ids = match.groupdict()
        counted = self._count(call, route, ids, bot)
        too_many = self._limiter.take(counted.bot, counted.bucket, exempt=route.exempt)
        if too_many is not None:
            return self._told(call, counted, too_many_requests(too_many))
        try:
            body, files = _parsed(request)
            if not isinstance(body, dict | list if request.method == "PUT" else dict):  # all commands at once
                raise TypeError("an object was asked for")
        except (ValueError, TypeError):
            return self._told(call, counted, _refused(Refusal(400, 50109, "The request body contains invalid JSON.")))
        call.params = body if isinstance(body, dict) else {"": body} if body else dict(request.query)
        call.files = {str(index): file for index, file in enumerate(files)}
        asked = Asked(self._world, self._interactions, ids, request.query, body, files, bot)
        fault = self.faults.take(call)
        if fault is None:
            return self._told(call, counted, self._act(route, asked))
        done = self._act(route, asked) if fault.acts else None
        return self._told(call, counted, await fault.befall(call, done))

    def _count(self, call: Call, route: Route, ids: Mapping[str, str], bot: Bot | None) -> _Counted:
        name = bot.user.name if bot else "nobody"
        bucket = self._limiter.bucket(
            name, f"{route.method} {route.path}", route.place(ids), of_messages=route.of_messages
        )
        call.early = self._limiter.is_early(name, bucket, exempt=route.exempt)
        self._counted[call] = counted = _Counted(name, bucket, route.exempt)
        return counted

    def _block(self, call: Call, seconds: float, scope: str) -> TooMany:
        counted = self._counted.get(call)
        if counted is None:
            raise Reset
        bucket = self._limiter.overall(counted.bot) if scope == "global" else counted.bucket
        return self._limiter.block(bucket, seconds, scope)

    def _act(self, route: Route, asked: Asked) -> Response:
        try:
            answer = route.handle(asked)
        except Refusal as refusal:
            return _refused(refusal)
        except NotImplementedError as error:
            return _refused(Refusal(501, 0, str(error)))
        status = answer.status if isinstance(answer, RouteResult) else 204 if answer is None else 200
        given = answer.json if isinstance(answer, RouteResult) else answer
        return Response(status) if status == 204 else Response(status, json.dumps(given).encode(), JSON)

    def _told(self, call: Call, counted: _Counted, response: Response) -> Response:
        """The answer with its headers; from now on the bot knows how long it must wait."""
        limited = response.status == 429
        if limited and "X-RateLimit-Scope" not in response.headers:
            return response  # not from Discord
        if response.status in (401, 403, 429):
            self._limiter.invalid()
        body = _decoded(response.body) if limited else {}
        too_many = TooMany(body["retry_after"], response.headers["X-RateLimit-Scope"]) if limited else None
        self._limiter.told(counted.bot, counted.bucket, too_many)
        headers = {**response.headers, **self._limiter.headers(counted.bucket)}
        return _via(replace(response, headers=headers))

    def _download(self, path: str, query: Mapping[str, str]) -> Response:
        parts = path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "attachments" and parts[1].isdigit():
            found = self._world.attachments.get(int(parts[1]))
            expires = query.get("ex", "0")
            known = found is not None and query.get("hm") == signature(found, expires)
            if found is not None and known and int(expires, 16) > self._world.clock():
                return Response(200, found.content, {"Content-Type": found.content_type})
        return Response(404, b"This content is no longer available.", {"Content-Type": "text/plain"})


def _via(response: Response) -> Response:
    return replace(response, headers={**response.headers, "Via": "1.1 stand-in"})


def _refused(refusal: Refusal) -> Response:
    return Response(refusal.status, json.dumps(refusal.body).encode(), JSON)


def _decoded(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError:
        return None


def _parsed(request: Request) -> tuple[Any, Sequence[Upload]]:
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/"):
        fields, files = parse_form(kind, request.body)
        return parse_json(fields.get("payload_json", "{}")), [files[name] for name in sorted(files)]
    return (parse_json(request.body) if request.body else {}), ()
