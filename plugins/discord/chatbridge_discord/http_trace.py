"""Lets calls that are not delivery's keep to the bot's rate limit, too: the library's own, and those about commands.

Discord limits the calls that a bot makes a second, all together. Delivery counts its own. A trace of aiohttp counts the
others, holds them back until one more is allowed, and tells delivery of a global 429. It makes no call.
"""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp
from aiohttp import TraceRequestEndParams, TraceRequestExceptionParams, TraceRequestStartParams
from yarl import URL

from chatbridge import Delivery
from chatbridge_discord.failures import rate_limited_of


def counting_trace(delivery: Delivery, api: URL) -> aiohttp.TraceConfig:
    """A trace for an HTTP session: its calls to `api` wait until one more is allowed, and are counted.

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
            delivery.rate_limited(rate_limited_of(of.response.headers))

    config = aiohttp.TraceConfig()
    config.on_request_start.append(begin)
    config.on_request_end.append(end)
    config.on_request_exception.append(end)
    return config
