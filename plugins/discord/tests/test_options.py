"""The keys of a Discord bot in bots.yaml: what is taken, and what is said of what is not."""

from __future__ import annotations

import subprocess
import sys

import aiohttp
import chatbridge_discord
import pytest
from aiohttp import web
from chatbridge_discord.options import DiscordOptions
from chatbridge_discord.redirect import Connector
from pydantic import ValidationError
from yarl import URL

from chatbridge import Plugins

GOOD = {"token": "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"token": "Bot abc"}, "developer portal"),
        ({"token": "two words"}, "developer portal"),
        ({"token": ""}, "developer portal"),
        ({"api_url": "127.0.0.1:8080"}, "with its version"),
        ({"api_url": "http://127.0.0.1:8080/api"}, "with its version"),
        ({"gateway_url": "http://127.0.0.1"}, "WebSocket"),
        ({"shards": 0}, "greater than or equal to 1"),
        ({"shards": "many"}, "auto"),
        ({"commands": "some"}, "'global', 'guilds' or 'none'"),
        ({"allowed_mentions": ["here"]}, "'users', 'roles' or 'everyone'"),
        ({"max_parts": 0}, "greater than or equal to 1"),
        ({"catch_up_hours": -1}, "greater than or equal to 0"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_what_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        DiscordOptions.model_validate(GOOD | given)
    assert GOOD["token"] not in str(refused.value)


def test_what_is_taken() -> None:
    more = {"shards": "auto", "api_url": "http://127.0.0.1:8080/api/v10", "gateway_url": "ws://127.0.0.1:8080/gateway/"}
    options = DiscordOptions.model_validate(GOOD | more | {"proxy": "http://user:s3cret@127.0.0.1:3128"})
    assert options.token.get_secret_value() == GOOD["token"]
    assert GOOD["token"] not in repr(options)
    assert "s3cret" not in repr(options)


@pytest.mark.parametrize(("id", "good"), [("1122334455667788990", True), ("12 34", False), ("#general", False)])
def test_ids(id: str, good: bool) -> None:
    plugins = Plugins([chatbridge_discord], discover=False)
    wrong = plugins.require_frontend("discord").check_id(id)
    assert (wrong == "") is good
    assert good or "Copy ID" in wrong


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("https://discord.com/api/v10/users/@me", "http://127.0.0.1:8080/proxy/v10/users/@me"),
        ("https://discord.com/api/v10/channels/1?limit=5", "http://127.0.0.1:8080/proxy/v10/channels/1?limit=5"),
        ("https://discord.com/api/v10/a/%F0%9F%8E%89/@me", "http://127.0.0.1:8080/proxy/v10/a/%F0%9F%8E%89/@me"),
        ("wss://gateway.discord.gg/?v=10&compress=zlib-stream", "ws://127.0.0.1:9/gw/?v=10&compress=zlib-stream"),
        ("wss://gateway-us-east1-b.discord.gg/?v=10", "ws://127.0.0.1:9/gw/?v=10"),
        ("https://cdn.discordapp.com/attachments/1/2/a.txt", "https://cdn.discordapp.com/attachments/1/2/a.txt"),
        ("https://discord.com.evil.example/api/v10/users/@me", "https://discord.com.evil.example/api/v10/users/@me"),
    ],
)
async def test_what_goes_elsewhere(url: str, there: str) -> None:
    connector = Connector("http://127.0.0.1:8080/proxy/v10/", "ws://127.0.0.1:9/gw/")
    assert str(connector._moved(URL(url, encoded=True))) == there
    await connector.close()


async def test_the_other_server_is_called_by_its_own_name(unused_tcp_port: int) -> None:
    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.host} {request.raw_path}")

    app = web.Application()
    app.router.add_get("/{path:.*}", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    here = f"127.0.0.1:{unused_tcp_port}"
    connector = Connector(f"http://{here}/api/v10", f"ws://{here}/")
    url = "https://discord.com/api/v10/users/@me?a=b"
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        assert await answer.text() == f"{here} /api/v10/users/@me?a=b"
    await runner.cleanup()


async def test_by_default_nothing_goes_elsewhere() -> None:
    options = DiscordOptions.model_validate(GOOD)
    connector = Connector(options.api_url, options.gateway_url)
    for url in (
        "https://discord.com/api/v10/users/@me?a=%20",
        "wss://gateway-x.discord.gg/?v=10",
        "wss://gateway.discord.gg/?v=10",
    ):
        assert str(connector._moved(URL(url, encoded=True))) == url
    await connector.close()


def test_naming_the_frontend_imports_no_library() -> None:
    code = "import sys, chatbridge_discord; chatbridge_discord.register_frontends(); print('discord' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
