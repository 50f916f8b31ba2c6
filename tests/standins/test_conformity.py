"""What aiogram's models would not have is told, however deep it lies; so all that the stand-in says is held to them."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.testing.wire.calls import Call, Calls
from chatbridge.testing.wire.changes import Changes

from .conformity import breaches

CHAT = {"id": 1, "type": "private"}
MESSAGE = {"message_id": 1, "date": 1, "chat": CHAT, "reply_to_message": {"message_id": 2, "date": 1, "chat": CHAT}}


def told(name: str, params: dict[str, Any], result: Any = None) -> list[str]:
    calls = Calls(Changes())
    calls.begin(Call(name, "bot", 0.0, params, answer={"ok": True, "result": result}))
    return breaches(calls)


def test_what_is_right_is_no_breach() -> None:
    assert told("webhook", {"update_id": 1, "message": MESSAGE}) == []
    assert told("sendMessage", {"chat_id": 1, "text": "hello"}, MESSAGE) == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"reply_to_message": {"message_id": 2, "chat": CHAT}}, "reply_to_message.date"),
        ({"reply_to_message": MESSAGE | {"texxt": ""}}, "unknown field .message.reply_to_message.texxt"),
        ({"chat": {"id": "somewhere", "type": "private"}}, "chat.id"),
    ],
)
def test_one_too_many_too_few_or_of_another_type_is_told(wrong: dict[str, Any], problem: str) -> None:
    for found in (
        told("webhook", {"update_id": 1, "message": MESSAGE | wrong}),
        told("sendMessage", {"chat_id": 1, "text": "hello"}, MESSAGE | wrong),
    ):
        assert len(found) == 1
        assert problem.removeprefix("unknown field .message") in found[0]


def test_parameters_are_held_to_the_method() -> None:
    (found,) = told("sendMessage", {"chat_id": 1}, MESSAGE)
    assert "text" in found
    (found,) = told("getUpdates", {"offset": 1, "sooner": True}, [])
    assert found == "getUpdates: unknown field .sooner"
