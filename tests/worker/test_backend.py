"""The worker process: what it says equals what an engine says here, and its death harms nobody else."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from chatbridge.engine.backend import Request
from chatbridge.engine.engine import Engine
from chatbridge.errors import BackendError, InvalidRequest, ModelLoadError, TemplateError, WorkerDied
from chatbridge.prompts.segments import Special, Text
from chatbridge.sampling import Sampling
from chatbridge.testing.toy import ToyModel, ToyOptions, toy_backend
from chatbridge.types import Chunk, Finish
from chatbridge.worker.backend import WorkerBackend
from chatbridge.worker.process import WorkerProcess, describe_exit
from chatbridge.worker.protocol import Close, Load, Loaded, Loading
from tests.worker.garbling import garbling
from tests.worker.leaving import LeavingOptions, leaving

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals end processes on POSIX systems")


@asynccontextmanager
async def worker(**options: object) -> AsyncIterator[WorkerBackend]:
    backend = WorkerBackend(toy_backend, ToyOptions.model_validate(options), name="toy")
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


def ask(text: str, **sampling: object) -> Request:
    options = {"seed": 5, "max_tokens": 60, **sampling}
    return Request((Special("bos"), Text(text, "person")), sampling=Sampling.model_validate(options))


def here(request: Request, **options: int) -> Finish:
    """What the engine says in this very process."""
    engine = Engine(ToyModel(**options))  # type: ignore[arg-type]
    engine.submit(request)
    while True:
        for event in engine.step():
            if event.chunk is not None and event.chunk.finish is not None:
                engine.close()
                return event.chunk.finish


async def answer(backend: WorkerBackend, request: Request) -> tuple[str, Finish]:
    text, finish = "", None
    async for chunk in backend.generate(request):
        text += chunk.text
        finish = chunk.finish
    assert finish is not None
    return text, finish


async def test_who_waits_is_told_its_place_through_the_pipe() -> None:
    backend = WorkerBackend(toy_backend, ToyOptions(), name="toy", max_batch=1)
    await backend.start()

    async def places(request: Request) -> list[int]:
        return [chunk.waiting.place async for chunk in backend.generate(request) if chunk.waiting is not None]

    try:
        told = await asyncio.gather(*(places(ask(f"question {i}", max_tokens=400)) for i in range(3)))
    finally:
        await backend.aclose()
    assert told[0] == []
    assert told[2][-2:] == [2, 1]


async def test_says_what_the_engine_says_here() -> None:
    requests = [ask(f"question {i}", seed=i, temperature=1.0) for i in range(8)]
    async with worker() as backend:
        answers = await asyncio.gather(*(answer(backend, request) for request in requests))
        counts = await backend.stats()
    for request, (text, finish) in zip(requests, answers, strict=True):
        expected = here(request)
        assert (text, finish.reply, finish.reason) == (expected.reply.text, expected.reply, expected.reason)
        assert finish.usage.prompt == expected.usage.prompt
    assert counts["running"] == counts["waiting"] == 0
    assert counts["tokens_generated"] == sum(finish.usage.generated for _, finish in answers)


async def test_counts_tokens_and_tells_errors_apart() -> None:
    async with worker(context_length=50) as backend:
        assert backend.info.name == "toy"
        assert await backend.tokenize((Special("bos"), Text("héé"))) == [256, *"héé".encode()]
        assert await backend.count_tokens((Text("abc"),)) == 3
        with pytest.raises(TemplateError, match="no such token"):
            await backend.tokenize((Special("no such token"),))
        with pytest.raises(BackendError, match="50"):
            await answer(backend, ask("x" * 60))
        with pytest.raises(InvalidRequest, match="can't be sent"):
            await answer(backend, ask("half a character \ud800"))
        assert (await answer(backend, ask("still here")))[0]


async def test_an_identical_request_id_is_refused_while_it_is_on_its_way() -> None:
    async with worker(eos_every=10**6) as backend:
        request = ask("x", max_tokens=4000)
        chunks = backend.generate(request)
        await anext(chunks)
        with pytest.raises(InvalidRequest, match="on its way"):
            await anext(backend.generate(request))
        await chunks.aclose()


async def test_a_cancelled_request_ends_with_what_came() -> None:
    async with worker(eos_every=10**6) as backend:
        request = ask("tell me all", max_tokens=3900)
        text = ""
        async for chunk in backend.generate(request):
            text += chunk.text
            if len(text) > 10:
                backend.cancel(request.id)
            if chunk.finish is not None:
                assert chunk.finish.reason == "cancelled"
                assert chunk.finish.reply.text == text.strip()
                assert len(chunk.finish.reply.tokens) < 3900
        assert (await backend.stats())["running"] == 0
        backend.cancel("an unknown one")


async def test_closing_the_stream_frees_the_slot() -> None:
    async with worker(eos_every=10**6) as backend:
        chunks = backend.generate(ask("tell me all", max_tokens=4000))
        await anext(chunks)
        await chunks.aclose()
        while (await backend.stats())["running"]:
            pass
        assert (await backend.stats())["tokens_generated"] < 4000


async def test_closing_ends_answers_as_cancelled_and_keeps_their_tokens() -> None:
    async with worker(eos_every=10**6) as backend:
        chunks = backend.generate(ask("tell me all", max_tokens=4000))
        text = (await anext(chunks)).text
        closing = asyncio.create_task(backend.aclose())
        finish = None
        async for chunk in chunks:
            text += chunk.text
            finish = chunk.finish
        await closing
        assert finish is not None
        assert finish.reason == "cancelled"
        assert finish.reply.text == text.strip()
        assert len(finish.reply.tokens) >= len(text.strip())
        with pytest.raises(BackendError, match="closed"):
            await answer(backend, ask("hello?"))


async def test_a_load_that_fails_says_why() -> None:
    with pytest.raises(ModelLoadError, match="the letters are gone"):
        async with worker(fail_load="the letters are gone"):
            pass


async def test_a_plugin_that_says_what_nobody_can_read_fails_to_load_and_is_told_where() -> None:
    backend = WorkerBackend(garbling, ToyOptions(), name="toy")
    with pytest.raises(ModelLoadError, match=r"can't be read, loaded\.info\.details\.layers: Input should be a valid"):
        await backend.start()
    await backend.aclose()


@needs_signals
async def test_a_worker_that_says_what_nobody_can_read_is_ended_and_its_answers_go_on() -> None:
    started: list[WorkerProcess] = []

    async def start() -> WorkerProcess:
        started.append(await WorkerProcess.start())
        return started[-1]

    backend = WorkerBackend(toy_backend, ToyOptions(eos_every=10**6), name="toy", start_process=start)
    await backend.start()
    request = ask("x", max_tokens=400)
    text = ""
    async with asyncio.timeout(60):
        async for chunk in backend.generate(request):
            if not text:
                started[0]._reader.feed_data(b'{"kind": "nonsense"}\n')
            text += chunk.text
    await backend.aclose()
    assert text.strip() == here(request, eos_every=10**6).reply.text
    assert len(started) == 2
    assert "nonsense" in await started[0].exit_reason()


async def test_progress_is_told() -> None:
    told: list[tuple[float, str]] = []
    backend = WorkerBackend(toy_backend, ToyOptions(), on_progress=lambda share, doing: told.append((share, doing)))
    await backend.start()
    await backend.aclose()
    assert told == [(0.5, "inventing letters")]


def crashing(tmp_path: Path, times: int, by: int, after: int) -> dict[str, object]:
    file = tmp_path / "crashes"
    file.write_text(str(times))
    return {"crash_file": str(file), "crash_signal": by, "crash_after": after, "eos_every": 10**6}


@needs_signals
@pytest.mark.parametrize("by", ["SIGSEGV", "SIGKILL", "SIGABRT"])
async def test_a_crash_in_the_middle_of_answers_is_not_seen_in_them(tmp_path: Path, by: str) -> None:
    requests = [ask(f"room {i}", seed=i, temperature=1.0, max_tokens=80) for i in range(5)]
    expected = [here(request, eos_every=10**6).reply for request in requests]
    async with worker(**crashing(tmp_path, 1, signal.Signals[by], 30)) as backend:
        pid = backend.pid
        answers = await asyncio.gather(*(answer(backend, request) for request in requests))
        assert backend.pid != pid, "the worker never died"
    assert [finish.reply for _, finish in answers] == expected
    assert [text for text, _ in answers] == [reply.text for reply in expected]
    assert all(finish.usage.generated == 80 for _, finish in answers)


@needs_signals
async def test_a_second_crash_at_the_same_point_fails_the_answer_and_the_next_one_is_fine(tmp_path: Path) -> None:
    async with worker(**crashing(tmp_path, 2, signal.SIGSEGV, 1)) as backend:
        with pytest.raises(WorkerDied, match=r"twice.*SIGSEGV"):
            await answer(backend, ask("x", max_tokens=50))
        assert (await answer(backend, ask("x", max_tokens=50)))[1].usage.generated == 50


@needs_signals
async def test_a_worker_killed_while_idle_is_started_again_when_needed() -> None:
    async with worker() as backend:
        before = (await answer(backend, ask("a")))[0]
        pid = backend.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert (await answer(backend, ask("a")))[0] == before
        assert backend.pid != pid


@needs_signals
async def test_a_worker_dies_though_a_program_that_it_has_started_lives_on(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    backend = WorkerBackend(leaving, LeavingOptions(pids=pids), name="toy")
    await backend.start()
    try:
        async with asyncio.timeout(60):
            before, pid = (await answer(backend, ask("a")))[0], backend.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert (await answer(backend, ask("a")))[0] == before
            assert backend.pid != pid
            await backend.aclose()
    finally:
        for line in pids.read_text().split():
            os.kill(int(line), signal.SIGKILL)


@needs_signals
async def test_stopping_an_answer_whose_worker_has_died_keeps_what_came(tmp_path: Path) -> None:
    async with worker(**crashing(tmp_path, 1, signal.SIGKILL, 30)) as backend:
        request = ask("x", max_tokens=4000)
        text, finish, pid = "", None, backend.pid
        async for chunk in backend.generate(request):
            text += chunk.text
            finish = chunk.finish
            if backend.pid != pid:
                backend.cancel(request.id)
        assert finish is not None
        assert finish.reason == "cancelled"
        assert finish.reply.text == text.strip()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="a process that is no child is watched by pidfd on Linux")
async def test_the_worker_leaves_when_its_parent_is_gone(tmp_path: Path) -> None:
    program = """
