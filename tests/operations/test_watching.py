"""What watches a running program: the loop's lag, /healthz, and the numbers for Prometheus."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatbridge import Author, Channel, Delivery, FrontendType, Limits, Message, Options
from chatbridge.config import BotSettings
from chatbridge.delivery.clock import LoopClock
from chatbridge.errors import BackendError, ConfigError
from chatbridge.operations import monitor
from chatbridge.operations.lag import INTERVAL, KEPT, LINGER, QUIET, LoopLag
from chatbridge.operations.metrics import Metrics
from chatbridge.operations.monitor import Page, serving
from chatbridge.operations.service import _health, _metrics
from chatbridge.plugins.packages import install_extra
from chatbridge.testing import (
    FakeService,
    Fault,
    ScriptedBackend,
    bridge_with,
    plugin_of,
    run_virtually,
    scripted,
    toy_backend,
)
from chatbridge.testing.virtual import wakeups

ANN = Author("a", "Ann")


class Ended(Exception):
    """The clock has no more to tell."""


class LateClock:
    """A clock by which each sleep takes longer than it was to."""

    def __init__(self, lags: Iterator[float]) -> None:
        self.now = 0.0
        self._lags = lags

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        try:
            self.now += seconds + next(self._lags)
        except StopIteration:
            raise Ended from None


async def watched(lags: list[float]) -> LoopLag:
    lag = LoopLag(LateClock(iter(lags)))
    with pytest.raises(Ended):
        await lag.run()
    return lag


async def test_a_loop_that_is_blocked_is_told_of_but_not_each_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    lag = await watched([0.0, 0.01, 0.4, 0.3, 0.9, 0.02])
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the event loop was blocked for 0.40 s"
    ]
    assert lag.worst == pytest.approx(0.9)
    caplog.clear()
    await watched([0.4, *[0.0] * int(QUIET / 0.1 / 2), 0.8, *[0.0] * int(QUIET / 0.1)])
    assert ["0.40" in caplog.messages[0], "0.80" in caplog.messages[1], len(caplog.messages)] == [True, True, 2]


async def test_lag_is_forgotten_after_a_minute_and_counted_in_shares() -> None:
    lag = await watched([5.0, *[0.0] * (round(KEPT / INTERVAL) + 1)])
    assert lag.worst < 0.001
    lag = await watched([*[0.0] * 98, 0.2, 0.3])
    assert lag.quantile(0.5) < 0.001
    assert lag.quantile(1.0) == pytest.approx(0.3)
    assert lag.quantile(0.98) == pytest.approx(0.2)
    assert LoopLag().quantile(0.99) == LoopLag().worst == 0.0


def test_lag_is_sampled_only_while_there_is_something_to_do() -> None:
    async def main() -> tuple[int, int, int, int]:
        lag, stirred = LoopLag(), asyncio.Event()
        working = False
        watching = asyncio.create_task(lag.run(stirred, lambda: working))
        await LoopClock().sleep(1000)
        asleep = wakeups()
        working = True
        stirred.set()
        await LoopClock().sleep(50)
        samples = len(lag._samples)
        working = False
        await LoopClock().sleep(LINGER + 1)
        lingered = len(lag._samples) - samples
        before = wakeups()
        await LoopClock().sleep(1000)
        watching.cancel()
        return asleep, samples, lingered, wakeups() - before

    asleep, samples, lingered, asleep_again = run_virtually(main())
    assert asleep < 10
    assert samples == pytest.approx(50 / INTERVAL, abs=2)
    assert lingered == pytest.approx(LINGER / INTERVAL, abs=2)
    assert asleep_again < 10


# --- the monitor -----------------------------------------------------------------------------------------------------


async def get(port: int, request: str) -> tuple[str, str, bytes]:
    """Status, headers and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status, _, headers = head.decode().partition("\r\n")
    return status, headers, body


