"""Adapters: each reads the same tokens in its own way, so nothing that one of them has read serves another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chatbridge import DiskCache, InvalidRequest, Request
from chatbridge.engine.engine import Engine
from chatbridge.engine.prefix_cache import PrefixCache
from chatbridge.testing import ToyModel

from .driving import answer_to, ask, play, turn_after

NAMES = ("", "poet", "lawyer")
STORY = "a story of two bridges that is long enough for the hashes of several blocks, and for the disk cache as well"


def adapted(**toy: Any) -> ToyModel:
    return ToyModel(adapters=NAMES[1:], **toy)


def asked() -> list[Request]:
    return [ask(STORY, id=name or "plain", adapter=name) for name in NAMES]


@pytest.mark.parametrize("can_trim", [True, False])
def test_each_adapter_answers_in_its_own_way_also_in_company(can_trim: bool) -> None:
    alone = {r.id: answer_to(Engine(adapted(can_trim=can_trim), cache_bytes=0), r).text for r in asked()}
    assert len(set(alone.values())) == len(NAMES)
    engine = Engine(adapted(can_trim=can_trim))
    for _ in range(2):  # the second time from what the first has left
        assert {name: answer.text for name, answer in play(engine, *asked()).items()} == alone
    engine.close()


@pytest.mark.parametrize("can_trim", [True, False])
def test_only_what_the_same_adapter_read_is_reused(can_trim: bool) -> None:
    engine = Engine(adapted(can_trim=can_trim))
    plain, poet, _ = asked()
    first = answer_to(engine, plain)
    assert answer_to(engine, poet).cached == 0
    again = answer_to(engine, turn_after(plain, first, "and then?"))
    assert again.cached == first.end.usage.prompt + first.end.usage.generated - 1
    engine.close()


def test_running_requests_share_within_one_adapter_only() -> None:
    engine = Engine(adapted(), token_budget=64)
    engine.submit(ask(STORY, id="first", adapter="poet"))
    engine.step()
    outputs = play(engine, ask(STORY + "!", id="poet", adapter="poet"), ask(STORY + "!", id="lawyer", adapter="lawyer"))
    assert outputs["poet"].cached > 0
    assert outputs["lawyer"].cached == 0
    engine.close()


def test_an_unknown_adapter_is_refused_with_those_that_are_there() -> None:
    for model, known in ((adapted(), "it has poet, lawyer"), (ToyModel(), "it has none")):
        error = answer_to(Engine(model), ask("hi", adapter="peot")).error
        assert isinstance(error, InvalidRequest)
        assert f"no adapter 'peot'; {known}" in str(error)


def test_a_kept_state_makes_none_of_another_adapter_superfluous() -> None:
    model = adapted()
    cache = PrefixCache(True, 1 << 20, 9)
    for name in NAMES:
        state = model.new_state(adapter=name)
        state.consume(list(STORY.encode()))
        cache.put(list(STORY.encode()), state, name)
    assert len(cache) == len(NAMES)
    assert cache.fetch([*STORY.encode(), 1], room=9, adapter="singer") is None
    assert cache.fetch([*STORY.encode(), 1], room=9, adapter="poet") is not None


class WithDiskCache:
    """A toy model with a disk cache, whose adapters have these digests."""

    def __init__(self, folder: Path, digests: dict[str, str]) -> None:
        self._model = adapted()
        self._model.info = self.info = replace(self._model.info, adapters=digests)
        self.disk_cache = DiskCache(folder, self.info.fingerprint, 1 << 30)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def cached_after_a_restart(folder: Path, adapter: str, **digests: str) -> int:
    engine = Engine(WithDiskCache(folder, digests))  # type: ignore[arg-type]
    cached = answer_to(engine, ask(STORY, adapter=adapter)).cached
    engine.close()
    return cached


def test_a_state_on_disk_is_its_adapters_alone(tmp_path: Path) -> None:
    digests = {"poet": "1", "lawyer": "2"}
    assert cached_after_a_restart(tmp_path, "poet", **digests) == 0
    assert cached_after_a_restart(tmp_path, "lawyer", **digests) == 0
    assert cached_after_a_restart(tmp_path, "", **digests) == 0
    assert cached_after_a_restart(tmp_path, "poet", **digests) == len(STORY)


def test_a_state_on_disk_belongs_to_what_the_adapter_was(tmp_path: Path) -> None:
    assert cached_after_a_restart(tmp_path, "poet", poet="1") == 0
    assert cached_after_a_restart(tmp_path, "poet", poet="another file") == 0
    assert cached_after_a_restart(tmp_path, "poet", poet="1") == len(STORY)
