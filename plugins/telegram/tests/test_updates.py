"""How updates come in: confirmed only once they are stored, by polls and by a webhook, whatever goes wrong."""

from __future__ import annotations

import asyncio
import io
import logging
from pathlib import Path

import aiohttp
import pytest
from chatbridge_telegram.listener import Listener
from chatbridge_telegram.options import Webhook

from chatbridge import ConfigError, StoreError
from chatbridge.store import Inbox
from chatbridge.testing import ScriptedBackend, TelegramServer, bridge_with, channel_settings, scripted

from .conftest import serving, talking


async def test_an_update_is_confirmed_only_once_it_is_stored(
    roomy: TelegramServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, failing = Inbox.add, True

    async def flaky(self: Inbox, *given: object) -> object:
        if failing:
            raise StoreError("the disk is full")
        return await add(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Inbox, "add", flaky)
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        await roomy.calls.wait("getUpdates", 3)
        assert len(roomy.bot.updates) == 1, "it is asked for again and again"
        failing = False
        assert (await roomy.next_answer()).text == "Yes."
        await roomy.until(lambda: not roomy.bot.updates or None, what="the confirmation")


async def test_a_press_is_confirmed_only_once_it_is_stored(
    roomy: TelegramServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, failing = Inbox.add, False

    async def flaky(self: Inbox, *given: object, **more: object) -> object:
        if failing:
            raise StoreError("the disk is full")
        return await add(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Inbox, "add", flaky)
    async with talking(roomy, ScriptedBackend("One.", "Two."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        answer = await roomy.next_answer()
        await roomy.until(lambda: not roomy.bot.updates or None, what="the confirmation")
        failing = True
        await roomy.press(answer, "regenerate")
        await roomy.calls.wait("getUpdates", len(roomy.calls.to("getUpdates")) + 2)
        assert len(roomy.bot.updates) == 1, "it is asked for again and again"
        failing = False
        assert (await roomy.next_answer()).text == "Two."
        await roomy.until(lambda: not roomy.bot.updates or None, what="the confirmation")


async def test_an_update_that_comes_twice_is_answered_once(roomy: TelegramServer, tmp_path: Path) -> None:
    roomy.faults.lose_answer("getUpdates", skip=1)
    backend = ScriptedBackend("One.", "Two.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.private(), "first")
        assert (await roomy.next_answer()).text == "One."
        roomy.bot.updates.insert(0, {"update_id": 1, "message": _told(roomy, "first")})
        await roomy.say(roomy.private(), "second")
        assert (await roomy.next_answer()).text == "Two."
    assert len(backend.requests) == 2


def _told(server: TelegramServer, text: str) -> dict[str, object]:
    from chatbridge.testing.telegram.payloads import message_json

    found = next(message for message in server.private().messages.values() if message.text == text)
    return message_json(found)


async def test_an_update_that_can_not_be_read_is_passed_over(
    roomy: TelegramServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        await roomy.next_answer()
        roomy.bot.updates.append({"update_id": roomy.bot.next_update, "message": {"message_id": 7}})
        roomy.bot.next_update += 1
        await roomy.say(roomy.private(), "and after it")
        await roomy.next_answer()
        await roomy.until(lambda: not roomy.bot.updates or None, what="the confirmation")
    assert "an update can't be read" in caplog.text


@pytest.mark.parametrize("trouble", ["reset", "502", "malformed", "nested", "conflict", "flood"])
async def test_polls_go_on_after_trouble(
    roomy: TelegramServer, tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    {
        "reset": lambda: roomy.faults.reset("getUpdates", times=2),
        "502": lambda: roomy.faults.error("getUpdates", 502, times=2),
        "malformed": lambda: roomy.faults.malformed("getUpdates", times=2),
        "nested": lambda: roomy.faults.nested("getUpdates", times=2),
        "conflict": lambda: roomy.faults.refuse("getUpdates", 409, "Conflict: terminated by other getUpdates request"),
        "flood": lambda: roomy.faults.refuse("getUpdates", 429, "Too Many Requests", {"retry_after": 1}),
    }[trouble]()
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        assert (await roomy.next_answer()).text == "Yes."
        await roomy.until(lambda: not roomy.bot.updates or None, what="the confirmation")
    assert roomy.faults.pending == 0
    assert [message.text for message in roomy.messages()] == ["Yes."]
    assert "Traceback" not in caplog.text


async def test_a_start_waits_until_telegram_can_be_reached(
    roomy: TelegramServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roomy.faults.reset("getMe")
    roomy.faults.nested("getMe")
    roomy.faults.reset("deleteWebhook")
    roomy.faults.nested("getMyCommands")
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        assert (await roomy.next_answer()).text == "Yes."
    assert caplog.text.count("no answer from Telegram") == 3
    assert "Traceback" not in caplog.text


async def test_a_wrong_token_is_told_in_words_that_do_not_hold_it(roomy: TelegramServer, tmp_path: Path) -> None:
    roomy.world.bots.clear()
    async with bridge_with(scripted(ScriptedBackend("")), tmp_path / "store") as bridge:
        with pytest.raises(ConfigError, match="@BotFather shows the right one") as refused:
            async with serving(roomy, bridge.bot("bot")) as task:
                await task
        assert roomy.bot.token not in str(refused.value)
        assert refused.value.__cause__ is None


async def test_privacy_mode_is_explained_where_the_settings_want_more(
    roomy: TelegramServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=channel_settings(reply_to="mentions")):
        await roomy.say(roomy.private(), "hello")
        await roomy.next_answer()
    assert "/setprivacy" not in caplog.text
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        await roomy.next_answer()
    assert "Say /setprivacy to @BotFather" in caplog.text


async def test_the_log_names_a_chat_that_the_bot_is_let_into(
    roomy: TelegramServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group = roomy.add_group("Club", roomy.person)
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        await roomy.next_answer()
        await roomy.let_in(group, roomy.bot.user)
        await roomy.until(lambda: not roomy.bot.updates or None, what="the confirmation")
    assert f"the chat {group.id} (Club): the bot is member now, by Alice" in caplog.text


async def test_a_group_that_becomes_a_supergroup_gets_its_answer(
    roomy: TelegramServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group, backend = roomy.add_group("Club", basic=True), ScriptedBackend("one two three")
    backend.hold = asyncio.Event()
    async with talking(roomy, backend, tmp_path):
        await roomy.say(group, "hello", mention=True)
        await backend.asked.wait()
        new = await roomy.upgrade(group)
        backend.hold.set()
        assert (await roomy.next_answer(new)).text == "one two three"
    assert f"the group {group.id} has become {new.id}" in caplog.text


@pytest.mark.parametrize("told", ["migrate_to_chat_id", "migrate_from_chat_id"])
async def test_a_group_that_becomes_a_supergroup_keeps_its_history(
    roomy: TelegramServer, tmp_path: Path, told: str
) -> None:
    """Whichever of the two chats tells of it before somebody writes."""
    group, backend = roomy.add_group("Club", basic=True), ScriptedBackend("One.", "Two.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(group, "hello", mention=True)
        await roomy.next_answer(group)
    new = await roomy.upgrade(group)
    roomy.bot.updates[:] = [update for update in roomy.bot.updates if told in update.get("message", {})]
    assert len(roomy.bot.updates) == 1
    backend.closed = False
    async with talking(roomy, backend, tmp_path):
        await roomy.until(lambda: not roomy.bot.updates or None)
        await roomy.say(new, "and again", mention=True)
        assert (await roomy.next_answer(new)).text == "Two."
    assert [turn.text for turn in backend.requests[-1].turns if turn.role != "system"] == ["hello", "One.", "and again"]


async def test_a_webhook_is_set_and_takes_updates(roomy: TelegramServer, tmp_path: Path, unused_tcp_port: int) -> None:
    hook = Webhook(url=f"http://127.0.0.1:{unused_tcp_port}/telegram", port=unused_tcp_port)
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, webhook=hook):
        await roomy.calls.wait("setWebhook")
        roomy.faults.nested("webhook")
        await roomy.say(roomy.private(), "hello")
        assert (await roomy.next_answer()).text == "Yes.", "what can't be read is refused, and comes again"
        async with aiohttp.ClientSession() as session, session.post(hook.url, json={"update_id": 1}) as answer:
            assert answer.status == 403
    assert roomy.faults.pending == 0
    assert roomy.calls.to("getUpdates") == []
    assert len(roomy.bot.webhook.secret) > 30
    async with talking(roomy, ScriptedBackend("Polled."), tmp_path):
        await roomy.say(roomy.private(), "hello again")
        assert (await roomy.next_answer()).text == "Polled.", "without the option, the webhook is taken away"


@pytest.mark.parametrize(
    ("method", "path", "secret", "body", "status"),
    [
        ("POST", "/hook?x=1", "s", b'{"update_id": 1}', 200),
        ("POST", "/hook", "s", b'{"update_id": 2}', 503),
        ("POST", "/hook", "wrong", b"{}", 403),
        ("POST", "/hook", None, b"{}", 403),
        ("POST", "/other", "s", b"{}", 404),
        ("GET", "/hook", "s", b"", 405),
        ("POST", "/hook", "s", b"{", 400),
        ("POST", "/hook", "s", b"[]", 400),
        ("POST", "/hook", "s", b"{}", 400),
        ("POST", "/hook", "s", b"x" * (4 * 2**20 + 1), 413),
    ],
)
async def test_what_the_listener_takes(method: str, path: str, secret: str | None, body: bytes, status: int) -> None:
    async def take(update: dict[str, object]) -> bool:
        return update["update_id"] == 1

    headers = {} if secret is None else {"X-Telegram-Bot-Api-Secret-Token": secret}
    async with (
        Listener("127.0.0.1", 0, "https://example.org/hook", "s", take) as listener,
        aiohttp.ClientSession(f"http://127.0.0.1:{listener.port}") as session,
    ):
        for _ in range(2):  # on one connection, where that is kept
            try:
                async with session.request(method, path, data=io.BytesIO(body), headers=headers) as answer:
                    assert answer.status == status
            except aiohttp.ClientOSError:
                assert status == 413, "it need not read to the end what it does not take"


async def test_the_listener_survives_what_is_no_http() -> None:
    async def take(update: dict[str, object]) -> bool:
        return True

    async with Listener("127.0.0.1", 0, "https://example.org/", "s", take) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.port}") as session:
            headers = {"X-Telegram-Bot-Api-Secret-Token": "s"}
            async with session.post("/", json={"update_id": 1}, headers=headers) as answer:
                assert answer.status == 200
