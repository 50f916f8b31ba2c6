"""How the stand-in Telegram tells bots of what happens: long polls, their conflicts, and webhooks."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from chatbridge.testing import TelegramServer
from chatbridge.testing.wire.http import HttpServer, Request, Response

from .telegram import application, bot, polling, telegram


async def test_updates_stay_until_they_are_confirmed(service: TelegramServer) -> None:
    for text in ("one", "two", "three"):
        await service.say(service.private(), text)
    async with bot(service) as caller:

        async def texts(**given: object) -> list[str]:
            return [update.message.text for update in await caller.get_updates(timeout=0, **given)]

        first = (await caller.get_updates(timeout=0))[0].update_id
        assert await texts() == ["one", "two", "three"]
        assert await texts(limit=1) == ["one"]
        assert await texts(offset=first) == ["one", "two", "three"]
        assert await texts(offset=first + 1) == ["two", "three"]
        assert await texts(offset=-1) == ["three"], "a negative offset forgets all before it"
        assert await texts() == ["three"]
        assert await texts(offset=first + 3) == []


async def test_a_poll_is_held_until_something_comes(service: TelegramServer) -> None:
    async with bot(service) as caller:
        waiting = asyncio.create_task(caller.get_updates(timeout=5))
        await service.until(lambda: service.calls.to("getUpdates"))
        assert not waiting.done()
        await service.say(service.private(), "now")
        assert [update.message.text for update in await waiting] == ["now"]


async def test_the_kinds_that_were_asked_for_stay_asked_for(service: TelegramServer) -> None:
    async with bot(service) as caller:
        await caller.get_updates(timeout=0, allowed_updates=["edited_message"])
        message = await service.say(service.private(), "unheard")
        await service.edit(message, "heard")
        assert [update.edited_message.text for update in await caller.get_updates(timeout=0)] == ["heard"]
        await caller.get_updates(timeout=0, offset=-1, allowed_updates=[])
        await service.say(service.private(), "heard again")
        assert [update.message.text for update in await caller.get_updates(timeout=0) if update.message] == [
            "heard again"
        ]


async def test_reactions_are_told_to_administrators_who_ask(service: TelegramServer) -> None:
    group = service.add_group("Group")
    async with polling(service, allowed_updates=["message", "message_reaction"]) as app:
        message = await service.say(group, "/x")
        await service.react(message, "👍")
        await service.let_in(group, service.bot.user, status="administrator")
        await service.react(message, "❤")
        told = (await app.bot_data["inbox"].until(2)).message_reaction
        assert (told.message_id, told.old_reaction[0].emoji, told.new_reaction[0].emoji) == (message.id, "👍", "❤")


async def test_the_second_of_two_pollers_ends_the_first(service: TelegramServer) -> None:
    async with bot(service) as first, bot(service) as second:
        waiting = asyncio.create_task(first.get_updates(timeout=5))
        await service.until(lambda: service.calls.to("getUpdates"))
        later = asyncio.create_task(second.get_updates(timeout=5))
        with pytest.raises(telegram.error.Conflict, match="terminated by other getUpdates request"):
            await waiting
        await service.say(service.private(), "for the second")
        assert [update.message.text for update in await later] == ["for the second"]


async def test_who_hangs_up_is_no_longer_polling(service: TelegramServer) -> None:
    async with bot(service) as first, bot(service) as second:
        waiting = asyncio.create_task(first.get_updates(timeout=5))
        await service.until(lambda: service.calls.to("getUpdates"))
        waiting.cancel()
        await service.calls.wait("getUpdates")
        assert await second.get_updates(timeout=0) == ()
        assert [call.status for call in service.calls.to("getUpdates")] == [None, 200]


class Listener:
    """A bot's own listener: answers as told, and keeps what it got."""

    def __init__(self) -> None:
        self.answers: list[Response] = []
        self.got: list[Request] = []

    async def answer(self, request: Request) -> Response:
        self.got.append(request)
        return self.answers.pop(0) if self.answers else Response()

    @property
    def ids(self) -> list[int]:
        return [json.loads(request.body)["update_id"] for request in self.got]


