"""Models that read a prompt's beginning in both directions: it comes whole, and only the very same is reused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.engine.backend import Request, Row
from chatbridge.engine.disk_cache import MIN_TOKENS, DiskCache
from chatbridge.engine.engine import Engine
from chatbridge.engine.prefix_cache import PrefixCache, reusable
from chatbridge.errors import TemplateError
from chatbridge.prompts.segments import Special, Text, Tokens
from chatbridge.testing.toy import SOP, ToyModel, ToyState

from .driving import GREEDY, Outputs, alone, answer_to, ask, drain, play

END = Special("<sop>")
A, B, C = b"abc"


def state_of(model: ToyModel, tokens: Sequence[int]) -> ToyState:
    """A state that has read these: their part before <sop> as one, and of what is behind it as much as there is."""
    state = model.new_state()
    state.consume(tokens if SOP in tokens else [*tokens, SOP])
    state.trim(len(tokens))
    return state


def test_what_ends_with_the_token_comes_in_one_row_whatever_the_budget_is() -> None:
    model = ToyModel(bidirectional=True, eos_every=10**9)
    engine = Engine(model, token_budget=8)
    output = answer_to(engine, ask("x" * 90, END, sampling={**GREEDY, "max_tokens": 3}))
    assert model.steps == [[92], [1], [1]]
    assert len(output.tokens) == 3
    engine.close()


def test_a_row_that_is_left_for_later_holds_up_nobody_and_comes_again() -> None:
    model = ToyModel(bidirectional=True, slices=5, eos_every=10**9)
    engine = Engine(model)
    engine.submit(ask("hi", END, id="quick", sampling={**GREEDY, "max_tokens": 40}))
    outputs = Outputs()
    while not outputs["quick"].tokens:
        outputs.add(engine.step())
    engine.submit(ask("x" * 900, END, id="long", sampling={**GREEDY, "max_tokens": 3}))
    for count in range(2, 7):
        outputs.add(engine.step())
        assert (len(outputs["quick"].tokens), len(outputs["long"].tokens)) == (count, 0)
        assert model.steps[-1] == [1, 902]
    assert engine.stats()["tokens_read"] == 4
    outputs.add(engine.step())
    assert len(outputs["long"].tokens) == 1
    assert engine.stats()["tokens_read"] == 4 + 902
    drain(engine, outputs)
    for name, text in (("quick", "hi"), ("long", "x" * 900)):
        request = ask(text, END, sampling={**GREEDY, "max_tokens": len(outputs[name].tokens)})
        assert outputs[name].text == alone(request, bidirectional=True, eos_every=10**9).text
    engine.close()


def test_a_request_that_is_cancelled_while_it_is_left_for_later_leaves_no_state() -> None:
    model = ToyModel(bidirectional=True, slices=5)
    engine = Engine(model)
    engine.submit(ask("x" * 90, END))
    engine.step()
    engine.cancel("r")
    drain(engine)
    assert (engine.stats()["kept_states"], model.live) == (0, 0)
    engine.close()


def test_only_the_same_beginning_is_reused() -> None:
    model = ToyModel(bidirectional=True)
    engine = Engine(model)
    short, long = ask("x" * 40, END), ask("x" * 40, "y" * 40, END)
    first = answer_to(engine, short)
    assert answer_to(engine, long).cached == 0
    again = answer_to(engine, short)
    assert (again.cached, again.text) == (41, first.text)
    assert answer_to(engine, long).cached == 81
    engine.close()


def test_an_answer_that_is_continued_is_read_once() -> None:
    engine = Engine(ToyModel(bidirectional=True, eos_every=10**9))
    first = answer_to(engine, ask("x" * 40, END, sampling={**GREEDY, "max_tokens": 20})).end.reply
    request = ask("x" * 40, END, Tokens(first.tokens), sampling={**GREEDY, "max_tokens": 20})
    more = answer_to(engine, request)
    assert more.cached == 42 + 19
    assert more.text == alone(request, bidirectional=True, eos_every=10**9).text
    engine.close()


def test_requests_that_begin_alike_share_a_running_state_only_with_the_same_beginning() -> None:
    engine = Engine(ToyModel(bidirectional=True, eos_every=10**9), max_batch=4)
    engine.submit(ask("x" * 40, END, id="0", sampling={**GREEDY, "max_tokens": 30}))
    engine.step()
    outputs = play(engine, ask("x" * 40, END, id="1"), ask("x" * 41, END, id="2"))
    assert (outputs["1"].cached, outputs["2"].cached) == (41, 0)
    for name, length in (("1", 40), ("2", 41)):
        assert outputs[name].text == alone(ask("x" * length, END), bidirectional=True, eos_every=10**9).text
    engine.close()


def test_a_prompt_without_the_token_is_told_that_its_template_does_not_fit() -> None:
    engine = Engine(ToyModel(bidirectional=True))
    with pytest.raises(TemplateError, match=r"no '<sop>'.*the template doesn't fit"):
        raise answer_to(engine, ask("hi")).error or AssertionError("it was taken")
    engine.close()


def test_an_answer_goes_on_after_a_step_that_failed_for_another() -> None:
    toy = {"bidirectional": True, "eos_every": 10**9, "fail_on": ord("!")}
    engine = Engine(ToyModel(**toy), token_budget=16)
    requests = [ask(text, END, id=text[0], sampling={**GREEDY, "max_tokens": 8}) for text in ("a" * 50, "b", "!" * 40)]
    outputs = play(engine, *requests)
    assert outputs["!"].error is not None
    for request in requests[:2]:
        assert outputs[request.id].text == alone(request, **toy).text
    engine.close()


def test_a_state_that_lost_its_row_is_read_again_whole() -> None:
    model = ToyModel(bidirectional=True, slices=1)
    with pytest.raises(AssertionError, match="without <sop>"):
        model.step([Row(model.new_state(), [A], None)])


@given(st.lists(st.lists(st.sampled_from([A, B, SOP]), min_size=1, max_size=9), max_size=6), st.data())
def test_the_cache_gives_states_that_have_read_the_very_prompt(kept: list[list[int]], data: st.DataObject) -> None:
    model = ToyModel(bidirectional=True)
    cache = PrefixCache(True, 1 << 40, 9, None, SOP)
    for tokens in kept:
        cache.put(tokens, state_of(model, tokens))
    prompt = [*data.draw(st.lists(st.sampled_from([A, B]), max_size=6)), SOP]
    prompt += data.draw(st.lists(st.sampled_from([A, B, SOP]), max_size=4))
    state = cache.fetch(prompt, room=99)
    best = max((reusable(tokens, prompt, SOP) for tokens in kept), default=0)
    assert (0 if state is None else state.length) == best
    if state is not None:
        assert isinstance(state, ToyState)
        assert state.digests == state_of(model, prompt).digests[: best + 1]


def test_long_beginnings_are_found_by_their_blocks() -> None:
    model = ToyModel(bidirectional=True)
    cache = PrefixCache(True, 1 << 40, 99, None, SOP)
    rng = random.Random(2)
    whole = rng.choices([A, B, C], k=200)
    lengths = [40, 90, 100, 101, 150, 200]
    for length in lengths:
        tokens = [*whole[:length], SOP, A, B]
        cache.put(tokens, state_of(model, tokens))
    assert len(cache) == len(lengths)
    for length in range(200):
        state = cache.fetch([*whole[:length], SOP, A, C], room=99)
        assert (0 if state is None else state.length) == (length + 2 if length in lengths else 0)


def test_the_disk_keeps_to_the_same_rule(tmp_path: Path) -> None:
    model = ToyModel(bidirectional=True)
    kept = DiskCache(tmp_path, "toy", 1 << 30)
    tokens = [*[A] * MIN_TOKENS, SOP, B, B]
    kept.put(tokens, state_of(model, tokens))
    same, longer = [*tokens[:-1], C], [*[A] * MIN_TOKENS, A, SOP, B]
    assert kept.longest(same, whole=False, until=SOP)[1] == MIN_TOKENS + 2
    assert kept.longest(longer, whole=False, until=SOP) == (None, 0)
    assert kept.longest(longer, whole=False)[1] == MIN_TOKENS
    assert kept.longest([*tokens, A], whole=True, until=SOP)[1] == len(tokens)


def test_a_resumed_answer_is_read_behind_its_prompt() -> None:
    toy = {"bidirectional": True, "eos_every": 10**9}
    request = ask("x" * 40, END, Text(""), sampling={**GREEDY, "max_tokens": 20})
    whole = alone(request, **toy)
    resumed = Request(request.prompt, id="r", sampling=request.sampling, resume=tuple(whole.tokens[:7]))
    assert whole.tokens[:7] + alone(resumed, **toy).tokens == whole.tokens