async def test_pages_are_served_and_everything_else_is_told_off(caplog: pytest.LogCaptureFixture) -> None:
    async def good() -> Page:
        return Page(b"{}")

    async def broken() -> Page:
        raise ZeroDivisionError

    async with serving("127.0.0.1:0", {"/good": good, "/broken": broken}) as port:
        assert await get(port, "GET /good?x=1 HTTP/1.1\r\nHost: x\r\n\r\n") == (
            "HTTP/1.1 200 OK",
            "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close",
            b"{}",
        )
        assert (await get(port, "GET /bad HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 404 Not Found"
        assert (await get(port, "POST /good HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 405 Method Not Allowed"
        assert (await get(port, "GET /broken HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 500 Internal Server Error"
        assert (await get(port, "nonsense\r\n\r\n"))[0] == ""
        assert (await get(port, "GET /" + "x" * 10_000))[0].startswith("HTTP/1.1 431 ")
        assert (await get(port, "GET /good HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK", "it goes on after all that"
        with pytest.raises(ConfigError, match=r"can't be had"):
            async with serving(f"127.0.0.1:{port}", {}):
                pass


# --- numbers ---------------------------------------------------------------------------------------------------------


async def numbers(metrics: Metrics) -> dict[str, float]:
    lines = (await metrics.text()).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_what_is_counted(tmp_path: Path) -> None:
    run_virtually(answers_are_counted(tmp_path / "db"))


async def answers_are_counted(store: Path) -> None:
    metrics = Metrics(LoopLag())
    left = iter([None, Fault("penalty", 0.0)])
    service = FakeService(Limits(2000, typing_every=0.0), lambda call: next(left, None))
    backend = ScriptedBackend("one two three", BackendError("on holiday"))
    async with bridge_with(scripted(backend), store, plugins=[metrics]) as bridge:
        metrics.bridge = bridge
        async with Delivery(bridge.bot("bot"), service.chat, service.limits, drain=30) as delivery:
            for id in "12":
                await delivery.accept(Message(id, Channel("c"), ANN, "hello"))
            await delivery.settled()
            found = await numbers(metrics)
            assert found['chatbridge_answers_total{bot="bot",model="model",reason="end"}'] == 1
            assert found['chatbridge_answers_total{bot="bot",model="model",reason="error"}'] == 1
            assert found['chatbridge_tokens_total{kind="generated",model="model"}'] == 3
            assert found['chatbridge_tokens_total{kind="cached",model="model"}'] == 0
            assert found['chatbridge_first_token_seconds_count{model="model"}'] == 1
            assert found['chatbridge_calls_total{bot="bot",call="send",outcome="ok"}'] >= 2
            assert found['chatbridge_calls_total{bot="bot",call="send",outcome="RateLimited"}'] == 1
            assert found['chatbridge_queue_depth{bot="bot",box="inbox"}'] == 0
            assert found['chatbridge_queue_depth{bot="bot",box="outbox"}'] == 0
        assert not any("queue_depth" in name for name in await numbers(metrics)), "its delivery is over"


async def test_the_lag_is_told_at_its_worst_and_as_nearly_all_samples_were() -> None:
    found = await numbers(Metrics(await watched([*[0.0] * (round(KEPT / INTERVAL) - 100), *[0.2] * 9, 0.3])))
    assert found['chatbridge_event_loop_lag_seconds{of="worst"}'] == pytest.approx(0.3)
    assert found['chatbridge_event_loop_lag_seconds{of="p99"}'] == pytest.approx(0.2)


class Ending(ScriptedBackend):
    """A backend that is closed while it is asked for its counts."""

    async def stats(self) -> dict[str, int]:
        raise BackendError("the model was closed")


async def test_a_model_that_ends_just_now_takes_no_other_number_along(tmp_path: Path) -> None:
    metrics = Metrics(LoopLag())
    async with bridge_with(scripted(Ending("Yes.")), tmp_path / "db", plugins=[metrics]) as bridge:
        metrics.bridge = bridge
        turn = await bridge.bot("bot").receive(Message("1", Channel("c"), ANN, "hello"))
        async for _ in turn:  # type: ignore[union-attr]
            pass
        found = await numbers(metrics)
    assert found['chatbridge_answers_total{bot="bot",model="model",reason="end"}'] == 1
    assert not any("model_requests" in name for name in found)


async def test_models_in_workers_tell_what_they_do(tmp_path: Path) -> None:
    metrics = Metrics(LoopLag())
    async with bridge_with(toy_backend, tmp_path / "db", plugins=[metrics]) as bridge:
        metrics.bridge = bridge
        turn = await bridge.bot("bot").receive(Message("1", Channel("c"), ANN, "hello"))
        async for _ in turn:  # type: ignore[union-attr]
            pass
        found = await numbers(metrics)
    assert found['chatbridge_model_requests{model="model",state="running"}'] == 0
    assert found['chatbridge_model_cache_bytes{model="model"}'] > 0
    assert found['chatbridge_tokens_total{kind="read",model="model"}'] > 0


# --- health ----------------------------------------------------------------------------------------------------------


async def test_health_is_that_of_the_frontends(tmp_path: Path) -> None:
    steps: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
    begun = asyncio.Event()

    async def run(options: Options, bot: object) -> None:
        begun.set()
        (await steps.get())()

    def fail() -> None:
        raise ConnectionError("no network")

    frontend = FrontendType("shaky", Options, "", run, ends=True)
    own = BotSettings("b", "shaky", Options())
    async with bridge_with(
        scripted(ScriptedBackend()), tmp_path / "db", plugins=[plugin_of(frontends=[frontend])], bots=[own]
    ) as bridge:
        running = asyncio.create_task(bridge.run(restart_after=0.01))

        async def told(after: Callable[[], None] | None = None) -> tuple[str, dict[str, object]]:
            await begun.wait()
            page = _health(bridge, LoopLag())
            return page.status, json.loads(page.body)

        status, health = await told()
        assert (status, health["status"], health["bots"]) == ("200 OK", "ok", {"b": "running"})
        bridge.states["b"] = "failing"
        assert (await told())[0] == "503 Service Unavailable"
        begun.clear()
        await steps.put(fail)
        assert (await told())[1]["bots"] == {"b": "running"}, "it was started again"
        await steps.put(lambda: None)
        await running
        assert (await told())[1]["bots"] == {"b": "ended"}


class Worker(ScriptedBackend):
    """A backend that says what its process does, as those in processes do."""

    state = "running"


async def test_health_is_that_of_the_models_too(tmp_path: Path) -> None:
    worker = Worker("Yes.")
    async with bridge_with(scripted(worker), tmp_path / "db") as bridge:

        async def health() -> Page:
            return _health(bridge, LoopLag())

        async with serving("127.0.0.1:0", {"/healthz": health}) as port:

            async def told() -> tuple[str, dict[str, object]]:
                status, _, body = await get(port, "GET /healthz HTTP/1.1\r\n\r\n")
                return status, json.loads(body)

            turn = await bridge.bot("bot").receive(Message("1", Channel("c"), ANN, "hello"))
            async for _ in turn:  # type: ignore[union-attr]
                pass
            assert (await told())[0] == "HTTP/1.1 200 OK"
            worker.state = "not answering"
            status, health_now = await told()
            assert status == "HTTP/1.1 503 Service Unavailable"
            assert (health_now["status"], health_now["model_states"]) == ("failing", {"model": "not answering"})
            worker.state = "running"  # it was replaced
            assert (await told())[0] == "HTTP/1.1 200 OK"


async def test_the_monitor_reads_no_body_and_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def page() -> Page:
        return Page(b"fine")

    monkeypatch.setattr(monitor, "PATIENCE", 0.2)
    monkeypatch.setattr(monitor, "MAX_CONNECTIONS", 3)
    async with serving("127.0.0.1:0", {"/healthz": page}) as port:

        async def said(*pieces: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.writelines(pieces)
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

        whole = await said(b"GET /healthz HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n")
        assert whole.endswith(b"fine"), "the body was not waited for"
        assert b"405" in await said(b"POST /healthz HTTP/1.1\r\ncontent-length: 9\r\n\r\n")
        # Whoever still writes may be cut off before the answer is read.
        long = await said(b"GET /healthz HTTP/1.1\r\nx: ", b"y" * 20_000)
        assert long == b"" or b"8192 bytes at most" in long, "a head has a limit"
        slow = [asyncio.create_task(said(b"GET /he")) for _ in range(3)]
        for one in await asyncio.gather(*slow):
            assert one.startswith(b"HTTP/1.1 408 "), "they are left"
            assert b"0.2 seconds at most" in one
        monkeypatch.setattr(monitor, "PATIENCE", 60)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert b"3 connections at once at most" in await said()
        for reader, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"fine")
            writer.close()
        assert (await said(b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"fine")


async def test_health_tells_in_numbers_how_it_is(tmp_path: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("Yes.")), tmp_path / "db") as bridge:
        page = _health(bridge, await watched([0.0, 0.123456, 0.01]))
        assert page.status == "200 OK"
        assert json.loads(page.body) == {
            "status": "ok",
            "bots": {},
            "models": [],
            "model_states": {},
            "in_hand": 0,
            "damaged_rows": 0,
            "event_loop_lag_seconds": 0.1235,
        }


def test_without_the_library_of_metrics_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    metrics, missing = _metrics(LoopLag())
    assert (metrics, missing) == (None, f"metrics need prometheus-client: {install_extra('metrics')}")
    monkeypatch.undo()
    metrics, missing = _metrics(LoopLag())
    assert (metrics is None, missing) == (False, "")