async def test_a_webhook_is_posted_to_with_its_secret_until_it_takes_each_update(service: TelegramServer) -> None:
    listener = Listener()
    http = HttpServer(listener.answer)
    await http.start()
    async with bot(service) as caller:
        await service.say(service.private(), "before")
        listener.answers = [Response(500), Response(302), Response(204)]
        await caller.set_webhook(f"http://127.0.0.1:{http.port}/hook", secret_token="s3cret")
        await service.say(service.private(), "after")
        await service.calls.wait("webhook", 4)
        assert listener.ids == [1, 1, 1, 2]
        headers = [request.headers for request in listener.got]
        assert {(one["content-type"], one["x-telegram-bot-api-secret-token"]) for one in headers} == {
            ("application/json", "s3cret")
        }
        assert (await caller.get_webhook_info()).last_error_message == "Wrong response from the webhook: 302"
        with pytest.raises(telegram.error.Conflict, match="webhook is active"):
            await caller.get_updates(timeout=0)
        answer = {"method": "sendMessage", "chat_id": service.person.id, "text": "by the way"}
        listener.answers = [Response(200, json.dumps(answer).encode())]
        await service.say(service.private(), "answer me")
        assert (await service.next_message()).text == "by the way"
        await caller.delete_webhook()
        await service.say(service.private(), "polled")
        assert [update.message.text for update in await caller.get_updates(timeout=0)] == ["polled"]
    await http.aclose()


async def test_a_listener_that_is_not_there_is_tried_again(service: TelegramServer) -> None:
    listener = Listener()
    http = HttpServer(listener.answer)
    await http.start()
    port = http.port
    await http.aclose()
    async with bot(service) as caller:
        await caller.set_webhook(f"http://127.0.0.1:{port}/")
        await service.say(service.private(), "x")
        await service.calls.wait("webhook", 2)
        again = HttpServer(listener.answer)
        await again.start(port)
        await service.until(lambda: listener.got, what="the post")
        await again.aclose()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"url": "http://example.org/"}, "an https url must be provided"),
        ({"url": "https://example.org/", "secret_token": "no blanks"}, "unallowed characters"),
    ],
)
async def test_what_a_webhook_may_not_be(service: TelegramServer, given: dict[str, str], why: str) -> None:
    async with bot(service) as caller:
        with pytest.raises(telegram.error.BadRequest, match=rf"(?i){why}"):
            await caller.set_webhook(**given)


async def test_the_webhook_listener_of_the_library(service: TelegramServer, unused_tcp_port: int) -> None:
    app = application(service)
    async with app:
        await app.start()
        url = f"http://127.0.0.1:{unused_tcp_port}/"
        await app.updater.start_webhook(port=unused_tcp_port, webhook_url=url, secret_token="s3cret")
        await service.say(service.private(), "posted")
        assert (await app.bot_data["inbox"].until()).message.text == "posted"
        await app.updater.stop()
        await app.stop()


@pytest.mark.parametrize("way", ["query", "form", "json"])
async def test_parameters_come_in_every_way(service: TelegramServer, way: str) -> None:
    given = {"chat_id": str(service.person.id), "text": "hi", "reply_parameters": '{"message_id": 1}'}
    said = await service.say(service.private(), "first")
    url = f"{service.api_url}{service.bot.token}/sendmessage"
    async with aiohttp.ClientSession() as session:
        ways = {
            "query": lambda: session.get(url, params=given),
            "form": lambda: session.post(url, data=given),
            "json": lambda: session.post(url, json=given | {"chat_id": service.person.id}),
        }
        async with ways[way]() as response:
            assert (response.status, (await response.json())["result"]["text"]) == (200, "hi")
        assert service.messages()[0].reply_to is said
        assert service.calls[-1].name == "sendMessage"
        async with session.post(url, data=b"{", headers={"Content-Type": "application/json"}) as response:
            assert response.status == 400
