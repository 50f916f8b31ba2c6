"""Who kills a worker fails, and nobody else: everybody else's text is the one that they get without any death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge.delivery.clock import LoopClock
from chatbridge.engine.backend import Request
from chatbridge.engine.engine import Engine
from chatbridge.errors import BackendError, InvalidRequest, ModelLoadError, ModelUnavailable, WorkerDied
from chatbridge.prompts.segments import Special, Text
from chatbridge.sampling import Sampling
from chatbridge.testing import run_virtually
from chatbridge.testing.toy import ToyModel, ToyOptions, toy_backend
from chatbridge.worker.backend import WorkerBackend
from chatbridge.worker.backoff import Backoff
from chatbridge.worker.protocol import Ping, ToWorker
from chatbridge.worker.recovery import INNOCENT_SECONDS

from .dying import HANG, POISON, TOKENIZER_POISON, FakeProcess, Machine


@asynccontextmanager
async def backend_on(machine: Machine) -> AsyncIterator[WorkerBackend]:
    clock = asyncio.get_running_loop().time
    backend = WorkerBackend(
        toy_backend,
        ToyOptions(),
        name="toy",
        start_process=machine.start,
        backoff=Backoff(clock=clock, chance=lambda: 0.5),
    )
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


def ask(text: str, *, seed: int = 1, tokens: int = 30) -> Request:
    return Request(
        (Special("bos"), Text(text, "person")), sampling=Sampling(seed=seed, temperature=1.0, max_tokens=tokens)
    )


def expected(request: Request, machine: Machine) -> str:
    engine = Engine(ToyModel(context_length=machine.context_length, eos_every=machine.eos_every))
    engine.submit(request)
    while True:
        for event in engine.step():
            if event.chunk is not None and event.chunk.finish is not None:
                return event.chunk.finish.reply.text


async def text_of(backend: WorkerBackend, request: Request, delay: float = 0.0) -> str:
    """What people see of the answer, all chunks joined; it must equal what is kept."""
    await LoopClock().sleep(delay)
    text = ""
    async for chunk in backend.generate(request):
        text += chunk.text
        if chunk.finish is not None:
            assert chunk.finish.reply.text == text.strip()
    return text


Outcome = str | BaseException


async def outcomes(machine: Machine, requests: list[tuple[Request, float]]) -> list[Outcome]:
    async with backend_on(machine) as backend, asyncio.timeout(3600):
        return await asyncio.gather(
            *(text_of(backend, request, delay) for request, delay in requests), return_exceptions=True
        )


def test_what_had_no_part_gives_way_to_the_others_in_time() -> None:
    machine = Machine(max_batch=1, eos_every=10**9, kills=[5])

    async def ends() -> list[float]:
        async with backend_on(machine) as backend, asyncio.timeout(3600):
            now = asyncio.get_running_loop().time

            async def end_of(request: Request) -> float:
                assert await text_of(backend, request, 0.0) == expected(request, machine)
                return now()

            suspect, innocent = ask("who was at work"), ask("who waited", tokens=4000)
            return await asyncio.gather(end_of(suspect), end_of(innocent))

    first, second = run_virtually(ends())
    assert INNOCENT_SECONDS < first < INNOCENT_SECONDS + 5, "it is tried as soon as the other has been paused"
    assert second > first


POISONS = {
    "its first token": POISON + "rest",
    "the last token of its prompt": "a question" + POISON,
    "a later part of its prompt": "x" * 40 + POISON + "y" * 40,
    "the tokenisation": "hi " + TOKENIZER_POISON,
    "a step that never ends": "hi " + HANG,
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
@pytest.mark.parametrize("position", [0, 3, 9])
@pytest.mark.parametrize("delay", [0.0, 0.15])
def test_only_the_request_that_kills_the_worker_fails(poison: str, position: int, delay: float) -> None:
    machine = Machine(max_batch=4, eos_every=10**9)
    requests = [(ask(f"room {n}", seed=n), 0.0) for n in range(10)]
    requests[position] = (ask(poison), delay)
    ended = run_virtually(outcomes(machine, requests))
    for number, ((request, _), outcome) in enumerate(zip(requests, ended, strict=True)):
        if number == position:
            assert isinstance(outcome, WorkerDied)
            assert "toy" in str(outcome)
        else:
            assert outcome == expected(request, machine)
    assert machine.started <= 4, "a culprit costs three deaths"


@settings(max_examples=60)
@given(
    poisons=st.lists(st.sampled_from([*POISONS.values(), ""]), min_size=1, max_size=8),
    kills=st.lists(st.integers(0, 40), max_size=3),
    max_batch=st.integers(1, 5),
    data=st.data(),
)
def test_every_innocent_gets_its_text_whatever_dies_and_when(
    poisons: list[str], kills: list[int], max_batch: int, data: st.DataObject
) -> None:
    machine = Machine(max_batch=max_batch, kills=[kill + 100 for kill in kills])
    requests = [
        (
            ask(poison or f"room {n}", seed=n, tokens=data.draw(st.integers(1, 40))),
            data.draw(st.sampled_from([0.0, 0.05, 0.5, 5.0])),
        )
        for n, poison in enumerate(poisons)
    ]
    ended = run_virtually(outcomes(machine, requests))
    for poison, (request, _), outcome in zip(poisons, requests, ended, strict=True):
        if poison:
            assert isinstance(outcome, WorkerDied | ModelUnavailable)
        elif not isinstance(outcome, ModelUnavailable):
            assert outcome == expected(request, machine)
    assert machine.started <= 1 + 3 * sum(map(bool, poisons)) + len(kills)


def test_deaths_that_nobody_causes_cost_no_answer() -> None:
    machine = Machine(max_batch=4, kills=[7, 5, 9, 3, 12, 8], eos_every=10**9)
    requests = [(ask(f"room {n}", seed=n, tokens=60), 0.0) for n in range(12)]
    ended = run_virtually(outcomes(machine, requests))
    assert ended == [expected(request, machine) for request, _ in requests]


def test_a_text_whose_tokenisation_kills_fails_alone() -> None:
    async def main() -> list[Outcome | int]:
        async with backend_on(Machine()) as backend:
            texts = [f"room {n}" for n in range(6)] + [TOKENIZER_POISON]
            return await asyncio.gather(
                *(backend.count_tokens((Text(text, "person"),)) for text in texts), return_exceptions=True
            )

    *counts, last = run_virtually(main())
    assert counts == [6] * 6
    assert isinstance(last, WorkerDied)


def test_what_is_stopped_while_the_worker_is_down_ends_at_once_with_what_came() -> None:
    async def main() -> str:
        machine = Machine(eos_every=10**9, kills=[30], starts=1)
        async with backend_on(machine) as backend:
            request = ask("room", tokens=4000)
            answer = asyncio.create_task(text_of(backend, request))
            await machine.asked_again.wait()
            backend.cancel(request.id)
            return await answer

    assert 15 < len(run_virtually(main())) <= 30


@pytest.mark.parametrize("others", [0, 3])
def test_what_is_stopped_just_before_its_worker_dies_ends_as_well(others: int) -> None:
    """The worker that was told to end it never does."""

    async def main() -> list[str]:
        machine, processes = Machine(eos_every=10**9), list[FakeProcess]()

        async def start() -> FakeProcess:
            processes.append(await machine.start())
            return processes[-1]

        backend = WorkerBackend(toy_backend, ToyOptions(), name="toy", start_process=start)
        await backend.start()
        request = ask("room", tokens=4000)
        going_on = [asyncio.create_task(text_of(backend, ask(f"{n}"))) for n in range(others)]
        answer = asyncio.create_task(text_of(backend, request))
        await LoopClock().sleep(0.3)
        backend.cancel(request.id)
        processes[0].kill("it died")
        async with asyncio.timeout(600):
            texts = await asyncio.gather(answer, *going_on)
        await backend.aclose()
        return texts

    stopped, *texts = run_virtually(main())
    assert 5 < len(stopped) < 50
    assert texts == [expected(ask(f"{n}"), Machine(eos_every=10**9)) for n in range(others)]


def test_an_answer_that_hangs_can_be_stopped_and_holds_up_no_other() -> None:
    async def main() -> list[str]:
        async with backend_on(Machine(eos_every=10**9)) as backend, asyncio.timeout(3600):
            hanging = ask("hi " + HANG)
            answer = asyncio.create_task(text_of(backend, hanging))
            await LoopClock().sleep(1)
            backend.cancel(hanging.id)
            return await asyncio.gather(answer, text_of(backend, ask("room")))

    assert run_virtually(main()) == ["", expected(ask("room"), Machine(eos_every=10**9))]


def test_a_model_that_can_not_be_loaded_again_is_told_to_all_and_not_tried_for_each() -> None:
    machine = Machine(kills=[3])

    async def main() -> None:
        async with backend_on(machine) as backend:
            machine.fail_loads = 10**6
            first = await asyncio.gather(*(text_of(backend, ask(f"{n}")) for n in range(4)), return_exceptions=True)
            assert [type(error) for error in first] == [ModelLoadError] * 4
            for _ in range(100):
                with pytest.raises(BackendError):
                    await text_of(backend, ask("again"))
                await LoopClock().sleep(1)

    run_virtually(main())
    assert machine.started <= 10, "a hundred questions in a hundred seconds are no hundred loads"


def test_a_hung_worker_is_noticed_and_said() -> None:
    async def main() -> list[str]:
        async with backend_on(Machine()) as backend:
            answer = asyncio.create_task(text_of(backend, ask("hi " + HANG)))
            states = []
            while not answer.done():
                await LoopClock().sleep(1)
                states.append(backend.state)
            with pytest.raises(WorkerDied, match=r"one step has taken 1[2-9]"):
                await answer
            return states

    states = run_virtually(main())
    assert "running" in states


def test_what_a_worker_does_is_said_in_words(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[str]:
        async with backend_on(Machine(kills=[5, 5, 5], eos_every=10**9)) as backend:
            answer = asyncio.create_task(text_of(backend, ask("room", tokens=200)))
            states = [backend.state]
            while not answer.done():
                await LoopClock().sleep(0.01)
                if backend.state != states[-1]:
                    states.append(backend.state)
            return states

    states = run_virtually(main())
    assert states[0] == states[-1] == "running"
    crashed = [state.removeprefix("crashed; ") for state in states if state != "running"]
    assert crashed[0] == "started again in 1 s"
    assert {"started again in 2 s", "being started again"} <= {*crashed}
    told = [message for message in caplog.messages if "in a row" in message]
    assert [message.partition(";")[0] for message in told] == [
        "model toy failed 2 times in a row and is started again in 1 s",
        "model toy failed 3 times in a row and is started again in 2 s",
    ]
    assert not any("one by one" in message for message in caplog.messages), "there is but one"


def test_a_worker_that_is_silent_is_not_answering_and_then_ended() -> None:
    class Silent(FakeProcess):
        def send(self, message: ToWorker) -> None:
            if not isinstance(message, Ping):
                super().send(message)

    async def main() -> tuple[set[str], int]:
        machine, began = Machine(), 0

        async def start() -> FakeProcess:
            nonlocal began
            began += 1
            return Silent(machine, 10**9) if began == 1 else await machine.start()

        backend = WorkerBackend(toy_backend, ToyOptions(), name="toy", start_process=start)
        await backend.start()
        request = ask("hi " + HANG)
        answer = asyncio.create_task(text_of(backend, request))
        states = set()
        while began < 2:
            await LoopClock().sleep(1)
            states.add(backend.state)
        backend.cancel(request.id)
        assert await answer == ""
        await backend.aclose()
        return states, began

    states, began = run_virtually(main())
    assert {"running", "not answering"} <= states
    assert began == 2


def test_one_request_of_an_id_is_under_way_at_a_time() -> None:
    async def main() -> None:
        async with backend_on(Machine()) as backend:
            request = ask("room")
            first = asyncio.create_task(text_of(backend, request))
            await LoopClock().sleep(0.05)
            with pytest.raises(InvalidRequest, match="is on its way already"):
                await text_of(backend, request)
            assert await first == expected(request, Machine()) == await text_of(backend, request)
            backend.cancel("nobody")

    run_virtually(main())
