"""A worker that was ended since nobody asked comes back knowing what it had read: real processes, a handed-in time."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chatbridge.config import ModelSettings
from chatbridge.engine.backend import Request
from chatbridge.errors import ChatbridgeError, ModelLoadError
from chatbridge.prompts.segments import Special, Text, Tokens
from chatbridge.sampling import Sampling
from chatbridge.testing import run_virtually
from chatbridge.testing.toy import ToyOptions, toy_backend
from chatbridge.types import Finish
from chatbridge.worker.backend import WorkerBackend
from chatbridge.worker.pool import ModelPool
from tests.worker.saving import SavingOptions, saving

from .dying import FakeProcess, Machine

pytestmark = pytest.mark.usefixtures("warm_workers")


class Time:
    """Passes when a test says so: `pass_by` ends what waits, and returns when that has done what it waited to do."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def pass_slowly(self, seconds: float) -> None:
        self.waiting.put_nowait((seconds, over := asyncio.Event()))
        await over.wait()

    async def pass_by(self, pool: ModelPool) -> float:
        """The seconds that were waited for."""
        seconds, over = await self.waiting.get()
        [unloading] = pool._waiting
        over.set()
        await unloading
        return seconds


class Talk:
    """One conversation with the toy model, each turn with all that was said before."""

    def __init__(self, folder: Path | None, *, idle_minutes: int = 30, **options: object) -> None:
        self.time = Time()
        self.pool = ModelPool({"toy": toy_backend}.__getitem__, clock=lambda: 0.0, sleep=self.time.pass_slowly)
        self.settings = self.with_idle(folder, idle_minutes, **options)
        self.said: list[Text | Tokens | Special] = [Special("bos")]

    @staticmethod
    def with_idle(folder: Path | None, idle_minutes: int, **options: object) -> ModelSettings:
        made = ToyOptions.model_validate({"eos_every": 30, **options})
        return ModelSettings("m", "toy", made, idle_minutes=idle_minutes, states_folder=folder)

    async def say(self, text: str) -> Finish:
        self.said.append(Text(text, "person"))
        async with self.pool.use(self.settings) as backend:
            request = Request(tuple(self.said), sampling=Sampling(seed=1, max_tokens=60))
            finish = None
            async for chunk in backend.generate(request):
                finish = chunk.finish
        assert finish is not None
        self.said.append(Tokens(finish.reply.tokens))
        return finish


@asynccontextmanager
async def talking(folder: Path | None, **options: object) -> AsyncIterator[Talk]:
    talk = Talk(folder, **options)  # type: ignore[arg-type]
    try:
        yield talk
    finally:
        await talk.pool.aclose()


TURNS = ("Once upon a time there was a bridge. " * 9, "And then?", "Who crossed it?", "Why?")


@pytest.mark.parametrize("can_trim", [True, False])
async def test_nothing_is_read_twice_by_a_model_that_was_unloaded_before_each_turn(
    tmp_path: Path, can_trim: bool
) -> None:
    async with talking(tmp_path / "a", can_trim=can_trim) as stayed, talking(tmp_path / "b", can_trim=can_trim) as left:
        for text in TURNS:
            expected, found = await stayed.say(text), await left.say(text)
            assert (found.reply, found.usage.read) == (expected.reply, expected.usage.read)
            backend = left.pool.loaded()["m"]
            assert isinstance(backend, WorkerBackend)
            assert backend.pid is not None
            assert await left.time.pass_by(left.pool) == 30 * 60
            assert backend.pid is None, "its process has ended"
            assert left.pool.loaded() == {}
        assert found.usage.read < 40 < found.usage.cached


async def test_without_a_place_for_it_the_history_is_read_again() -> None:
    async with talking(None) as talk:
        await talk.say(TURNS[0])
        await talk.time.pass_by(talk.pool)
        finish = await talk.say(TURNS[1])
        assert finish.usage.read == finish.usage.prompt > 300


async def test_what_was_loaded_before_the_time_was_set_knows_what_it_read_as_well(tmp_path: Path) -> None:
    async with talking(tmp_path / "states", idle_minutes=0) as talk:
        await talk.say(TURNS[0])
        assert talk.time.waiting.empty()
        assert not (tmp_path / "states").exists(), "nobody has asked for files yet"
        talk.settings = talk.with_idle(tmp_path / "states", 5)
        talk.pool.follow({"m": talk.settings})
        assert await talk.time.pass_by(talk.pool) == 5 * 60
        assert list((tmp_path / "states").glob("*.state"))
        assert (await talk.say(TURNS[1])).usage.read < 40


async def test_states_have_no_room_where_the_folder_is_a_file_and_the_memory_is_freed_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    async with talking(tmp_path / "file", idle_minutes=0) as talk:
        await talk.say(TURNS[0])
        talk.settings = talk.with_idle(tmp_path / "file", 5)
        talk.pool.follow({"m": talk.settings})
        await talk.time.pass_by(talk.pool)
        assert talk.pool.loaded() == {}
        words = f"idle_minutes: the folder {tmp_path / 'file'} can't be used: File exists"
        assert words in caplog.text
        with pytest.raises(ModelLoadError, match="idle_minutes: the folder"):
            await talk.say(TURNS[1])
        assert talk.pool.states() == {"m": "can't be loaded, 1 times"}


def test_a_process_that_dies_while_it_writes_is_said_to() -> None:
    async def main() -> None:
        machine = Machine()
        processes: list[FakeProcess] = []

        async def start() -> FakeProcess:
            processes.append(FakeProcess(machine, 10**9))
            return processes[-1]

        backend = WorkerBackend(toy_backend, ToyOptions(), start_process=start)
        assert await backend.store_states(Path("nowhere")) == (0, 0), "nothing runs that has read anything"
        await backend.start()
        storing = asyncio.create_task(backend.store_states(Path("nowhere")))
        await asyncio.sleep(0)
        processes[0].kill("it was told to")
        with pytest.raises(ChatbridgeError, match="its process has ended"):
            await storing
        await backend.aclose()
        assert len(processes) == 1, "none is started to write what it has not read"

    run_virtually(main())


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are POSIX's")
async def test_a_request_that_comes_while_states_are_written_waits_for_one_of_them_and_not_for_all(
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    backend = WorkerBackend(saving, SavingOptions(pipe=pipe))
    await backend.start()
    try:
        for beginning in "abc":
            await answered(backend, beginning * 100)
        storing = asyncio.create_task(backend.store_states(tmp_path / "states"))
        saving_one = await asyncio.to_thread(pipe.open, "wb")  # which waits until the worker reads
        asking = asyncio.create_task(answered(backend, "d" * 100))
        await asyncio.sleep(0)
        assert await backend.count_tokens((Text("so"),)) == 2, "what was sent before has been read by now"
        await asyncio.to_thread(saving_one.close)
        assert await storing == (1, 2)
        assert (await asking).usage.generated
    finally:
        await asyncio.to_thread(pipe.unlink)
        await asyncio.to_thread(pipe.write_bytes, b"a file, for which nobody waits")
        await backend.aclose()


async def answered(backend: WorkerBackend, text: str) -> Finish:
    finish = None
    async for chunk in backend.generate(Request((Text(text),), sampling=Sampling(seed=1, max_tokens=5))):
        finish = chunk.finish
    assert finish is not None
    return finish
