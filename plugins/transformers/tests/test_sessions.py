"""Conversations side by side: several adapters in one step, kept states, hostile requests beside good ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from chatbridge_transformers.model import TransformersModel

from chatbridge import (
    Author,
    BackendError,
    Bridge,
    Channel,
    DiskCache,
    Finish,
    InvalidRequest,
    Message,
    Plugins,
    Prompt,
    ReplyStream,
    Request,
    Row,
    Sampling,
    SettingsSource,
    Special,
    Text,
)
from chatbridge.config import load
from chatbridge.testing import engine_on, finish_all, finish_step

from .conftest import GREEDY, LLAMA, Load, greedy


def asking(prompt: Prompt, count: int, name: str) -> Request:
    """A request for the likeliest tokens after a prompt."""
    return Request(prompt, id=name, sampling=Sampling(temperature=0, max_tokens=count))


IDS = [1, 260, 13, 40, 300, 77, 9, 210]


def test_rows_of_several_adapters_come_in_one_step(llama: TransformersModel) -> None:
    names = ("", "alpaca", "qkvo", "alpaca", "")
    alone = [greedy(llama, IDS[: 4 + n], 10, name) for n, name in enumerate(names)]
    assert len({tuple(ids) for ids in (alone[0], alone[1], alone[2])}) == 3, "the adapters do nothing"
    states = [llama.new_state(None, name) for name in names]
    samplers = [llama.new_sampler(GREEDY, [], 0) for _ in names]
    pending, found = [IDS[: 4 + n] for n in range(len(names))], [[] for _ in names]  # type: ignore[var-annotated]
    while own := [n for n in range(len(names)) if len(found[n]) < len(alone[n])]:
        for n, tokens in zip(own, llama.step([Row(states[n], pending[n], samplers[n]) for n in own]), strict=True):
            pending[n] = list(tokens)
            found[n] += tokens
    assert found == alone
    assert states[1].fork().adapter == "alpaca"


def test_the_engine_keeps_the_states_of_adapters_apart(llama: TransformersModel) -> None:
    engine = engine_on(llama)
    prompt = (Special("bos"), Text("The fox learns to read"))
    asked = [Request(prompt, id=f"{n}", sampling=Sampling(temperature=0, max_tokens=8), adapter=name)
             for n, name in enumerate(("", "alpaca", "qkvo"))]  # fmt: skip
    together = {name: finish.reply.tokens for name, finish in finish_all(engine, asked).items()}
    again = {name: finish.reply.tokens for name, finish in finish_all(engine, asked).items()}
    alone = {r.id: finish_all(engine_on(llama, cache_bytes=0), [r])[r.id].reply.tokens for r in asked}
    assert together == again == alone
    assert len(set(alone.values())) == 3
    engine.close()


async def test_two_channels_with_different_adapters_are_answered_at_once_by_one_base(tmp_path: Path) -> None:
    text = f"""\
models:
  llama:
    backend: transformers
    path: "{LLAMA / "hf"}"
    threads: 1
    device: cpu
    adapters: {{alpaca: "{LLAMA / "alpaca-lora"}", qkvo: "{LLAMA / "alpaca-lora-r16-qkvo"}"}}
