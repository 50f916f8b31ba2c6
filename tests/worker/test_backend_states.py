"""A backend from its start to its end, in virtual time: what is loaded when, and what is said where that is no use."""

from __future__ import annotations

import asyncio
import logging

import pytest

from chatbridge.config.bounds import HANG_TIMEOUT
from chatbridge.delivery.clock import LoopClock
from chatbridge.errors import BackendError, ModelLoadError, ModelUnavailable
from chatbridge.prompts.segments import Special, Text
from chatbridge.testing import run_virtually
from chatbridge.testing.toy import ToyOptions, toy_backend
from chatbridge.worker.backend import WorkerBackend
from chatbridge.worker.process import describe_exit
from chatbridge.worker.protocol import Load, Loading, ToWorker
from chatbridge.worker.watchdog import LOAD_SHARES

from .dying import POISON, FakeProcess, Machine
from .test_recovery import ask, backend_on, expected, text_of


def test_a_model_is_loaded_once_and_called_as_bots_yaml_calls_it() -> None:
    async def main() -> None:
        machine = Machine()
        for name, shown in (("mine", "mine"), ("", "toy")):
            machine.started = 0
            backend = WorkerBackend(toy_backend, ToyOptions(), name=name, start_process=machine.start)
            assert (backend.pid, backend.state) == (None, "running")
            await asyncio.gather(backend.start(), backend.start())
            await backend.start()
            assert (machine.started, backend.pid, backend.info.name) == (1, 1, shown)
            await backend.aclose()
            assert backend.pid is None

    run_virtually(main())


def test_a_worker_is_told_what_the_model_may_have() -> None:
    told: list[Load] = []

    class Noted(FakeProcess):
        def send(self, message: ToWorker) -> None:
            if isinstance(message, Load):
                told.append(message)
            super().send(message)

    async def main() -> None:
        machine = Machine()

        async def start() -> FakeProcess:
            return Noted(machine, 10**9)

        backend = WorkerBackend(
            toy_backend, ToyOptions(eos_every=7), max_batch=3, memory_limit=5, kept_states=6, start_process=start
        )
        await backend.start()
        await backend.aclose()

    run_virtually(main())
    (load,) = told
    assert (load.module, load.function, load.options_class) == ("chatbridge.testing.toy", "load_toy", "ToyOptions")
    assert (load.options, load.max_batch, load.memory_limit, load.kept_states) == ({"eos_every": 7}, 3, 5, 6)


def test_of_a_closed_model_nothing_more_is_had() -> None:
    async def main() -> None:
        machine = Machine(eos_every=10**9)
        async with backend_on(machine) as backend:
            request = ask("room", tokens=4000)
            answer = asyncio.create_task(text_of(backend, request))
            await LoopClock().sleep(0.3)
            await backend.aclose()
            assert 10 < len(await answer) <= 31
            prompt = (Special("bos"), Text("hi"))
            for asked in (backend.count_tokens(prompt), backend.stats(), text_of(backend, ask("x")), backend.start()):
                with pytest.raises(BackendError, match="the model 'toy' was closed"):
                    await asked
            await backend.aclose()
        assert machine.started == 1

    run_virtually(main())


def test_a_question_that_is_under_way_when_a_model_is_closed_is_told_so() -> None:
    async def main() -> None:
        machine = Machine(kills=[1], starts=1, eos_every=10**9)
        async with backend_on(machine) as backend:
            answer = asyncio.create_task(text_of(backend, ask("room")))
            await machine.asked_again.wait()
            counting = asyncio.create_task(backend.count_tokens((Text("hi"),)))
            await LoopClock().sleep(0.1)
            assert not counting.done()
            await backend.aclose()
            with pytest.raises(BackendError, match="was closed"):
                await counting
            await answer

    run_virtually(main())


