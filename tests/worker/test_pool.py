"""Models that nobody uses are unloaded, and loaded again for whoever comes: models of no weight, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge.config import ModelSettings
from chatbridge.config.options import Options
from chatbridge.delivery.clock import LoopClock
from chatbridge.engine.backend import Backend, BackendType
from chatbridge.engine.disk_cache import UNLOAD_SECONDS
from chatbridge.errors import BackendError, ModelLoadError
from chatbridge.testing import ScriptedBackend, run_virtually
from chatbridge.worker.backoff import MOST
from chatbridge.worker.pool import ModelPool

MINUTE = 60.0
sleep = LoopClock().sleep


class Model(ScriptedBackend):
    """Says when it puts its states away and when it closes; either may be made to wait, or to fail."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__("Yes.")
        self.shelf = shelf
        self.number = len(shelf.made)

    async def store_states(self, folder: Path) -> tuple[int, int]:
        self.shelf.told.append(f"{self.number} stores")
        self.shelf.storing.set()
        if self.shelf.trouble is not None:
            raise self.shelf.trouble
        await self.shelf.may_store.wait()
        return self.shelf.stored

    async def aclose(self) -> None:
        self.shelf.told.append(f"{self.number} closes")
        self.shelf.closing.set()
        await self.shelf.may_close.wait()
        await super().aclose()
        self.shelf.told.append(f"{self.number} is closed")


class Shelf:
    """A pool of one model's loads: `made` in their order, `told` what became of them."""

    def __init__(self, **settings: object) -> None:
        self.made: list[Model] = []
        self.told: list[str] = []
        self.stored = (3, 0)
        self.trouble: Exception | None = None
        self.broken: ModelLoadError | None = None
        self.storing, self.closing = asyncio.Event(), asyncio.Event()
        self.may_store, self.may_close = asyncio.Event(), asyncio.Event()
        self.may_store.set()
        self.may_close.set()
        kind = BackendType("shelf", Options, "", connect=self._connect)
        self.pool = ModelPool({"shelf": kind}.__getitem__, clock=asyncio.get_running_loop().time)
        fields = {"idle_minutes": 10, "states_folder": Path("states"), **settings}
        self.settings = ModelSettings("m", "shelf", Options(), **fields)  # type: ignore[arg-type]

    async def _connect(self, options: Options) -> Model:
        if self.broken is not None:
            raise self.broken
        self.made.append(Model(self))
        self.told.append(f"{self.made[-1].number} is loaded")
        return self.made[-1]

    async def use(self, seconds: float = 0.0) -> Backend:
        async with self.pool.use(self.settings) as backend:
            await sleep(seconds)
            assert not self.made[-1].closed, "it was closed under its user"
            return backend

    @property
    def loaded(self) -> bool:
        return self.pool.is_loaded(self.settings)

    def follow(self, **changes: object) -> None:
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.pool.follow({"m": self.settings})