import asyncio, os
from chatbridge.worker.backend import WorkerBackend
from chatbridge.worker.protocol import Close, Load, Loaded, Loading
from chatbridge.testing.toy import ToyOptions, toy_backend
async def main():
    backend = WorkerBackend(toy_backend, ToyOptions())
    await backend.start()
    print(backend.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    await process.wait()
    with suppress(ProcessLookupError):  # it may have left already
        handle = os.pidfd_open(pid)  # becomes readable when the process ends
        await asyncio.to_thread(select.select, [handle], [], [])
        os.close(handle)


async def test_a_worker_that_calls_back_shows_its_key() -> None:
    """The way of Windows, which hands no sockets to children."""
    child = await WorkerProcess.start(by_port=True)
    function, options = toy_backend.load, ToyOptions
    assert function is not None
    names = (function.__module__, function.__qualname__, options.__module__, options.__qualname__)
    child.send(Load(*names, options={}, max_batch=None, paths=sys.path))
    said = [await child.receive(), await child.receive()]
    assert isinstance(said[0], Loading)
    assert isinstance(said[1], Loaded)
    child.send(Close())
    assert await child.receive() is None
    await child.end(grace=10)
    assert child.process.returncode == 0


@needs_signals
async def test_ctrl_c_in_the_terminal_is_not_the_workers() -> None:
    async with worker() as backend:
        pid = backend.pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)
        assert (await answer(backend, ask("a")))[0]
        assert backend.pid == pid


async def test_memory_that_is_not_there_is_told_in_words() -> None:
    assert "memory" in describe_exit(-9)
    assert "SIGSEGV" in describe_exit(-11)
    assert describe_exit(3) == "it ended with status 3"
    assert "access violation" in describe_exit(0xC0000005)


def test_a_chunk_is_small_on_the_wire() -> None:
    from chatbridge.worker.protocol import RequestEvent, StepEvents, from_worker, read_from_worker

    message = StepEvents((RequestEvent("a" * 32, Chunk("word"), tokens=(17,)),))
    assert read_from_worker(from_worker(message)) == message
