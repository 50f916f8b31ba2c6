"""States on disk: found by their ids alone, never another model's, bounded, and of no harm where they are damaged."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatbridge import BackendError, DiskCache, Finish, ModelLoadError, Prompt, Request, Sampling, Text, Tokens
from chatbridge.engine.disk_cache import CLOSE_SECONDS, MIN_TOKENS, _read_stored
from chatbridge.engine.engine import Engine
from chatbridge.engine.state_pool import StatePool
from chatbridge.testing import ToyModel
from chatbridge.testing.toy import ToyState

IDS = list(range(5, 5 + 3 * MIN_TOKENS))


class WithDiskCache:
    """A toy model with a disk cache."""

    def __init__(self, model: ToyModel, folder: Path, max_bytes: int = 1 << 30) -> None:
        self._model = model
        self.disk_cache = DiskCache(folder, model.info.fingerprint, max_bytes)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


def engine(folder: Path, *, cache_bytes: int = 1 << 26, **options: object) -> Engine:
    return Engine(WithDiskCache(ToyModel(**options), folder), cache_bytes=cache_bytes)  # type: ignore[arg-type]


def ask(engine: Engine, prompt: Prompt) -> Finish:
    engine.submit(Request(prompt, id="0", sampling=Sampling(temperature=0, max_tokens=8)))
    while not engine.idle:
        for event in engine.step():
            assert event.error is None, event.error
            if event.chunk is not None and event.chunk.finish is not None:
                finish = event.chunk.finish
    return finish


@pytest.mark.parametrize("can_trim", [True, False])
def test_after_a_restart_only_what_is_new_is_read(tmp_path: Path, can_trim: bool) -> None:
    first = engine(tmp_path, can_trim=can_trim)
    prompt: Prompt = (Text("a long story " * 20),)
    before = ask(first, prompt)
    first.close()
    longer: Prompt = (*prompt, Tokens(before.reply.tokens), Text("and then?"))
    again = engine(tmp_path, can_trim=can_trim)
    after = ask(again, longer)
    assert after.usage.cached == before.usage.prompt + before.usage.generated - 1
    again.close()
    fresh = engine(tmp_path / "other", can_trim=can_trim)
    assert ask(fresh, longer).reply == after.reply
    fresh.close()


def test_what_is_evicted_comes_back(tmp_path: Path) -> None:
    small = engine(tmp_path, cache_bytes=0)
    before = ask(small, (Text("a long story " * 20),))
    again = ask(small, (Text("a long story " * 20),))
    assert again.usage.cached == before.usage.prompt - 1
    assert again.reply == before.reply
    small.close()


def test_the_longest_of_all_is_taken(tmp_path: Path) -> None:
    first = engine(tmp_path)
    begin = "the same beginning for all " * 8
    mine = ask(first, (Text(begin + "my own story " * 10),))
    first.close()
    again = engine(tmp_path)
    ask(again, (Text(begin + "another one"),))  # now in memory, and shares less
    assert ask(again, (Text(begin + "my own story " * 10),)).usage.cached == mine.usage.prompt - 1
    again.close()


def state_of(model: ToyModel, ids: list[int]) -> object:
    from chatbridge import Row

    state = model.new_state()
    model.step([Row(state, ids, None)])
    return state


def disk_cache(folder: Path, fingerprint: str = "one", max_bytes: int = 1 << 30) -> DiskCache:
    return DiskCache(folder, fingerprint, max_bytes)


def test_another_models_states_are_not_seen(tmp_path: Path) -> None:
    state = state_of(ToyModel(), IDS)
    disk_cache(tmp_path).put(IDS, state)  # type: ignore[arg-type]
    assert disk_cache(tmp_path).longest([*IDS, 1], whole=True)[1] == len(IDS)
    assert disk_cache(tmp_path, "two").longest([*IDS, 1], whole=True) == (None, 0)


def test_one_token_is_left_to_evaluate(tmp_path: Path) -> None:
    kept = disk_cache(tmp_path)
    kept.put(IDS, state_of(ToyModel(), IDS))  # type: ignore[arg-type]
    assert kept.longest(IDS, whole=False)[1] == len(IDS) - 1
    assert kept.longest(IDS, whole=True) == (None, 0)
    assert kept.longest([9, *IDS], whole=False) == (None, 0)


def test_short_states_are_not_worth_a_file(tmp_path: Path) -> None:
    for length, files in ((MIN_TOKENS - 1, 0), (MIN_TOKENS, 1)):
        ids = IDS[:length]
        disk_cache(tmp_path).put(ids, state_of(ToyModel(), ids))  # type: ignore[arg-type]
        assert len(list(tmp_path.iterdir())) == files


def test_of_states_that_cannot_trim_the_longest_one_that_serves_is_taken(tmp_path: Path) -> None:
    kept = disk_cache(tmp_path / "made" / "where it is not there")
    for length in (70, 90, 80):
        kept.put(IDS[:length], state_of(ToyModel(), IDS[:length]))  # type: ignore[arg-type]
    found = [kept.longest(IDS[:length], whole=True)[1] for length in (70, 71, 80, 81, 90, 91, 120)]
    assert found == [0, 70, 70, 80, 80, 90, 90]


def test_a_state_may_be_smaller_than_its_ids(tmp_path: Path) -> None:
    class Small(ToyState):
        __slots__ = ()

        def save(self) -> bytes:
            return b""

    disk_cache(tmp_path).put(IDS, Small(ToyModel(), []))
    assert [stored.tokens for stored in DiskCache.contents(tmp_path)] == [tuple(IDS)]


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    model = ToyModel()
    kept = disk_cache(tmp_path)
    for first in (1, 2, 3):
        ids = [first, *IDS]
        kept.put(ids, state_of(model, ids))  # type: ignore[arg-type]
        for number, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (number, number))
    size = next(tmp_path.iterdir()).stat().st_size
    used, _ = kept.longest([1, *IDS, 5], whole=True)
    assert used is not None
    assert kept.read(used) is not None
    tight = disk_cache(tmp_path, max_bytes=3 * size + size // 4)  # a sixteenth is left free
    ids = [4, *IDS]
    tight.put(ids, state_of(model, ids))  # type: ignore[arg-type]
    assert [bool(tight.longest([first, *IDS, 5], whole=True)[1]) for first in (1, 2, 3, 4)] == [True, False, True, True]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("cut", [0, 5, 21, 40, -100])
def test_a_damaged_file_is_of_no_harm(tmp_path: Path, cut: int) -> None:
    first = engine(tmp_path)
    before = ask(first, (Text("a long story " * 20),))
    first.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    again = engine(tmp_path)
    after = ask(again, (Text("a long story " * 20),))
    assert (after.usage.cached, after.reply) == (0, before.reply)
    again.close()


def test_a_damaged_file_takes_no_memory_for_ids_that_it_does_not_have(tmp_path: Path) -> None:
    first = engine(tmp_path)
    ask(first, (Text("a long story " * 20),))
    first.close()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    at = len(b"chatbridge-state-2\n") + 8
    data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    asked: list[int] = []
    with path.open("rb") as file, pytest.raises(ValueError, match="ends before"):
        _read_stored(lambda count: asked.append(count) or file.read(count), path)  # type: ignore[func-returns-value]
    assert max(asked) < 100
    assert list(DiskCache.contents(tmp_path)) == []


def test_a_file_that_went_away_is_of_no_harm(tmp_path: Path) -> None:
    first = engine(tmp_path)
    before = ask(first, (Text("a long story " * 20),))
    first.close()
    again = engine(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    assert ask(again, (Text("a long story " * 20),)).reply == before.reply
    again.close()


def test_a_file_that_holds_another_state_by_now_is_not_read(tmp_path: Path) -> None:
    model, other = ToyModel(), [9, *IDS]
    kept = disk_cache(tmp_path)
    for ids in (IDS, other):
        kept.put(ids, state_of(model, ids))  # type: ignore[arg-type]
    mine, others = (kept.longest([*ids, 1], whole=True)[0] for ids in (IDS, other))
    assert mine is not None
    assert others is not None
    shutil.copyfile(others.path, mine.path)
    assert kept.read(mine) is None
    assert kept.longest([*IDS, 1], whole=True) == (None, 0)
    assert kept.read(others) is not None


def test_a_state_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    kept, state = disk_cache(tmp_path), state_of(ToyModel(), IDS)
    kept.put(IDS, state)  # type: ignore[arg-type]
    (path,) = tmp_path.iterdir()
    os.utime(path, (1, 1))
    kept.put(IDS, state)  # type: ignore[arg-type]
    assert path.stat().st_mtime == 1


def test_what_can_not_be_written_is_left_out(tmp_path: Path) -> None:
    kept = disk_cache(tmp_path / "states")
    (tmp_path / "states").rmdir()
    kept.put(IDS, state_of(ToyModel(), IDS))  # type: ignore[arg-type]
    assert kept.longest([*IDS, 1], whole=True) == (None, 0)


def test_of_what_could_not_be_written_whole_nothing_stays(tmp_path: Path) -> None:
    class Unsaved(ToyState):
        def save(self) -> bytes:
            raise OSError("no space left on device")

    state = Unsaved(ToyModel(), IDS)
    kept = disk_cache(tmp_path)
    kept.put(IDS, state)
    assert list(tmp_path.iterdir()) == []
    assert kept.longest([*IDS, 1], whole=True) == (None, 0)


def test_the_folder_never_holds_more_than_it_may(tmp_path: Path) -> None:
    model = ToyModel()
    disk_cache(tmp_path).put(IDS, state_of(model, IDS))  # type: ignore[arg-type]
    size = next(tmp_path.iterdir()).stat().st_size
    most = 40 * size
    kept = disk_cache(tmp_path, "two", most)
    (tmp_path / "notes.txt").write_text("of somebody else")
    for first in range(100):
        ids = [first, *IDS[1:]]
        kept.put(ids, state_of(model, ids))  # type: ignore[arg-type]
        assert sum(path.stat().st_size for path in tmp_path.glob("*.state")) <= most
    assert len(list(tmp_path.glob("*.state"))) > 30, "no more goes than has to"
    assert (tmp_path / "notes.txt").exists()


def test_a_kept_state_tells_which_adapter_read_it(tmp_path: Path) -> None:
    kept = disk_cache(tmp_path)
    for adapter in ("", "d1"):
        kept.put(IDS, state_of(ToyModel(), IDS), adapter)  # type: ignore[arg-type]
    plain, adapted = (kept.longest([*IDS, 1], whole=True, adapter=adapter)[0] for adapter in ("", "d1"))
    assert plain is not None
    assert adapted is not None
    assert [plain.read_by(adapter) for adapter in ("", "d1", "d2")] == [True, False, False]
    assert [adapted.read_by(adapter) for adapter in ("", "d1", "d2")] == [False, True, False]


def test_whoever_clears_a_folder_deletes_states_and_halves_of_them_and_nothing_else(tmp_path: Path) -> None:
    for fingerprint in ("one", "two"):
        disk_cache(tmp_path, fingerprint).put(IDS, state_of(ToyModel(), IDS))  # type: ignore[arg-type]
    (tmp_path / "x.7.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("of somebody else")
    assert DiskCache.clear(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert DiskCache.clear(tmp_path) == 0


class Forgetful(ToyModel):
    """Reads no saved states."""

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> ToyState:
        if saved:
            raise BackendError("of another version")
        return super().new_state(saved, adapter)


def test_a_state_that_the_model_refuses_is_given_up(tmp_path: Path) -> None:
    first = engine(tmp_path)
    before = ask(first, (Text("a long story " * 20),))
    first.close()
    again = Engine(WithDiskCache(Forgetful(), tmp_path), cache_bytes=0)  # type: ignore[arg-type]
    assert ask(again, (Text("a long story " * 20),)).reply == before.reply
    last = engine(tmp_path)
    assert ask(last, (Text("a long story " * 20),)).usage.cached == before.usage.prompt - 1, "written anew"
    last.close()


class Shortening(ToyModel):
    """Reads less from a saved state than was saved."""

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> ToyState:
        state = super().new_state(saved, adapter)
        if saved:
            state.trim(state.length - 1)
        return state


def test_a_state_that_is_not_what_was_saved_is_given_up(tmp_path: Path) -> None:
    first = engine(tmp_path)
    before = ask(first, (Text("a long story " * 20),))
    first.close()
    model = Shortening()
    again = Engine(WithDiskCache(model, tmp_path), cache_bytes=0)  # type: ignore[arg-type]
    after = ask(again, (Text("a long story " * 20),))
    assert (after.usage.cached, after.reply) == (0, before.reply)
    assert model.live == 0
    again.close()


def test_closing_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    now = iter([0.0, 1.0, CLOSE_SECONDS, CLOSE_SECONDS + 2])
    kept = DiskCache(tmp_path, "one", 1 << 30, clock=lambda: next(now))
    model = ToyModel()
    kept.put_all([([first, *IDS], state_of(model, [first, *IDS]), "") for first in (1, 2, 3)])  # type: ignore[misc]
    assert len(list(tmp_path.iterdir())) == 1
    assert kept.longest([1, *IDS, 5], whole=True)[1]


def test_it_is_told_which_states_are_there_and_which_are_not(tmp_path: Path) -> None:
    now = iter([0.0, 1.0, 2.0, 50.0])
    kept = DiskCache(tmp_path, "one", clock=lambda: next(now))
    model = ToyModel()
    short = [7] * (MIN_TOKENS - 1)
    several = [(ids, state_of(model, ids), "") for ids in ([1, *IDS], short, [2, *IDS], [3, *IDS])]
    assert kept.put_all(several, 10.0) == (2, 1)  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 2


def test_who_has_something_better_to_do_interrupts_it(tmp_path: Path) -> None:
    model, asked = ToyModel(), iter([False, True, True])
    several = [([first, *IDS], state_of(model, [first, *IDS]), "") for first in (1, 2, 3)]
    assert disk_cache(tmp_path).put_all(several, 10.0, lambda: next(asked)) == (1, 2)  # type: ignore[arg-type]


def test_what_has_no_room_is_missing(tmp_path: Path) -> None:
    kept, model = disk_cache(tmp_path / "states"), ToyModel()
    states = [([1, *IDS], state_of(model, [1, *IDS]), "")]
    (tmp_path / "states").rmdir()
    assert kept.put_all(states) == (0, 1)  # type: ignore[arg-type]
    (tmp_path / "states").mkdir()
    assert kept.put_all(states) == kept.put_all(states) == (1, 0)  # type: ignore[arg-type]


def test_a_model_without_a_disk_cache_is_given_one_while_it_runs(tmp_path: Path) -> None:
    first = Engine(ToyModel())
    prompt: Prompt = (Text("a long story " * 20),)
    before = ask(first, prompt)
    assert first.store_states() == (0, 1), "there is no place for it"
    assert first.store_states(disk_cache(tmp_path, first.model.info.fingerprint)) == (1, 0)
    longer: Prompt = (*prompt, Tokens(before.reply.tokens), Text("and then?"))
    stayed = ask(first, longer)
    first.close()
    again = Engine(ToyModel(), disk_cache=disk_cache(tmp_path, first.model.info.fingerprint))
    back = ask(again, (*longer, Tokens(stayed.reply.tokens), Text("why?")))
    assert back.usage.cached == stayed.usage.prompt + stayed.usage.generated - 1
    again.close()


def test_a_models_own_disk_cache_goes_before_another(tmp_path: Path) -> None:
    own = engine(tmp_path / "own")
    ask(own, (Text("a long story " * 20),))
    assert own.store_states(disk_cache(tmp_path / "other", own.model.info.fingerprint)) == (1, 0)
    own.close()
    assert [len(list((tmp_path / name).glob("*.state"))) for name in ("own", "other")] == [1, 0]


def test_what_is_evicted_after_that_goes_there_too(tmp_path: Path) -> None:
    small = Engine(ToyModel(), cache_bytes=0)
    small.store_states(disk_cache(tmp_path, small.model.info.fingerprint))
    ask(small, (Text("a long story " * 20),))
    assert list(tmp_path.glob("*.state"))
    small.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps rights otherwise")
def test_only_the_owner_may_read_what_people_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    disk_cache(folder).put(IDS, state_of(ToyModel(), IDS))  # type: ignore[arg-type]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_a_model_keeps_states_where_its_options_say(tmp_path: Path) -> None:
    asked = SimpleNamespace(keep_states=tmp_path / "states", keep_states_gib=0.5)
    kept = DiskCache.from_options(asked, "mark")
    assert kept is not None
    assert (kept.folder, kept.fingerprint, kept.max_bytes) == (tmp_path / "states", "mark", 1 << 29)
    for nowhere in (None, False):
        assert DiskCache.from_options(SimpleNamespace(keep_states=nowhere, keep_states_gib=1.0), "mark") is None


def test_a_folder_that_cannot_be_used_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = SimpleNamespace(keep_states=tmp_path / "file" / "states", keep_states_gib=1.0)
    with pytest.raises(ModelLoadError, match=r"keep_states: .*states can't be used"):
        DiskCache.from_options(asked, "mark")


def test_a_state_that_reads_back_otherwise_is_not_tried_again(tmp_path: Path) -> None:
    disk = disk_cache(tmp_path)
    disk.put(IDS, state_of(ToyModel(), IDS))  # type: ignore[arg-type]
    pool = StatePool(Shortening(), 2, 1 << 20, disk)
    request = pool.acquire([*IDS, 1], len(IDS) + 1)
    assert request.model_state.length == 0
    assert disk.longest([*IDS, 1], whole=False) == (None, 0)
    pool.discard(request)