def virtually(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    run_virtually(main())


def test_a_model_is_unloaded_when_nobody_has_used_it_for_so_long_and_no_sooner() -> None:
    async def test() -> None:
        shelf = Shelf()
        await sleep(100)
        await shelf.use(50)
        await sleep(10 * MINUTE - 1)
        assert shelf.loaded
        assert shelf.pool.states() == {"m": "running"}
        await sleep(2)
        assert not shelf.loaded
        assert shelf.told == ["0 is loaded", "0 stores", "0 closes", "0 is closed"]
        assert shelf.pool.unloaded() == {"m": 150.0}
        assert shelf.pool.states() == {"m": "unloaded, idle since 1970-01-01T00:02:30Z"}
        assert await shelf.use() is shelf.made[1]
        assert shelf.pool.states() == {"m": "running"}
        assert shelf.pool.unloaded() == {}
        await sleep(10 * MINUTE + 1)
        assert not shelf.loaded, "and so again"
        await shelf.pool.aclose()

    virtually(test)


def test_without_such_a_time_it_stays_for_ever() -> None:
    async def test() -> None:
        shelf = Shelf(idle_minutes=0)
        await shelf.use()
        await sleep(20 * 60 * MINUTE)
        assert shelf.loaded
        await shelf.pool.aclose()

    virtually(test)


def test_each_use_begins_the_time_anew_and_a_long_one_does_not_count() -> None:
    async def test() -> None:
        shelf = Shelf()
        for _ in range(5):
            await shelf.use()
            await sleep(9 * MINUTE)
        await shelf.use(100 * MINUTE)
        await sleep(9 * MINUTE)
        assert shelf.told == ["0 is loaded"]
        await sleep(MINUTE + 1)
        assert not shelf.loaded
        await shelf.pool.aclose()

    virtually(test)


def test_of_several_users_the_last_one_counts() -> None:
    async def test() -> None:
        shelf = Shelf()
        users = [asyncio.create_task(shelf.use(seconds)) for seconds in (0, 5 * MINUTE, 30 * MINUTE)]
        await asyncio.gather(*users)
        await sleep(9 * MINUTE)
        assert shelf.loaded
        await sleep(2 * MINUTE)
        assert shelf.pool.unloaded() == {"m": 30 * MINUTE}
        await shelf.pool.aclose()

    virtually(test)


def test_who_comes_while_its_states_are_written_has_it_at_once() -> None:
    async def test() -> None:
        shelf = Shelf()
        shelf.may_store.clear()
        await shelf.use()
        await shelf.storing.wait()
        assert await asyncio.wait_for(shelf.use(), 1) is shelf.made[0]
        shelf.may_store.set()
        await sleep(9 * MINUTE)
        assert shelf.told == ["0 is loaded", "0 stores"], "its time has begun anew"
        await sleep(2 * MINUTE)
        assert not shelf.loaded
        await shelf.pool.aclose()

    virtually(test)


def test_who_comes_while_it_closes_waits_for_that_and_has_it_loaded_again() -> None:
    async def test() -> None:
        shelf = Shelf()
        shelf.may_close.clear()
        await shelf.use()
        await shelf.closing.wait()
        users = [asyncio.create_task(shelf.use()) for _ in range(3)]
        await sleep(5)
        assert len(shelf.made) == 1, "two would not fit side by side"
        shelf.may_close.set()
        assert await asyncio.gather(*users) == [shelf.made[1]] * 3
        assert shelf.told[-3:] == ["0 closes", "0 is closed", "1 is loaded"]
        await shelf.pool.aclose()

    virtually(test)


@pytest.mark.parametrize(("minutes", "gone_after"), [(3, 3), (7, 7), (25, 25), (0, None)])
def test_a_changed_time_holds_at_once_and_reloads_nothing(minutes: int, gone_after: int | None) -> None:
    async def test() -> None:
        shelf = Shelf()
        await shelf.use()
        await sleep(5 * MINUTE)
        shelf.follow(idle_minutes=minutes)
        await sleep(1)
        for minute in range(5, 60):
            assert shelf.loaded == (gone_after is None or minute < gone_after), minute
            await sleep(MINUTE)
        assert len(shelf.made) == 1
        await shelf.pool.aclose()

    virtually(test)


def test_the_time_of_who_used_it_last_holds() -> None:
    async def test() -> None:
        shelf = Shelf()
        await shelf.use()
        shelf.settings = replace(shelf.settings, idle_minutes=3)
        await shelf.use()
        await sleep(3 * MINUTE + 1)
        assert not shelf.loaded
        assert len(shelf.made) == 1
        await shelf.pool.aclose()

    virtually(test)


def test_a_clock_that_is_put_back_keeps_nothing_loaded_for_longer() -> None:
    async def test() -> None:
        shelf = Shelf()
        now, back = asyncio.get_running_loop().time, 0.0
        shelf.pool.clock = lambda: now() - back
        await shelf.use()
        back = 24 * 60 * MINUTE
        shelf.follow(idle_minutes=5)
        await sleep(5 * MINUTE + 1)
        assert not shelf.loaded
        await shelf.pool.aclose()

    virtually(test)


def test_a_time_that_is_set_later_holds_for_what_is_loaded_already() -> None:
    async def test() -> None:
        shelf = Shelf(idle_minutes=0)
        using = asyncio.create_task(shelf.use(30 * MINUTE))
        await sleep(1)
        shelf.follow(idle_minutes=10)
        await sleep(20 * MINUTE)
        assert shelf.loaded, "it is in use"
        await using
        await sleep(10 * MINUTE + 1)
        assert shelf.told == ["0 is loaded", "0 stores", "0 closes", "0 is closed"]
        await shelf.pool.aclose()

    virtually(test)


def test_one_that_is_replaced_leaves_the_new_one_its_own_time() -> None:
    async def test() -> None:
        shelf = Shelf()
        await shelf.use()
        await sleep(9 * MINUTE)
        shelf.follow(max_batch=2)
        await shelf.use()
        assert shelf.told == ["0 is loaded", "0 closes", "0 is closed", "1 is loaded"]
        await sleep(9 * MINUTE)
        assert shelf.loaded
        await sleep(2 * MINUTE)
        assert not shelf.loaded
        await shelf.pool.aclose()

    virtually(test)


def test_what_bots_yaml_has_no_longer_is_not_told_of() -> None:
    async def test() -> None:
        shelf = Shelf()
        await shelf.use()
        shelf.pool.follow({})
        await sleep(11 * MINUTE)
        assert shelf.told[-1] == "0 is closed"
        assert shelf.pool.states() == {}
        shelf.follow()
        await shelf.use()
        await sleep(11 * MINUTE)
        shelf.broken = ModelLoadError("the disk is gone")
        assert list(shelf.pool.states()) == ["m"]
        shelf.pool.follow({})
        assert shelf.pool.states() == {}
        with pytest.raises(ModelLoadError):
            await shelf.use()
        assert shelf.pool.states() == {"m": "can't be loaded, 1 times"}
        shelf.pool.follow({})
        assert shelf.pool.states() == {}
        await shelf.pool.aclose()

    virtually(test)


def test_one_that_can_not_be_loaded_again_is_in_trouble_and_not_idle() -> None:
    async def test() -> None:
        shelf = Shelf()
        await shelf.use()
        await sleep(11 * MINUTE)
        shelf.broken = ModelLoadError("the disk is gone")
        with pytest.raises(ModelLoadError, match="the disk is gone"):
            await shelf.use()
        assert shelf.pool.unloaded() == {}
        assert shelf.pool.states() == {"m": "can't be loaded, 1 times"}
        shelf.broken = None
        shelf.pool._failing["m"].backoff.clock = lambda: 10**9 + MOST
        await shelf.use()
        assert shelf.pool.states() == {"m": "running"}
        await shelf.pool.aclose()

    virtually(test)


@pytest.mark.parametrize("what", ["it says why", "it never ends", "it has a mistake in it"])
def test_states_that_can_not_be_written_keep_no_memory(what: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        shelf = Shelf()
        shelf.trouble = {
            "it says why": BackendError("the disk is full"),
            "it has a mistake in it": ZeroDivisionError("the disk is full"),
        }.get(what)
        shelf.may_store.clear()
        await shelf.use()
        await sleep(10 * MINUTE + 2 * UNLOAD_SECONDS + 1)
        assert shelf.told[-1] == "0 is closed"
        await shelf.pool.aclose()

    caplog.set_level(logging.INFO, "chatbridge.worker.pool")
    virtually(test)
    why = "it took too long" if what == "it never ends" else "the disk is full"
    [warned] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == f"what the model m has read could not be put into states, and will be read again: {why}"
    assert "nobody has used it for 10 min; histories will be read again" in caplog.text


@pytest.mark.parametrize(
    ("settings", "stored", "told"),
    [
        ({}, (3, 0), "what it has read of conversations is in states (3 states)"),
        ({"states_folder": None}, (0, 0), "histories will be read again, since its keep_states is false"),
    ],
)
def test_the_log_tells_what_becomes_of_histories(
    settings: dict[str, object], stored: tuple[int, int], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        shelf = Shelf(**settings)
        shelf.stored = stored
        await shelf.use()
        await sleep(11 * MINUTE)
        assert ("0 stores" in shelf.told) == (stored != (0, 0))
        await shelf.pool.aclose()

    caplog.set_level(logging.INFO, "chatbridge.worker.pool")
    virtually(test)
    assert f"the model m is unloaded: nobody has used it for 10 min; {told}" in caplog.messages
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_states_for_which_there_was_no_time_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        shelf = Shelf()
        shelf.stored = (2, 5)
        await shelf.use()
        await sleep(11 * MINUTE)
        await shelf.pool.aclose()

    virtually(test)
    assert "5 of 7 states of the model m could not be put into states in time" in caplog.text


@pytest.mark.parametrize("when", ["it waits", "it stores", "it closes"])
def test_a_pool_that_is_closed_leaves_nothing_behind(when: str) -> None:
    async def test() -> None:
        shelf = Shelf()
        held = {"it stores": shelf.may_store, "it closes": shelf.may_close}.get(when)
        if held is not None:
            held.clear()
        await shelf.use()
        await sleep({"it waits": MINUTE}.get(when, 10 * MINUTE + 1))
        closing = asyncio.create_task(shelf.pool.aclose())
        await sleep(1)
        assert closing.done() == (when != "it closes"), "it is waited for: its process would be left"
        shelf.may_close.set()
        await closing
        assert shelf.told.count("0 is closed") == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtually(test)
