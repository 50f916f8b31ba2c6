"""A bot is made of services; it needs no bridge."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import (
    Author,
    Bot,
    Bridge,
    Channel,
    ChannelSettings,
    Message,
    Notice,
    Plugins,
    ReplyStream,
    SettingsSource,
)
from chatbridge.bots.services import Services
from chatbridge.config.settings import ModelSettings, Settings
from chatbridge.prompts import presets
from chatbridge.store import Store
from chatbridge.testing import ScriptedBackend, bridge_with, scripted
from chatbridge.worker.pool import ModelPool

from .conftest import ALONE, Make, first_words


def asked(text: str) -> Message:
    return Message(text, Channel("c"), Author("ann", "Ann"), text)


async def test_a_bot_can_be_made_without_a_bridge(tmp_path: Path) -> None:
    backend = scripted(ScriptedBackend("Yes?"))
    model = ModelSettings("m", backend.name, backend.options(), template="alpaca")
    defaults = ChannelSettings(reply_to="always", language="en")
    source = SettingsSource(Settings({"m": model}, presets(), tmp_path / "db", defaults))
    models = ModelPool({backend.name: backend}.__getitem__)
    store = await Store.open(tmp_path / "db")
    try:
        bot = Bot(Services(source, store, models, Plugins(discover=False)), "b")
        reply = await bot.receive(asked("hello"))
        assert isinstance(reply, ReplyStream)
        assert "".join([chunk.text async for chunk in reply]) == "Yes?"
        assert isinstance(await bot.receive(asked("/stats")), Notice)
    finally:
        await models.aclose()
        await store.aclose()


async def test_of_a_bridge_that_was_closed_nothing_stays_in_memory(tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes?")
    own = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"
    backend.info = replace(backend.info, chat_template=own)

    async def talk() -> list[weakref.ref[object]]:
        async with bridge_with(scripted(backend), tmp_path / "db", template="model") as bridge:
            bot = bridge.bot("b")
            reply = await bot.receive(asked("hello"))
            assert isinstance(reply, ReplyStream)
            assert "".join([chunk.text async for chunk in reply]) == "Yes?"
            return [weakref.ref(bridge), weakref.ref(bot), weakref.ref(bridge.store)]

    left = await talk()
    gc.collect()
    assert [one() for one in left] == [None, None, None]


async def test_what_is_wrong_between_a_template_and_a_model_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "chatbridge.bots.services")
    source = SettingsSource(Settings({}, presets(), tmp_path / "db"))
    store = await Store.open(tmp_path / "db")
    services = Services(source, store, ModelPool({}.__getitem__), Plugins(discover=False))
    info = replace(ScriptedBackend().info, name="vicuna")
    for _ in range(2):
        services.diagnose(presets()["chatml"], info)
    first = len(caplog.records)
    assert first == len({record.getMessage() for record in caplog.records}) > 0
    services.diagnose(presets()["llama-3"], info)
    assert len(caplog.records) > first, "another template is another pair"
    await store.aclose()


async def test_what_a_template_does_unasked_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "chatbridge.bots.services")
    backend = ScriptedBackend("Yes?", "Yes?", "Yes?")
    own = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    own = "{{ 'Long. ' * 200 if messages[0].role != 'system' }}" + own
    backend.info = replace(backend.info, chat_template=own)
    defaults = ChannelSettings(reply_to="always", language="en")
    async with bridge_with(scripted(backend), tmp_path / "db", template="model", defaults=defaults) as bridge:
        for text in ("one", "two", "three"):
            reply = await bridge.bot("b").receive(asked(text))
            assert isinstance(reply, ReplyStream)
            assert "".join([chunk.text async for chunk in reply]) == "Yes?"
    told = [
        record.getMessage() for record in caplog.records if "one of its own of 1,199 characters" in record.getMessage()
    ]
    assert len(told) == 1


async def test_a_queued_message_is_answered_by_what_bots_yaml_says_then(tmp_path: Path) -> None:
    replies = ScriptedBackend("Yes?")
    backend = scripted(replies)
    one, two = (ModelSettings(name, backend.name, backend.options(), template="alpaca") for name in ("one", "two"))
    defaults = ChannelSettings(reply_to="always", language="en")
    source = SettingsSource(Settings({"one": one}, presets(), tmp_path / "db", defaults))
    models, store = ModelPool({backend.name: backend}.__getitem__), await Store.open(tmp_path / "db")
    try:
        bot = Bot(Services(source, store, models, Plugins(discover=False)), "b")
        reply = await bot.receive(asked("hello"))
        assert isinstance(reply, ReplyStream)
        assert reply.on_behalf_of(Author("bob", "Bob")) is reply, "whoever holds it may go on using it"
        source.change(
            Settings({"two": two}, presets(), tmp_path / "db", defaults.merged(ChannelSettings(system="New.")))
        )
        assert "".join([chunk.text async for chunk in reply]) == "Yes?"
        assert reply.author == Author("bob", "Bob")
        assert list(models.loaded()) == ["two"]
        assert [turn.text for turn in replies.requests[0].turns] == ["New.", "hello"]
    finally:
        await models.aclose()
        await store.aclose()


async def test_a_conversation_is_in_use_while_something_is_answered_in_it(
    bot: Bot, bridge: Bridge, message: Make
) -> None:
    reply = await bot.receive(message("hi"))
    assert isinstance(reply, ReplyStream)
    assert not bot.uses(ALONE.id)
    chunks = aiter(reply)
    await first_words(chunks)
    assert bot.uses(ALONE.id)
    assert bridge._in_use(bot.name, ALONE.id)
    assert not bridge._in_use("another bot", ALONE.id)
    assert not bridge._in_use(bot.name, "elsewhere")
    async for _ in chunks:
        pass
    assert not bot.uses(ALONE.id)
    assert not bot.uses("elsewhere")
