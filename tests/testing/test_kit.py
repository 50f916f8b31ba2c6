"""The kit for plugin authors, held against our own fakes; and fakes that break a contract are found out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chatbridge import Backend, LocalModel, Row
from chatbridge.testing import (
    BackendContract,
    EngineContract,
    LocalModelContract,
    ScriptedBackend,
    ToyModel,
    ToyOptions,
    bridge_with,
    scripted,
    toy_backend,
    worker_with,
)
from chatbridge.testing.toy import ToyState


class TestToyModel(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return ToyModel()


class TestRecurrentToyModel(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return ToyModel(can_trim=False)


class TestBidirectionalToyModel(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return ToyModel(bidirectional=True)


class TestEngineOnABidirectionalToyModel(EngineContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return ToyModel(bidirectional=True, slices=2)


class TestToyInAWorker(BackendContract):
    @pytest.fixture
    async def backend(self, warm_workers: None) -> AsyncIterator[Backend]:
        async with worker_with(toy_backend, ToyOptions(eos_every=2000)) as backend:
            yield backend


class ForgetfulState(ToyState):
    """A fork that forgets one token."""

    __slots__ = ()

    def fork(self) -> ToyState:
        fork = super().fork()
        if fork.length > 2:
            fork.digests[-1] = fork.digests[-2]
        return fork


class ForgetfulModel(ToyModel):
    def new_state(self, saved: bytes | None = None) -> ToyState:
        state = super().new_state(saved)
        state.__class__ = ForgetfulState
        return state


class MixedUpModel(ToyModel):
    """Answers of a batch change places."""

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        sampled = super().step(rows)
        wanted = [i for i, row in enumerate(rows) if row.sampler is not None]
        turned = [sampled[i] for i in wanted[1:] + wanted[:1]]
        for i, tokens in zip(wanted, turned, strict=True):
            sampled[i] = tokens
        return sampled


class ParsingTokenizer:
    """Reads control tokens out of plain text."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, text: str, *, start: bool) -> list[int]:
        before, found, after = text.partition("</s>")
        inner = self._inner
        if not found:
            return list(inner.encode(text, start=start))
        return [*inner.encode(before, start=start), inner.special(found), *self.encode(after, start=False)]


class ParsingModel(ToyModel):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.tokenizer = ParsingTokenizer(self.tokenizer)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("model", "test"),
    [
        (ForgetfulModel, "test_a_fork_goes_on_like_the_original"),
        (MixedUpModel, "test_batched_equals_alone"),
        (ParsingModel, "test_text_never_becomes_a_control_token"),
    ],
)
def test_a_model_that_breaks_the_contract_is_found_out(model: type[ToyModel], test: str) -> None:
    getattr(LocalModelContract(), test)(ToyModel())
    with pytest.raises(AssertionError):
        getattr(LocalModelContract(), test)(model())


async def test_a_scripted_backend_says_its_lines(tmp_path: Path) -> None:
    backend = ScriptedBackend("one", ["t", "wo"])
    async with bridge_with(scripted(backend), tmp_path / "store") as bridge:
        from chatbridge import Author, Channel, Message, ReplyStream

        heard = []
        for i in range(3):
            turn = await bridge.bot("bot").receive(Message(str(i), Channel("c"), Author("a", "A"), f"say {i}"))
            assert isinstance(turn, ReplyStream)
            heard.append("".join([chunk.text async for chunk in turn]))
    assert heard == ["one", "two", "two"]
    assert [request.turns[-1].text for request in backend.requests] == ["say 0", "say 1", "say 2"]
    assert backend.closed


class TestScripted(BackendContract):
    @pytest.fixture
    async def backend(self) -> ScriptedBackend:
        return ScriptedBackend("a few words that were written before")