def test_tokens_are_counted_and_told_and_counts_are_the_engines() -> None:
    async def main() -> None:
        async with backend_on(Machine()) as backend:
            prompt = (Special("bos"), Text("hi"))
            assert await backend.count_tokens(prompt) == 3
            assert await backend.tokenize(prompt) == [256, *b"hi"]
            assert (await backend.stats())["running"] == 0

    run_virtually(main())


def test_a_model_that_says_nothing_while_it_loads_is_given_up() -> None:
    class Mute(FakeProcess):
        def send(self, message: ToWorker) -> None:
            """Nothing comes of it."""

    async def main() -> float:
        machine = Machine()

        async def start() -> FakeProcess:
            return Mute(machine, 1)

        backend = WorkerBackend(toy_backend, ToyOptions(), name="toy", start_process=start)
        limit = LOAD_SHARES * HANG_TIMEOUT
        with pytest.raises(ModelLoadError, match=rf"nothing has come of it for {limit:g} s; raise its hang_timeout"):
            await backend.start()
        assert backend.pid is None
        await backend.aclose()
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == pytest.approx(LOAD_SHARES * HANG_TIMEOUT, abs=1)


def test_how_far_loading_is_comes_to_whoever_asked() -> None:
    class Slow(FakeProcess):
        def send(self, message: ToWorker) -> None:
            if isinstance(message, Load):
                self._outbox.put_nowait(Loading(0.25, "reading"))
            super().send(message)

    async def main() -> list[tuple[float, str]]:
        machine, told = Machine(), list[tuple[float, str]]()

        async def start() -> FakeProcess:
            return Slow(machine, 10**9)

        for listener in (lambda share, doing: told.append((share, doing)), None):
            backend = WorkerBackend(toy_backend, ToyOptions(), on_progress=listener, start_process=start)
            await backend.start()
            await backend.aclose()
        return told

    assert run_virtually(main()) == [(0.25, "reading")]


def test_while_a_model_is_down_for_long_nobody_waits_for_it() -> None:
    async def main() -> tuple[list[str], int]:
        machine = Machine(kills=[1] * 12, eos_every=10**9)
        async with backend_on(machine) as backend:
            first = asyncio.create_task(text_of(backend, ask("room", tokens=4000)))
            refused = []
            for number in range(200):
                await LoopClock().sleep(1)
                if backend.pid is None:
                    try:
                        async with asyncio.timeout(0.001):
                            await text_of(backend, ask(str(number)))
                    except ModelUnavailable as error:
                        refused.append(f"{error} {error.seconds:.0f}")
                    except TimeoutError:
                        pass
            first.cancel()
            return refused, machine.started

    refused, started = run_virtually(main())
    assert refused
    assert all(text.startswith("the model 'toy' keeps failing: it died") for text in refused)
    assert all(10 <= int(text.rpartition(" ")[2]) <= 60 for text in refused)
    assert 5 < started < 13


def test_suspects_are_told_of_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def main() -> list[object]:
        async with backend_on(Machine(eos_every=10**9)) as backend:
            texts = [ask("one"), ask("two"), ask("three" + POISON)]
            return await asyncio.gather(*(text_of(backend, request) for request in texts), return_exceptions=True)

    one, two, _ = run_virtually(main())
    assert [one, two] == [expected(ask(text), Machine(eos_every=10**9)) for text in ("one", "two")]
    assert "model toy: 3 requests are tried again one by one" in caplog.messages


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "it ended with status 0"),
        (3, "it ended with status 3"),
        (-15, "it was ended by SIGTERM"),
        (-9, "it was killed (SIGKILL), as the system does when memory runs out"),
        (-11, "native code crashed (SIGSEGV)"),
        (-200, "it ended with status -200"),
        (0xC0000005, "native code crashed (access violation)"),
        (0xC0000409, "native code crashed (access violation)"),
        (0xC0000006, f"it ended with status {0xC0000006}"),
    ],
)
def test_how_a_process_ended_is_put_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
