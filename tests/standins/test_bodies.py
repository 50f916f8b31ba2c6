"""Bodies that are nested deep, or come slowly: the stand-ins take them as the services do, and can send such."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from chatbridge.testing import DiscordServer, TelegramServer
from chatbridge.testing.wire.forms import parse_json
from chatbridge.testing.wire.http import HttpServer, Request, Response

from .conftest import running
from .telegram import bot

DEEP = b"[" * 5000 + b"]" * 5000


async def _post(url: str, body: bytes, **headers: str) -> tuple[int, object]:
    kind = {"Content-Type": "application/json"} | headers
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=kind) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("shape", ["[{}]", '{{"a": {}}}'])
def test_json_may_be_nested_as_deep_as_is_said_and_no_deeper(shape: str) -> None:
    text = "[]"
    for _ in range(9):
        text = shape.format(text)
    assert parse_json(text, depth=10) == json.loads(text)
    with pytest.raises(ValueError, match="nested"):
        parse_json(text, depth=9)
    with pytest.raises(ValueError, match="nested"):
        parse_json(DEEP)


@pytest.mark.parametrize(
    "body",
    [DEEP, b'{"text": ' + DEEP + b"}", b"[]", b"7", b'{"chat_id": 1, "text": "' + b"x"],
    ids=["deep", "deep inside", "list", "number", "cut off"],
)
async def test_a_body_that_is_no_object_is_refused_by_telegram(service: TelegramServer, body: bytes) -> None:
    url = f"{service.api_url}{service.bot.token}/sendMessage"
    assert (await _post(url, body))[0] == 400
    async with bot(service) as caller:  # it lives
        await caller.send_message(service.person.id, "hello")


async def test_a_parameter_nested_deep_is_refused_by_telegram(service: TelegramServer) -> None:
    url = f"{service.api_url}{service.bot.token}/sendMessage"
    body = {"chat_id": service.person.id, "text": "x", "reply_markup": DEEP.decode()}
    status, answer = await _post(url, json.dumps(body).encode())
    assert (status, answer["description"]) == (400, "Bad Request: can't parse reply markup JSON object")


async def test_a_body_that_is_nested_deep_or_no_object_is_refused_by_discord(server: DiscordServer) -> None:
    url = f"{server.api_url}/channels/{server.general.id}/messages"
    for body in (DEEP, b"[[]]", b"7", b'"text"'):
        status, answer = await _post(url, body, Authorization=f"Bot {server.bot.token}")
        assert (status, answer["code"]) == (400, 50109)
    async with aiohttp.ClientSession() as session, session.ws_connect(server.gateway_url) as socket:
        await socket.receive_json()
        await socket.send_str('{"op": 2, "d": ' + DEEP.decode() + "}")
        await socket.receive()
        assert socket.close_code == 4002


async def test_an_answer_may_be_nested_deep(server: DiscordServer, service: TelegramServer) -> None:
    service.faults.nested("getMe", depth=5000)
    url = f"{service.api_url}{service.bot.token}/getMe"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (answer.status, (await answer.text()).count("[")) == (200, 5000)
    assert service.calls[-1].answer is None


async def test_a_request_may_come_and_an_answer_may_go_slowly(service: TelegramServer) -> None:
    go_on = asyncio.Event()
    body = json.dumps({"chat_id": service.person.id, "text": "slowly"}).encode()
    service.faults.trickle("sendMessage", go_on, pieces=len(body))

    async def pieces() -> object:
        for at in range(len(body)):
            await asyncio.sleep(0)
            yield body[at : at + 1]

    url = f"{service.api_url}{service.bot.token}/sendMessage"
    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/json"}
        async with session.post(url, data=pieces(), headers=headers) as answer:
            reading = asyncio.create_task(answer.json())
            assert service.messages()[0].text == "slowly"  # it has taken effect before the answer is there
            assert not reading.done()
            go_on.set()
            assert (await reading)["result"]["text"] == "slowly"


async def test_a_webhook_is_posted_to_slowly_or_with_a_body_that_is_broken(service: TelegramServer) -> None:
    got: list[Request] = []

    async def take(request: Request) -> Response:
        got.append(request)
        return Response(200 if len(got) > 1 else 500)

    http = HttpServer(take)
    await http.start()
    service.faults.nested("webhook")
    service.faults.trickle("webhook", 0.001, pieces=20)
    async with bot(service) as caller:
        await caller.set_webhook(f"http://127.0.0.1:{http.port}/hook")
        await service.say(service.private(), "hello")
        await service.calls.wait("webhook", 2)
        await caller.delete_webhook()
    await http.aclose()
    assert [b"[[[" in request.body for request in got] == [True, False]
    assert json.loads(got[1].body)["message"]["text"] == "hello"


async def test_files_of_discord_may_come_slowly_or_not_at_all(server: DiscordServer) -> None:
    from chatbridge.testing.wire.forms import Upload

    said = await server.say(server.general, files=[Upload("a.txt", b"words", "text/plain")])
    async with running(server) as client:
        got = (await client.get_channel(server.general.id).fetch_message(said.id)).attachments[0]
        server.faults.error("GET /attachments/*", 500)
        server.faults.trickle("GET /attachments/*", 0.001, pieces=5)
        async with aiohttp.ClientSession() as session:
            async with session.get(got.url) as answer:
                assert answer.status == 500
            async with session.get(got.url) as answer:
                assert await answer.read() == b"words"
    assert server.faults.pending == 0
