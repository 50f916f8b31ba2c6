"""Counts calls that are not delivery's: the library's own, and those that put up commands. Makes none.

Discord allows so many calls a second to a bot in all. Delivery counts its own; these have to wait for their turn like
them, and what Discord says to one of them about that limit concerns all.
"""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp
from aiohttp import TraceRequestEndParams, TraceRequestExceptionParams, TraceRequestStartParams
from yarl import URL

from chatbridge import Delivery
from chatbridge_discord.failures import penalty_of


def counted(delivery: Delivery, api: URL) -> aiohttp.TraceConfig:
    """What lets the calls of an HTTP session to `api` wait for their turn, and counts them.

    Interactions are left out, as Discord does: they have to be answered within three seconds.
    """

    async def begin(_: object, call: SimpleNamespace, of: TraceRequestStartParams) -> None:
        if of.url.host == api.host and of.url.port == api.port and "/interactions/" not in of.url.path:
            turn = delivery.other_call()
            await turn.__aenter__()
            call.turn = turn

    async def end(_: object, call: SimpleNamespace, of: TraceRequestEndParams | TraceRequestExceptionParams) -> None:
        if (turn := vars(call).pop("turn", None)) is None:
            return
        await turn.__aexit__(None, None, None)
        if isinstance(of, TraceRequestEndParams) and of.response.status == 429:
            delivery.rate_limited(penalty_of(of.response.headers))

    config = aiohttp.TraceConfig()
    config.on_request_start.append(begin)
    config.on_request_end.append(end)
    config.on_request_exception.append(end)
    return config
