"""What goes wrong anywhere is told in a chat by a sentence of ours; what libraries and systems say stays in the log."""

from __future__ import annotations

import logging
import re
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbridge import (
    BackendType,
    ChannelSettings,
    ChatbridgeError,
    ChatCommand,
    Chunk,
    CommandContext,
    CommandError,
    Delivery,
    Limits,
    Message,
    ModelLoadError,
    Options,
    Request,
    WorkerDied,
    hookimpl,
    report_error,
)
from chatbridge.testing import FakeService, Fault, ScriptedBackend, bridge_with, run_virtually
from chatbridge.texts import LANGUAGES, say
from tests.delivery.harness import Harness, said

log = logging.getLogger(__name__)


def kinds(root: type[ChatbridgeError] = ChatbridgeError) -> Iterator[type[ChatbridgeError]]:
    """Every error of ours but the one whose text is for the person, and those that carry more than a text."""
    for kind in root.__subclasses__():
        if kind is not CommandError and kind.__init__ is root.__init__:
            yield from (kind, *kinds(kind))


OTHERS: tuple[type[Exception], ...] = (ValueError, OSError, sqlite3.OperationalError, RuntimeError, KeyError)


class Trouble(ScriptedBackend):
    """Fails at one of its methods."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__("yes", "yes")
        self._where, self._error = where, error

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:  # type: ignore[override]
        if self._where == "middle":
            yield Chunk("so far ")
        if self._where in ("generate", "middle"):
            raise self._error
        async for chunk in super().generate(request):
            yield chunk

    async def count_tokens(self, prompt: Any) -> int:
        if self._where == "count":
            raise self._error
        return await super().count_tokens(prompt)


class Hook:
    def __init__(self, error: Exception | None) -> None:
        self._error = error

    @hookimpl
    def should_reply(self, message: Message) -> None:
        if self._error is not None:
            raise self._error

    @hookimpl
    def register_chat_commands(self) -> list[ChatCommand]:
        async def run(context: CommandContext, argument: str) -> str:
            raise self._error or ValueError

        return [ChatCommand("broken", "fails", "失败", run)]


@asynccontextmanager
async def told_of(where: str, error: Exception, folder: Path, language: str) -> AsyncIterator[list[str]]:
    """What is shown in a chat once something has failed there."""
    harness = Harness(folder, Limits(2000))
    if where in ("load", "hook", "command"):
        async with _other(harness, where, error, language):
            pass
    else:
        async with harness.program(Trouble(where, error), settings={"language": language}) as delivery:
            await delivery.accept(said("hello", "1"))
    yield harness.shown()


@asynccontextmanager
async def _other(harness: Harness, where: str, error: Exception, language: str) -> AsyncIterator[None]:
    async def connect(options: Options) -> ScriptedBackend:
        if where == "load":
            raise error
        return ScriptedBackend("yes")

    kind = BackendType("failing", Options, "fails", connect=connect)
    async with (
        bridge_with(
            kind,
            harness.folder / "store",
            defaults=ChannelSettings(reply_to="always", language=language),  # type: ignore[arg-type]
            plugins=[Hook(error if where in ("hook", "command") else None)],
            clock=harness.service.clock.time,
        ) as bridge,
        Delivery(bridge.bot("bot"), harness.service.chat, harness.service.limits, drain=1e9) as delivery,
    ):
        await delivery.accept(said("/broken" if where == "command" else "hello", "1"))
        yield


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.sampled_from(["load", "count", "generate", "middle", "hook", "command"]),
    kind=st.sampled_from([*kinds(), *OTHERS]),
    language=st.sampled_from(LANGUAGES),
    word=st.from_regex(r"[a-z0-9]{9,20}", fullmatch=True),
)
def test_nothing_of_an_errors_text_is_told_in_a_chat(
    caplog: pytest.LogCaptureFixture, where: str, kind: type[Exception], language: str, word: str
) -> None:
    caplog.clear()
    error = kind(f"/srv/{word}/{word}.gguf: SELECT {word} FROM nodes; 123456789:{word.upper()} 'zq{word}'")

    async def shown(folder: Path) -> list[str]:
        async with told_of(where, error, folder, language) as told:
            return told

    with tempfile.TemporaryDirectory() as folder:
        told = "\n".join(run_virtually(shown(Path(folder))))
    assert told
    for leaked in (word, word.upper(), "/srv", "SELECT", "nodes", kind.__name__):
        assert leaked not in told
    if where != "hook":  # one that fails is passed over, and the message is answered
        (reference,) = set(re.findall(r"\b[B-Z]{6}\b", told))
        assert [word in record.getMessage() for record in caplog.records if reference in record.getMessage()] == [True]


def test_a_store_that_breaks_is_not_described(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(tmp_path)

    async def run() -> None:
        async with harness.program(ScriptedBackend("fine", "never")) as delivery:
            await delivery.accept(said("one", "1"))
            await delivery.settled()
            with sqlite3.connect(tmp_path / "store.sqlite3") as connection:
                connection.execute("DROP TABLE usage")
                connection.execute("ALTER TABLE nodes RENAME TO lost")
            connection.close()
            await delivery.accept(said("two", "2"))

    run_virtually(run())
    first, second = harness.shown()
    assert first == "fine"
    assert second.startswith(say("en", "trouble_store"))
    assert "no such table" in caplog.text
    assert "table" not in second


def test_the_text_for_the_person_reaches_the_person() -> None:
    assert report_error(CommandError("There is no branch 7 here."), "en", log, "x") == "There is no branch 7 here."


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", [ChatbridgeError, *kinds()], ids=lambda kind: kind.__name__)
def test_every_error_has_a_short_sentence(kind: type[ChatbridgeError], language: str) -> None:
    assert 5 < len(say(language, kind.public)) < 100
    assert kind.public.startswith("trouble")


def test_an_error_of_a_plugin_is_told_like_the_one_that_it_is_a_kind_of() -> None:
    class OutOfCredit(ModelLoadError):
        pass

    class Odd(WorkerDied):
        public = "nothing that there is"

    assert report_error(OutOfCredit("key sk-1"), "en", log, "x").startswith(say("en", "trouble_load"))
    assert report_error(Odd("x"), "en", log, "x").startswith(say("en", "trouble"))


def test_what_the_service_says_of_a_part_is_for_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(tmp_path)
    harness.service = FakeService(
        Limits(500, first_preview=1e9),
        lambda call: Fault("rejected") if call.content and "never" in call.content.text else None,
    )

    async def run() -> None:
        async with harness.program(ScriptedBackend("never this")) as delivery:
            await delivery.accept(said("one", "1"))

    run_virtually(run())
    (told,) = harness.shown()
    assert "parse" not in told
    assert "out-1" in told
    assert "[out-1]" in caplog.text