templates: {{talk: {{user: "User: {{text}}\\n", assistant: "Assistant: {{text}}\\n"}}}}
defaults: {{template: talk, reply_to: always, sampling: {{temperature: 0, max_tokens: 12}}}}
bots: {{b: {{frontend: repl, channels: {{one: {{adapter: alpaca}}, two: {{adapter: qkvo}}}}}}}}
"""
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    plugins = Plugins()

    async def asked(bridge: Bridge, channel: str, id: str) -> Finish:
        turn = await bridge.bot("b").receive(Message(id, Channel(channel), Author("ann", "Ann"), "hi"))
        assert isinstance(turn, ReplyStream)
        (finish,) = [chunk.finish async for chunk in turn if chunk.finish is not None]
        return finish

    async with Bridge(SettingsSource(load(tmp_path / "bots.yaml", plugins)), plugins) as bridge:
        together = await asyncio.gather(*(asked(bridge, name, name) for name in ("one", "two", "three")))
        assert len(bridge.models.loaded()) == 1
    found = [finish.reply.tokens for finish in together]
    assert len(set(found)) == 3
    assert [finish.usage.cached for finish in together] == [0, 0, 0], "the same prompt, which other adapters have read"


def test_a_saved_state_serves_its_own_model_and_adapter_alone(llama: TransformersModel, model_of: Load) -> None:
    state = llama.new_state(None, "alpaca")
    llama.step([Row(state, IDS, None)])
    saved = state.save()
    assert llama.new_state(saved, "alpaca").length == len(IDS)
    for damaged in (saved[:-1], saved[:50], b"", saved[:60] + b"x" + saved[61:]):
        with pytest.raises(BackendError, match="damaged or belongs to another model"):
            llama.new_state(damaged, "alpaca")
    with pytest.raises(BackendError):
        llama.new_state(saved)
    with pytest.raises(BackendError):
        model_of(LLAMA / "hf", adapters={"alpaca": LLAMA / "alpaca-lora-r16-qkvo"}).new_state(saved, "alpaca")


def test_a_restart_reads_nothing_again(tmp_path: Path, model_of: Load) -> None:
    text = "The fox learns to read. How are you today? " * 4
    asked = Request((Special("bos"), Text(text)), id="0", sampling=Sampling(temperature=0, max_tokens=6))
    replies = []
    for cached in (False, True):
        model = model_of(LLAMA / "hf", keep_states=tmp_path / "states")
        assert isinstance(model.disk_cache, DiskCache)
        engine = engine_on(model)
        finish = finish_all(engine, [asked])["0"]
        assert (finish.usage.cached > 60) == cached
        replies.append(finish.reply)
        engine.close()
    assert replies[0] == replies[1]


HOSTILE: list[dict[str, Any]] = [
    {"prompt": ()},
    {"prompt": (Text("a" * 5000, "person"),)},
    {"sampling": Sampling(logit_bias={100000: 5.0})},
    {"sampling": Sampling(logit_bias={1: 100.0})},
    {"adapter": "absent"},
    {"stop_tokens": ("<|no such token|>",)},
]


def test_hostile_requests_are_refused_and_good_ones_never_notice(llama: TransformersModel) -> None:
    prompts = [(Special("bos"), Text(f"turn {n}")) for n in range(4)]
    good = [asking(prompt, 12, f"good-{n}") for n, prompt in enumerate(prompts)]
    alone = {r.id: finish_all(engine_on(llama, cache_bytes=0), [r])[r.id].reply for r in good}
    engine, ended, refused = engine_on(llama), {}, {}
    waiting = [Request(**{"prompt": prompts[0], "id": f"bad-{n}", **bad}) for n, bad in enumerate(HOSTILE)]
    for request in good:
        engine.submit(request)
    while not engine.idle:
        if waiting:
            engine.submit(waiting.pop(0))
        for event in engine.step():
            if event.error is not None:
                refused[event.request_id] = event.error
            elif event.chunk is not None and event.chunk.finish is not None:
                ended[event.request_id] = event.chunk.finish.reply
    assert ended == alone
    assert set(refused) == {f"bad-{n}" for n in range(len(HOSTILE))}
    assert all(isinstance(error, BackendError) or "does not have" in str(error) for error in refused.values())
    engine.close()


def test_a_request_that_breaks_the_step_fails_alone(llama: TransformersModel) -> None:
    """An answer whose sampler raises, in the same step as others."""
    engine = engine_on(llama, cache_bytes=0)
    prompt = (Special("bos"), Text("Hello"))
    nothing = Sampling(logit_bias=dict.fromkeys(range(300), -1000.0), temperature=0, max_tokens=5)
    good = asking(prompt, 6, "good")
    alone = finish_all(engine_on(llama, cache_bytes=0), [good])["good"].reply
    original = llama.new_sampler

    class Broken(type(original(nothing, [], 0))):  # type: ignore[misc]
        def sample(self, logits: Any) -> int:
            raise ValueError("no token is left")

    def new_sampler(sampling: Sampling, prompt: Any, generated: int) -> Any:
        return Broken(sampling, prompt, generated) if sampling.logit_bias else original(sampling, prompt, generated)

    llama.new_sampler = new_sampler  # type: ignore[method-assign]
    try:
        engine.submit(Request(prompt, id="bad", sampling=nothing))
        engine.submit(good)
        found: dict[str, Any] = {}
        while not engine.idle:
            for event in engine.step():
                if event.error is not None:
                    found[event.request_id] = str(event.error)
                elif event.chunk is not None and event.chunk.finish is not None:
                    found[event.request_id] = event.chunk.finish.reply
    finally:
        del llama.new_sampler  # type: ignore[method-assign]
    assert found["good"] == alone
    assert "no token is left" in found["bad"]


def test_a_bias_outside_the_vocabulary_is_refused(llama: TransformersModel) -> None:
    with pytest.raises(InvalidRequest, match="outside the vocabulary"):
        llama.new_sampler(Sampling(logit_bias={llama.info.vocab_size: 1.0}), [], 0)


def test_a_cancelled_answer_gives_its_place_to_another(model_of: Load) -> None:
    model = model_of(LLAMA / "hf", sequences=1)
    engine = engine_on(model)
    prompt = (Special("bos"), Text("Hello"))
    engine.submit(asking(prompt, 60, "first"))
    engine.submit(asking(prompt, 3, "second"))
    finish_step(engine)
    engine.cancel("first")
    ended: dict[str, Any] = {}
    while not engine.idle:
        ended |= finish_step(engine)
    assert ended["second"].usage.generated == 3
    assert ended["first"].reason == "cancelled"
    engine.close()
