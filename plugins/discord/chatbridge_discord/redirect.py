"""Redirects what the library would send to Discord to another server, for one client alone. Knows no call.

discord.py has its addresses as attributes of classes, which all bots of a process share; each client's connector is
its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

API, GATEWAY = URL("https://discord.com/api/v10"), URL("wss://gateway.discord.gg/")


class Connector(aiohttp.TCPConnector):
    """Connects to `api_url` in place of Discord's REST API, and to `gateway_url` in place of its gateway."""

    def __init__(self, api_url: str, gateway_url: str) -> None:
        super().__init__(limit=0)  # as the library makes its own: it counts calls by itself
        self._api, self._gateway = URL(api_url), URL(gateway_url)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 (aiohttp's own)
    ) -> Connection:
        """A connection for a request, which is sent to the other server if it was for Discord."""
        url = self._moved(req.url)
        if url != req.url:
            req.url = url
            req.headers[hdrs.HOST] = url.host_port_subcomponent or ""
        return await super().connect(req, traces, timeout)

    def _moved(self, url: URL) -> URL:
        if url.host == API.host and url.path.startswith(API.path):
            rest = url.raw_path_qs.removeprefix(API.raw_path)
            return URL(f"{str(self._api).rstrip('/')}{rest}", encoded=True)
        if url.host is not None and url.host.endswith(".discord.gg"):
            # The gateway says where to resume, at a host of its own; a proxy wants that to come to it too.
            if self._gateway.host == GATEWAY.host:
                return url
            return self._gateway.with_query(url.query)
        return url
