"""The engine's first promise: batched, cached, chunked or taken over, each answer is the same as if it were alone."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from chatbridge.engine.backend import Request, Row
from chatbridge.engine.engine import Engine
from chatbridge.engine.prefill import MAX_PATIENCE, MIN_TOKENS, PrefillLimit
from chatbridge.engine.state_pool import StatePool
from chatbridge.prompts.segments import Text
from chatbridge.sampling import Sampling
from chatbridge.testing.toy import ToyModel, ToyState

from .driving import GREEDY, SEEDED, Output, Outputs, alone, answer_to, ask, drain, play, turn_after

WORDS = ["hello", "who are you?", "tell me more", "what of this", "x" * 90, "why", "你好吗", "then"]


def conversations(count: int, sampling: Mapping[str, Any], **rest: Any) -> list[Request]:
    """Prompts of many lengths; some begin alike."""
    return [
        ask(
            "system " * (n % 3) * 9,
            " ".join(WORDS[n % 8 :: 1 + n % 3]),
            str(n // 2),
            id=f"r{n}",
            sampling=sampling,
            **rest,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("max_batch", [16, 5])
def test_sixteen_at_once_answer_as_each_alone(max_batch: int, sampling: Mapping[str, Any], can_trim: bool) -> None:
    requests = conversations(16, sampling)
    engine = Engine(ToyModel(max_batch=max_batch, can_trim=can_trim), token_budget=64)
    outputs = play(engine, *requests)
    for request in requests:
        expected = alone(request)
        assert outputs[request.id].text == expected.text
        assert outputs[request.id].tokens == expected.tokens
        assert outputs[request.id].end.reply == expected.end.reply
        assert outputs[request.id].end.reason == expected.end.reason
    assert len({tuple(answer.tokens) for answer in outputs.values()}) > 12, "there was nothing to mix up"
    engine.close()


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize("budget", [1, 2, 3, 7, 64])
def test_a_small_budget_changes_nothing_and_is_kept_to(budget: int, can_trim: bool) -> None:
    requests = conversations(6, SEEDED)
    model = ToyModel(can_trim=can_trim)
    engine = Engine(model, token_budget=budget, max_batch=3)
    outputs = play(engine, *requests)
    assert {request.id: outputs[request.id].text for request in requests} == {
        request.id: alone(request).text for request in requests
    }
    assert max(sum(step) for step in model.steps) <= max(budget, 3)
    engine.close()


def test_a_long_prompt_freezes_nobody() -> None:
    engine = Engine(ToyModel(eos_every=10**9), token_budget=16)
    engine.submit(ask("hi", id="quick", sampling={**GREEDY, "max_tokens": 100}))
    outputs = Outputs()
    outputs.add(engine.step())
    engine.submit(ask("x" * 900, id="long"))
    for count in range(2, 60):
        outputs.add(engine.step())
        assert len(outputs["quick"].tokens) == count
        assert not outputs["long"].tokens
    drain(engine, outputs)
    assert outputs["long"].end.reason == "length"


@dataclass(eq=False)
class Slow(ToyModel):
    """Takes a hundredth of a second for each token that it reads or says."""

    now: float = 0.0

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        self.now += 0.01 * sum(len(row.tokens) for row in rows)
        return super().step(rows)


def test_while_somebody_is_answered_reading_takes_no_longer_than_it_may() -> None:
    model = Slow(eos_every=10**9)
    engine = Engine(model, prefill_limit=PrefillLimit(0.5, clock=lambda: model.now))
    engine.submit(ask("x" * 600, id="first", sampling={**GREEDY, "max_tokens": 200}))
    outputs = Outputs()
    while not outputs["first"].tokens:  # nobody waits yet: as much as the budget allows
        outputs.add(engine.step())
    assert model.steps[0] == [512]
    engine.submit(ask("y" * 2000, id="second", sampling={**GREEDY, "max_tokens": 20}))
    begin = len(model.steps)
    while not outputs["second"].tokens:
        before = model.now
        outputs.add(engine.step())
        assert model.now - before <= 0.5 + 0.02 + 1e-9
    # And no less than that, or reading would take for ever.
    assert len(model.steps) - begin <= 2000 / 48 + 4
    drain(engine, outputs)
    engine.close()


@pytest.mark.parametrize(("waiting", "seconds"), [(2, 1.0), (3, 1.5), (8, 0.5 * MAX_PATIENCE)])
def test_one_waits_longer_where_many_wait_for_their_first_word(waiting: int, seconds: float) -> None:
    model = Slow(eos_every=10**9)
    engine = Engine(model, max_batch=9, prefill_limit=PrefillLimit(0.5, clock=lambda: model.now))
    engine.submit(ask("x" * 600, id="first", sampling={**GREEDY, "max_tokens": 200}))
    outputs = Outputs()
    while not outputs["first"].tokens:
        outputs.add(engine.step())
    for number in range(waiting):
        engine.submit(ask("y" * 900, id=str(number), sampling={**GREEDY, "max_tokens": 20}))
    before = model.now
    outputs.add(engine.step())
    assert seconds * 0.9 <= model.now - before <= seconds + 0.01 * (1 + waiting) + 1e-9
    drain(engine, outputs)
    engine.close()


def test_what_answers_take_is_not_taken_from_reading() -> None:
    limit = PrefillLimit(0.5, clock=iter([0.0, 0.64]).__next__)
    with limit.measure(16, 48):
        pass
    assert limit.max_tokens() == 50


def test_a_step_that_waited_for_another_program_does_not_slow_reading_down() -> None:
    limit = PrefillLimit(0.5, clock=iter([0, 0.125, 1, 9, 10, 10.125]).__next__)
    limits = []
    for tokens in (16, 16, 16):
        with limit.measure(tokens):
            pass
        limits.append(limit.max_tokens())
    assert limits == [64, 64, 64]


def test_steps_are_timed_by_a_clock_that_sees_short_ones() -> None:
    assert PrefillLimit().clock is time.perf_counter


def test_a_step_of_few_tokens_tells_nothing_of_how_fast_a_model_reads() -> None:
    limit = PrefillLimit(0.5, clock=iter([0.0, 9.0]).__next__)
    with limit.measure(MIN_TOKENS - 1):
        pass
    assert limit.max_tokens() == MIN_TOKENS


def test_nobody_waits_while_it_is_not_known_how_fast_a_model_reads() -> None:
    model = Slow(eos_every=10**9)
    engine = Engine(model, prefill_limit=PrefillLimit(0.5, clock=lambda: model.now))
    engine.submit(ask("x", id="first", sampling={**GREEDY, "max_tokens": 200}))
    outputs = Outputs()
    while not outputs["first"].tokens:  # too short a prompt to tell anything
        outputs.add(engine.step())
    engine.submit(ask("y" * 2000, id="second", sampling={**GREEDY, "max_tokens": 20}))
    while not outputs["second"].tokens:
        before = model.now
        outputs.add(engine.step())
        assert model.now - before <= 0.5 + 0.02 + 1e-9
    drain(engine, outputs)
    engine.close()


def test_however_slow_a_model_is_it_reads_on() -> None:
    limit = PrefillLimit(0.5, clock=iter([0.0, 900.0]).__next__)
    with limit.measure(MIN_TOKENS):
        pass
    assert limit.max_tokens() == MIN_TOKENS


class Talk:
    """A conversation with one engine: each answer is compared with that of an engine that keeps nothing."""

    def __init__(self, *, cache_bytes: int = 1 << 20, model: ToyModel | None = None, **toy: Any) -> None:
        self.toy = toy
        self.engine = Engine(model or ToyModel(**toy), cache_bytes=cache_bytes)

    def say(self, request: Request) -> Output:
        answer = answer_to(self.engine, request)
        assert answer.text == alone(request, **self.toy).text
        usage = answer.end.usage
        assert usage.prompt == len(self.engine.tokenize(request.prompt)) == usage.cached + usage.read
        return answer


def length_of(request: Request) -> int:
    return (
        len(ToyModel().tokenizer.encode("".join(s.text for s in request.prompt if isinstance(s, Text)), start=True)) + 1
    )


@pytest.mark.parametrize("can_trim", [True, False])
def test_what_is_reused_of_a_conversation(can_trim: bool) -> None:
    talk = Talk(can_trim=can_trim)
    first = ask("who are you?")
    one = talk.say(first)
    assert (one.cached, one.end.reason) == (0, "end")
    second = turn_after(first, one, "and why?")
    two = talk.say(second)
    assert two.cached == length_of(first) + len(one.end.reply.tokens), "all that went before"
    third = turn_after(second, two, "so?")
    assert talk.say(third).cached == two.end.usage.prompt + len(two.end.reply.tokens)
    assert talk.say(third).cached == len(talk.engine.tokenize(third.prompt)) - 1, "all but the last token: again"
    assert talk.say(second).cached == two.end.usage.prompt - 1, "the same of a turn before"
    edited = talk.say(turn_after(first, one, "and what of it?"))
    shared = 1 + len("and wh") if can_trim else 0
    assert edited.cached == length_of(first) + len(one.end.reply.tokens) + shared
    talk.engine.close()


def test_rooms_come_to_share_a_system_text_that_can_not_be_trimmed_to() -> None:
    talk = Talk(can_trim=False)
    system = "You are the librarian of this town, and friendly to everybody who comes in. " * 3
    whole = len(system) + 1  # and BOS
    outputs = [
        talk.say(ask(system, text)) for text in ("who are you?", "and why is that?", "so?", "well then, tell me")
    ]
    # The second leaves a copy where it leaves the first, to the block of 32; from then on nobody reads the text again.
    assert [answer.cached for answer in outputs] == [0, 0, whole // 32 * 32, whole // 32 * 32]
    talk.engine.close()


def test_an_edited_message_is_read_from_where_it_differs() -> None:
    talk = Talk(can_trim=False)
    first = ask("tell me of the river, the bridge and the kettle, and of whoever goes there in the evening")
    one = talk.say(first)
    second = turn_after(first, one, "and then? " * 9)
    before = talk.say(second).cached
    edited = turn_after(first, one, "and where? " * 9)
    assert talk.say(edited).cached == before, "the reply before it"
    beginning = ask("tell me of the river, the bridge and the kettle, or of the fox that lives there all year")
    assert talk.say(beginning).cached == 0
    assert talk.say(ask("tell me of the river, the bridge and the kettle!")).cached == 32
    talk.engine.close()


@pytest.mark.parametrize("can_trim", [True, False])
def test_nothing_is_reused_where_nothing_is_kept(can_trim: bool) -> None:
    talk = Talk(can_trim=can_trim, cache_bytes=0)
    first = ask("who are you?")
    one = talk.say(first)
    assert talk.say(first).cached == talk.say(turn_after(first, one, "why?")).cached == 0
    assert talk.engine.stats()["kept_states"] == 0


def test_an_answer_cut_by_its_limit_is_reused_but_for_its_last_token() -> None:
    talk = Talk(eos_every=10**9)
    first = ask("go on", sampling={**GREEDY, "max_tokens": 9})
    one = talk.say(first)
    assert one.end.reason == "length"
    assert talk.say(turn_after(first, one, "and on")).cached == length_of(first) + 8


@pytest.mark.parametrize("can_trim", [True, False])
def test_a_stop_string_leaves_a_state_for_the_next_turn(can_trim: bool) -> None:
    whole = alone(ask("tell me"), eos_every=10**9).text
    talk = Talk(can_trim=can_trim, eos_every=10**9)
    first = ask("tell me", stop=(whole[9:14],))
    one = talk.say(first)
    assert (one.end.reason, one.text) == ("stop", whole[:9].rstrip())
    assert len(one.end.reply.tokens) == 9
    assert talk.say(turn_after(first, one, "more")).cached == length_of(first) + 9


def test_what_only_looked_like_a_stop_string_is_reused_as_well() -> None:
    whole = alone(ask("tell me"), eos_every=10**9).text
    # A stop string whose first letter has come before, with another one after it.
    begin = next(at for at in range(6, 60) if whole[at] in whole[: at - 2] and whole.find(whole[at : at + 2]) == at)
    talk = Talk(can_trim=False, eos_every=10**9)
    first = ask("tell me", stop=(whole[begin : begin + 2],))
    one = talk.say(first)
    assert (one.end.reason, len(one.end.reply.tokens)) == ("stop", begin)
    assert talk.say(turn_after(first, one, "more")).cached == length_of(first) + begin
    talk.engine.close()


@pytest.mark.parametrize(("known", "checkpoints"), [(32, (64, 103)), (40, (103,))])
def test_no_copy_is_made_for_less_than_a_block(known: int, checkpoints: tuple[int, ...]) -> None:
    model = ToyModel(can_trim=False)
    pool = StatePool(model, 4, 1 << 20)
    story = [*b"abcdefghijklmnopqrstuvwxyz" * 4]
    for length in (known, 70):  # the longer one shares 64 tokens in whole blocks, but can't be trimmed to them
        state = model.new_state()
        state.consume(story[:length])
        pool.cache.put(story[:length], state)
    request = pool.acquire([*story[:66], *b"!" * 38], 104)
    assert (request.model_state.length, request.checkpoints) == (known, checkpoints)
    pool.discard(request)


def test_what_running_requests_have_read_is_shared() -> None:
    engine = Engine(ToyModel(eos_every=10**9))
    engine.submit(ask("a long system text. ", "Ann: hi", id="one", sampling={**GREEDY, "max_tokens": 30}))
    outputs = Outputs()
    outputs.add(engine.step())
    engine.submit(ask("a long system text. ", "Bob: hi", id="two", sampling={**GREEDY, "max_tokens": 30}))
    drain(engine, outputs)
    assert outputs["two"].cached == 1 + len("a long system text. ")
    expected = ask("a long system text. ", "Bob: hi", sampling={**GREEDY, "max_tokens": 30})
    assert outputs["two"].text == alone(expected, eos_every=10**9).text
    engine.close()


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize("sampling", [GREEDY, {**SEEDED, "frequency_penalty": 0.5}], ids=["greedy", "seeded"])
def test_a_resumed_answer_is_the_uninterrupted_one(sampling: Mapping[str, Any], can_trim: bool) -> None:
    request = ask("tell me a tale", sampling={**sampling, "max_tokens": 40}, stop=("zzz", "q "))
    engine = Engine(ToyModel(can_trim=can_trim))
    engine.submit(request)
    outputs, moments = Outputs(), [("", 0)]
    while not engine.idle:
        outputs.add(engine.step())
        if not outputs["r"].over:
            moments.append((outputs["r"].text, len(outputs["r"].tokens)))
    whole = outputs["r"]
    assert whole.end.usage.generated > 10
    for text, count in moments:
        engine = Engine(ToyModel(can_trim=can_trim))
        rest = answer_to(engine, replace(request, resume=tuple(whole.tokens[:count])))
        assert text + rest.text == whole.text
        assert whole.tokens[:count] + rest.tokens == whole.tokens
        assert rest.end.reply == whole.end.reply
        assert rest.end.reason == whole.end.reason
        # An end token is told to nobody, so a worker that dies at the very end samples it again.
        assert rest.end.usage.generated == whole.end.usage.generated
        assert rest.end.usage.prompt == whole.end.usage.prompt
        engine.close()


def test_a_request_that_is_paused_goes_on_from_what_was_read() -> None:
    request = ask("tell me a tale", sampling={**GREEDY, "max_tokens": 40})
    engine, outputs = Engine(ToyModel(eos_every=10**9)), Outputs()
    engine.submit(request)
    for _ in range(10):
        outputs.add(engine.step())
    engine.pause("r")
    engine.pause("nobody")
    assert engine.idle
    assert not outputs["r"].over
    begun = outputs["r"]
    read = engine.stats()["tokens_read"]
    rest = answer_to(engine, replace(request, resume=tuple(begun.tokens)))
    assert begun.text + rest.text == alone(request, eos_every=10**9).text
    assert engine.stats()["tokens_read"] == read, "nothing is read again"
    engine.close()


@pytest.mark.parametrize(
    ("options", "reason"), [({"sampling": {**GREEDY, "max_tokens": 12}}, "length"), ({"stop": ("s",)}, "stop")]
)
def test_a_whole_answer_that_is_resumed_just_ends(options: dict[str, Any], reason: str) -> None:
    request = ask("tell me a tale", **options)
    whole = alone(request)
    engine = Engine(ToyModel())
    rest = answer_to(engine, replace(request, resume=tuple(whole.tokens)))
    assert (rest.text, rest.tokens) == ("", [])
    assert (rest.end.reason, rest.end.reply) == (whole.end.reason, whole.end.reply)
    assert rest.end.reason == reason
    engine.close()


def test_of_a_resumed_answer_only_the_prompt_counts_as_cached() -> None:
    request = ask("tell me a tale")
    engine = Engine(ToyModel())
    whole = answer_to(engine, request)
    again = answer_to(engine, replace(request, resume=tuple(whole.tokens[:10])))
    assert again.cached == again.end.usage.prompt == length_of(request)
    assert whole.text.endswith(again.text)
    assert again.tokens == whole.tokens[10:]
    engine.close()


class Speculative(ToyModel):
    """Says up to three tokens more in each step, as drafts that were accepted."""

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        said = super().step(rows)
        for row, tokens in zip(rows, said, strict=True):
            assert isinstance(row.state, ToyState)
            while row.sampler is not None and len(tokens) < 1 + row.state.length % 4:
                if row.state.length + 1 >= self.context_length:
                    break
                tokens.append(row.sampler.sample(self.logits(row.state.consume(tokens[-1:]))))
        return said


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_several_tokens_at_once(sampling: Mapping[str, Any], can_trim: bool) -> None:
    rng = random.Random(5)
    model = Speculative(can_trim=can_trim, max_states=30, context_length=400)
    engine = Engine(model, token_budget=40, max_batch=4)
    requests = conversations(12, {**sampling, "max_tokens": 37}, stop=("e ", "qu"))
    for _ in range(3):
        outputs = play(engine, *requests)
        for at, request in enumerate(requests):
            expected = alone(request, context_length=400)
            assert outputs[request.id].text == expected.text
            assert outputs[request.id].end.reply == expected.end.reply
            assert outputs[request.id].end.reason == expected.end.reason
            if rng.random() < 0.7:
                requests[at] = replace(turn_after(request, expected, "go on"), id=request.id)
    assert len(model.steps) < engine.stats()["tokens_generated"] / 3
    engine.close()


def test_drafts_beyond_the_end_are_forgotten() -> None:
    talk = Talk(model=Speculative(eos_every=10**9), eos_every=10**9)
    request = ask("tell me a tale", sampling={**GREEDY, "max_tokens": 1})
    for length in range(1, 12):
        limited = replace(request, sampling=request.sampling.merged(Sampling(max_tokens=length)))
        answer = talk.say(limited)
        assert talk.say(turn_after(limited, answer, "go on")).cached >= length_of(limited) + length - 1
    talk.engine.close()


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize("max_states", [1, 2, 3, 5, None])
def test_random_arrivals_and_cancellations(max_states: int | None, can_trim: bool, scale: int) -> None:
    rng = random.Random(f"{max_states} {can_trim}")
    for _ in range(5 * scale):
        model = ToyModel(max_states=max_states, can_trim=can_trim, max_batch=4, eos_every=12, context_length=300)
        engine = Engine(model, token_budget=rng.choice([4, 9, 30]), cache_bytes=rng.choice([0, 3000, 1 << 20]))
        outputs, sent, cancelled = Outputs(), dict[str, Request](), set[str]()
        while len(sent) < 25 or not engine.idle:
            if len(sent) < 25 and rng.random() < 0.4:
                done = [name for name in sent if outputs[name].over]
                new = ask(
                    rng.choice(WORDS), rng.choice(WORDS), sampling=rng.choice([GREEDY, SEEDED]), stop=("e ", "ab")
                )
                if done and rng.random() < 0.7:  # a next turn, a regeneration, or an edit
                    old = rng.choice(done)
                    new = rng.choice([sent[old], turn_after(sent[old], outputs[old], rng.choice(WORDS))])
                sent[f"r{len(sent)}"] = new = replace(new, id=f"r{len(sent)}")
                engine.submit(new)
            if sent and rng.random() < 0.1:
                name = rng.choice(list(sent))
                cancelled |= set() if outputs[name].over else {name}
                engine.cancel(name)
            outputs.add(engine.step())
        for name, request in sent.items():
            expected, answer = alone(request, eos_every=12, context_length=300), outputs[name]
            if name in cancelled:
                assert answer.end.reason == "cancelled"
                assert answer.tokens == expected.tokens[: len(answer.tokens)]
                assert answer.text == bytes(answer.tokens).decode().strip(), "also what was held back"
            else:
                assert (answer.text, answer.tokens) == (expected.text, expected.tokens)
                assert answer.end.reason == expected.end.reason
            assert answer.text == answer.end.reply.text
        stats = engine.stats()
        assert stats["tokens_reused"] == sum(answer.cached for answer in outputs.values())
        if not cancelled:
            assert stats["tokens_read"] == sum(answer.end.usage.read for answer in outputs.values())
        assert stats["tokens_generated"] == sum(answer.end.usage.generated for answer in outputs.values())
        engine.close()
