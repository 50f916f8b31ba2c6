"""What becomes of a request: how it ends, what it costs, and when its place is free again."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from chatbridge.engine.engine import Engine
from chatbridge.errors import InvalidRequest
from chatbridge.prompts.segments import Segment, Special, Text
from chatbridge.testing.toy import EOS, ToyModel, ToyTokenizer
from chatbridge.types import Usage

from .driving import GREEDY, Outputs, alone, answer_to, ask, drain, play, turn_after

ENDLESS: dict[str, Any] = {"eos_every": 10**9}


def longest(tokens: int, **rest: Any) -> dict[str, Any]:
    return {**GREEDY, "max_tokens": tokens, **rest}


# --- how answers end -------------------------------------------------------------------------------------------------


def test_the_end_token_ends_an_answer_and_is_no_part_of_it() -> None:
    answer = alone(ask("who are you?"))
    assert answer.end.reason == "end"
    assert answer.end.usage.generated == len(answer.tokens) + 1
    assert answer.end.reply.tokens == tuple(answer.tokens)
    assert EOS not in answer.tokens
    assert answer.end.reply.vocabulary == "toy-bytes"


def test_max_tokens_is_the_longest_answer() -> None:
    answer = alone(ask("hi", sampling=longest(7)), **ENDLESS)
    assert (answer.end.reason, len(answer.tokens), answer.end.usage.generated) == ("length", 7, 7)


def test_a_full_context_ends_an_answer() -> None:
    answer = alone(ask("x" * 20), context_length=50, **ENDLESS)
    assert (answer.end.reason, len(answer.tokens)) == ("length", 50 - 21)


def test_stop_strings_of_the_request_and_of_the_sampling() -> None:
    whole = alone(ask("hi", sampling=longest(60)), **ENDLESS).text
    options: list[dict[str, Any]] = [
        {"sampling": longest(60), "stop": (whole[20:23],)},
        {"sampling": longest(60, stop=(whole[20:23],))},
    ]
    for option in options:
        answer = alone(ask("hi", **option), **ENDLESS)
        assert (answer.end.reason, answer.text) == ("stop", whole[: whole.find(whole[20:23])].rstrip())
        assert len(answer.tokens) > len(answer.end.reply.tokens), "what made the stop string was sampled, too"


def test_stop_tokens_end_an_answer() -> None:
    sampling = longest(50, logit_bias={ToyTokenizer().special("<|im_end|>"): 99})
    answer = alone(ask("hi", sampling=sampling, stop_tokens=("<|im_end|>",)))
    assert (answer.end.reason, answer.text, answer.end.usage.generated) == ("end", "", 1)
    assert isinstance(alone(ask("hi", sampling=sampling)).error, InvalidRequest), "it would end nothing"


@pytest.mark.parametrize("show", [True, False])
def test_thoughts_are_shown_or_hidden_and_kept_in_either_case(show: bool) -> None:
    prompt = (Special("<think>"), Text("\n"))
    answer = alone(ask("hi", *prompt, sampling=longest(30), show_thinking=show), **ENDLESS)
    assert answer.text == answer.end.reply.text == ""
    assert len(answer.end.reply.tokens) == 30
    assert answer.thoughts == (bytes(answer.tokens).decode().strip() if show else "")
    forged = alone(ask("<think>", sampling=longest(30), show_thinking=show), **ENDLESS)
    assert (forged.text, forged.thoughts) == (bytes(forged.tokens).decode().strip(), "")


def test_each_token_is_told_as_it_comes() -> None:
    engine = Engine(ToyModel(**ENDLESS))
    engine.submit(ask("hi", sampling=longest(20)))
    outputs = Outputs()
    for sampled in range(1, 21):
        outputs.add(engine.step())
        assert len(outputs["r"].tokens) == sampled
        shown = bytes(outputs["r"].tokens).decode()
        assert outputs["r"].text == shown.strip()
    assert engine.idle


# --- cancelling ------------------------------------------------------------------------------------------------------


def test_a_cancelled_request_keeps_its_reply_and_frees_its_place_at_the_next_step() -> None:
    engine = Engine(ToyModel(max_batch=1, **ENDLESS))
    for name in ("first", "second", "third"):
        engine.submit(ask(name, id=name))
    outputs = Outputs()
    for _ in range(12):
        outputs.add(engine.step())
    assert engine.stats()["positions"] == {"second": 1, "third": 2}
    engine.cancel("first")
    engine.cancel("third")
    outputs.add(engine.step())
    assert len(outputs["second"].tokens) == 1, "the free place is taken in the very next step"
    first = outputs["first"]
    assert (first.end.reason, len(first.end.reply.tokens)) == ("cancelled", 12)
    assert first.text == first.end.reply.text == alone(ask("first", sampling=longest(12)), **ENDLESS).text
    assert outputs["third"].end.reason == "cancelled"
    assert outputs["third"].end.usage.generated == outputs["third"].end.usage.cached == 0
    again = turn_after(ask("first"), first, "go on")
    engine.cancel("second")
    drain(engine, outputs)
    assert answer_to(engine, again).cached == len("first") + 1 + 11, "what was read before serves the next turn"
    engine.cancel("first")
    engine.cancel("nobody")
    assert engine.idle
    engine.close()


def test_cancelling_in_the_middle_of_a_prompt() -> None:
    engine = Engine(ToyModel(), token_budget=20)
    engine.submit(ask("x" * 100))
    outputs = Outputs()
    outputs.add(engine.step())
    engine.cancel("r")
    drain(engine, outputs)
    assert (outputs["r"].end.reason, outputs["r"].text, outputs["r"].end.usage.generated) == ("cancelled", "", 0)
    assert answer_to(engine, ask("x" * 100, id="again")).cached == 20
    engine.close()


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_times_are_counted_from_the_submission_even_at_zero() -> None:
    # The clock ticks at each look.
    engine = Engine(ToyModel(max_batch=1, **ENDLESS), clock=count().__next__)
    one, two = ask("hi", id="one", sampling=longest(3)), ask("ho", id="two", sampling=longest(2))
    outputs = play(engine, one, two)
    # Submitted at 0 and 1; started 2, steps 3 4 5, finished 6; then started 7, steps 8 9, finished 10.
    assert outputs["one"].end.usage == Usage(3, 0, 3, queued_seconds=2, first_token_seconds=3, seconds=6)
    assert outputs["two"].end.usage == Usage(3, 2, 2, queued_seconds=6, first_token_seconds=7, seconds=9)


def test_an_answer_that_never_began_was_queued_all_its_time() -> None:
    engine = Engine(ToyModel(), clock=count().__next__)
    engine.submit(ask("hi"))
    engine.cancel("r")
    assert drain(engine)["r"].end.usage == Usage(3, queued_seconds=1, first_token_seconds=1, seconds=1)


def test_stats() -> None:
    model = ToyModel(max_batch=2, **ENDLESS)
    engine = Engine(model)
    for n in range(4):
        engine.submit(ask("hi", str(n), id=str(n), sampling=longest(5)))
    outputs = Outputs()
    outputs.add(engine.step())
    stats = engine.stats()
    assert (stats["running"], stats["waiting"], stats["positions"]) == (2, 2, {"2": 1, "3": 2})
    drain(engine, outputs)
    stats = engine.stats()
    usages = [answer.end.usage for answer in outputs.values()]
    assert (stats["running"], stats["waiting"], stats["positions"]) == (0, 0, {})
    assert stats["steps"] == len(model.steps) == 10
    assert stats["tokens_generated"] == 20
    assert stats["tokens_read"] == sum(usage.read for usage in usages)
    assert stats["tokens_reused"] == sum(usage.cached for usage in usages) == 2 * 3
    assert (stats["kept_states"], stats["cache_hits"], stats["cache_evictions"]) == (4, 1, 0), (
        "the other was copied from a running one"
    )
    assert stats["kept_bytes"] == 4 * 8 * (4 + 4 + 1)
    engine.close()


@pytest.mark.parametrize("can_trim", [True, False])
def test_closing_releases_every_state(can_trim: bool) -> None:
    model = ToyModel(can_trim=can_trim, max_batch=2)
    engine = Engine(model)
    play(engine, ask("hi"), ask("who are you?", id="x"))
    for n in range(4):
        engine.submit(ask("tell me", str(n), id=str(n), stop=("ab", "e ")))
    for _ in range(3):
        engine.step()
    assert model.live > 2
    engine.close()  # the toy complains about what was never released
    assert (model.live, engine.idle) == (0, True)


def test_the_batch_is_no_greater_than_anybody_allows() -> None:
    bounds = [(16, None, None, 16), (3, None, 9, 3), (16, 2, None, 2), (16, None, 5, 5)]
    for max_batch, max_states, asked, rows in bounds:
        model = ToyModel(max_batch=max_batch, max_states=max_states)
        engine = Engine(model, max_batch=asked)
        play(engine, *(ask("hi", str(n), id=str(n)) for n in range(20)))
        assert max(len(step) for step in model.steps) == rows
        engine.close()


def test_those_who_wait_are_told_their_place_and_how_long_it_will_take() -> None:
    now = 0.0
    engine = Engine(ToyModel(), max_batch=2, clock=lambda: now)
    outputs = Outputs()
    for id in ("a", "b", "c", "d", "e"):
        engine.submit(ask(f"request {id}", id=id, sampling={**GREEDY, "max_tokens": 8}))
    while not engine.idle:
        outputs.add(engine.step())
        now += 1.0
    assert all(outputs[id].end for id in "abcde")
    assert [outputs[id].places for id in "ab"] == [[], []]
    assert [one.place for one in outputs["c"].places] == [1]
    assert [one.place for one in outputs["e"].places] == [3, 1]
    # Nobody knows how long an answer takes before one has ended; then it is counted on, two at a time.
    assert outputs["c"].places[0].seconds is None
    seconds = outputs["e"].places[-1].seconds
    assert seconds == pytest.approx(
        (outputs["a"].end.usage.seconds - outputs["a"].end.usage.queued_seconds) / 2, rel=0.3
    )


def test_the_guess_of_the_waiting_time_follows_the_last_answers() -> None:
    now, passing = 0.0, {"a": 1.0, "b": 5.0, "c": 1.0, "d": 1.0}
    engine = Engine(ToyModel(**ENDLESS), max_batch=1, clock=lambda: now)
    outputs = Outputs()
    for id in passing:
        engine.submit(ask(f"request {id}", id=id, sampling=longest(8)))
    while not engine.idle:
        outputs.add(engine.step())
        now += next((seconds for id, seconds in passing.items() if not outputs[id].over), 0.0)
    first, second = (outputs[id].end.usage for id in "ab")
    took = [usage.seconds - usage.queued_seconds for usage in (first, second)]
    assert took[1] > 4 * took[0]
    assert [place.place for place in outputs["d"].places] == [3, 2, 1]
    guesses = [place.seconds for place in outputs["d"].places]
    assert guesses == [None, pytest.approx(2 * took[0]), pytest.approx(0.8 * took[0] + 0.2 * took[1])]


def test_where_an_answer_goes_back_otherwise_a_state_that_can_not_trim_goes_on_before_the_generation_prompt() -> None:
    engine = Engine(ToyModel(can_trim=False))
    talk: tuple[Segment | str, ...] = ("the first thing that I ask you, at some length, so that it is worth keeping",)
    opening = Text("\nBot: <think>\n")
    for turn in range(4):
        answer = answer_to(engine, ask(*talk, opening, id=f"{turn}", sampling={**GREEDY, "max_tokens": 60}))
        usage = answer.end.usage
        new = len("\nBot: an answer without its thought\nand now?" if turn else "") + len("\nBot: <think>\n")
        assert turn == 0 or usage.read <= new + 1, "the thought and what stood before it are not read again"
        talk = (*talk, Text("\nBot: an answer without its thought\n"), "and now?")


def test_an_answer_given_anew_reads_no_more_than_the_generation_prompt_again() -> None:
    engine = Engine(ToyModel(can_trim=False))
    request = ask("a question that is long enough to be worth keeping by itself", Text("\nBot:"), id="a")
    first = answer_to(engine, request)
    again = answer_to(engine, replace(request, id="b"))
    assert again.text == first.text
    assert again.end.usage.read == len("\nBot:")
