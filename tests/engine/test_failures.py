"""What goes wrong with one request goes wrong with it alone, and says why; a model broken for good is told to all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from chatbridge.engine.backend import Request, Row
from chatbridge.engine.engine import Engine
from chatbridge.errors import BackendError, ChatbridgeError, InvalidRequest, PromptTooLong, TemplateError
from chatbridge.prompts.segments import Special, Text, Tokens
from chatbridge.sampling import Sampling
from chatbridge.testing.toy import VOCABULARY, ToyModel, ToyState, ToyTokenizer

from .driving import GREEDY, SEEDED, alone, answer_to, ask, drain, play

IMPOSSIBLE: list[tuple[Request, type[ChatbridgeError], str]] = [
    (Request((), id="bad"), InvalidRequest, "the prompt is empty"),
    (ask("x" * 300, id="bad"), PromptTooLong, "the prompt has 301 tokens, and the model 'toy' takes 300 with"),
    (ask("x" * 299, id="bad"), PromptTooLong, "300"),
    (ask(Tokens((5, VOCABULARY)), id="bad"), InvalidRequest, f"token {VOCABULARY} is outside the vocabulary"),
    (ask(Tokens((-1, 5)), id="bad"), InvalidRequest, "token -1 is outside the vocabulary"),
    (ask("hi", id="bad", resume=(70, 9999)), InvalidRequest, "token 9999 is outside the vocabulary"),
    (ask("hi", id="bad", sampling={"logit_bias": {VOCABULARY: 1.0}}), InvalidRequest, f"token {VOCABULARY} is outside"),
    (ask("hi", id="bad", stop_tokens=("<|eot|>",)), TemplateError, "ends replies at '<|eot|>', which this model"),
    (ask("hi", Special("<|eot|>"), id="bad"), TemplateError, "uses the control token '<|eot|>'"),
    (ask("hi", id="bad", sampling={"seed": 99}), InvalidRequest, "this model has no seeds"),
    (ask("\ud800", id="bad"), BackendError, "UnicodeEncodeError"),
]


class Particular(ToyModel):
    """Refuses seed 99, and has a tokenizer that raises where another would replace."""

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> Any:
        if sampling.seed == 99:
            raise InvalidRequest("this model has no seeds")
        return super().new_sampler(sampling, prompt, generated)


class StrictTokenizer(ToyTokenizer):
    def encode(self, text: str, *, start: bool) -> list[int]:
        return list(text.encode())


@pytest.mark.parametrize(("request_", "kind", "says"), IMPOSSIBLE, ids=[says for *_, says in IMPOSSIBLE])
def test_an_impossible_request_says_why_and_the_others_go_on(
    request_: Request, kind: type[ChatbridgeError], says: str
) -> None:
    model = Particular(context_length=300, tokenizer=StrictTokenizer())
    engine = Engine(model)
    good = ask("who are you?", id="good")
    outputs = play(engine, good, request_, ask("and you?", id="other"))
    assert type(outputs["bad"].error) is kind
    assert says in str(outputs["bad"].error)
    assert outputs["good"].text == alone(good).text
    assert outputs["other"].end
    engine.close()


def test_an_id_that_is_under_way_is_refused_at_once() -> None:
    engine = Engine(ToyModel())
    engine.submit(ask("hi"))
    with pytest.raises(ValueError, match="'r' is under way"):
        engine.submit(ask("ho"))
    assert drain(engine)["r"].text == alone(ask("hi")).text
    assert answer_to(engine, ask("ho")).end


class HalfWay(ToyModel):
    """Fails where ToyModel does, but only after it has read the rows before the bad one."""

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        said = []
        for row in rows:
            said += super().step([row])
        return said


class TooLate(ToyModel):
    """Fails where ToyModel does, but only after it has read all rows."""

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        poison, self.fail_on = self.fail_on, None
        said = super().step(rows)
        self.fail_on = poison
        if any(poison in row.tokens for row in rows):
            raise ValueError(f"this model chokes on {poison}")
        return said


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize("model_type", [ToyModel, HalfWay, TooLate])
@pytest.mark.parametrize("sampling", [GREEDY, {**SEEDED, "presence_penalty": 1.0}], ids=["greedy", "seeded"])
def test_a_request_that_fails_fails_alone(
    model_type: type[ToyModel], sampling: Mapping[str, Any], can_trim: bool
) -> None:
    model = model_type(fail_on=ord("#"), can_trim=can_trim, max_states=6, max_batch=6)
    engine = Engine(model, token_budget=30)
    good = [ask(f"tell me {n} " * (1 + 9 * (n % 2)), id=f"good{n}", sampling=sampling) for n in range(4)]
    bad = [ask("x" * 40 + "#", id=f"bad{n}") for n in range(2)]
    outputs = play(engine, good[0], bad[0], good[1], bad[1], *good[2:])
    for request in good:
        assert outputs[request.id].text == alone(request).text
    for request in bad:
        assert type(outputs[request.id].error) is BackendError
        assert str(outputs[request.id].error) == "ValueError: this model chokes on 35"
    assert answer_to(engine, ask("later", id="later")).end
    engine.close()


def test_a_step_that_is_repeated_for_one_reads_in_pieces_and_leaves_what_a_regeneration_wants() -> None:
    model = HalfWay(fail_on=ord("#"), can_trim=False)
    engine = Engine(model, token_budget=30)
    good = ask("tell me everything " * 6, id="good")
    engine.submit(good)
    for _ in range(2):
        engine.step()
    outputs = play(engine, ask("x" * 10 + "#", id="bad"))
    assert outputs["bad"].error
    assert outputs["good"].text == alone(good).text
    assert max(sum(step) for step in model.steps) <= 30
    assert answer_to(engine, good).cached == outputs["good"].end.usage.prompt - 1
    engine.close()


def test_a_request_that_fails_while_it_holds_text_back_leaves_nothing() -> None:
    letter = alone(ask("hi"), eos_every=10**9).text[0]
    model = ToyModel(can_trim=False, eos_every=10**9, fail_on=ord(letter))
    engine = Engine(model)
    assert answer_to(engine, ask("hi", stop=(letter + "!",))).error
    engine.close()


class Tight(ToyModel):
    """Has memory for so many states."""

    room = 2

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        if self.live > self.room:
            raise MemoryError("no memory is left")
        return super().step(rows)


def test_where_memory_is_out_kept_states_go_before_anybody_fails() -> None:
    engine = Engine(Tight())
    for number in range(4):
        assert answer_to(engine, ask(f"question {number}", id=f"{number}")).end
    engine.close()


class Full(ToyModel):
    """Has no room for a new state while it keeps another."""

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> ToyState:
        if self.live:
            raise MemoryError("no memory is left")
        return super().new_state(saved, adapter)


def test_where_there_is_no_room_to_begin_kept_states_go_first() -> None:
    engine = Engine(Full(can_trim=False))
    for number in range(3):
        assert (
            answer_to(engine, ask(f"{number} is my question", id=f"{number}")).text
            == alone(ask(f"{number} is my question")).text
        )
    engine.close()


def test_a_request_is_not_blamed_where_all_memory_is_out() -> None:
    engine = Engine(Tight())
    for number in range(3):
        engine.submit(ask(f"question {number}", id=f"{number}"))
    with pytest.raises(MemoryError):
        engine.step()


def test_requests_that_fail_together_are_no_broken_model() -> None:
    engine = Engine(ToyModel(fail_on=ord("#")))
    outputs = play(engine, ask("#", id="a"), ask("##", id="b"))
    assert outputs["a"].error
    assert outputs["b"].error
    assert answer_to(engine, ask("hi")).end
    engine.close()


class Broken(ToyModel):
    """Fails at every step from the tenth on, as after a fault of the accelerator."""

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        if len(self.steps) >= 10:
            raise RuntimeError("the accelerator is gone")
        return super().step(rows)


@pytest.mark.parametrize("max_states", [2, None])
@pytest.mark.parametrize("requests", [1, 2])
def test_a_broken_model_is_told_to_whoever_runs_the_engine(requests: int, max_states: int | None) -> None:
    engine = Engine(Broken(eos_every=10**9, max_states=max_states))
    for n in range(requests):
        engine.submit(ask("hi", id=str(n)))
    for _ in range(10):
        engine.step()
    with pytest.raises(RuntimeError, match="the accelerator is gone"):
        engine.step()
    assert [str(event.error) for event in engine.step()] == ["RuntimeError: the accelerator is gone"] * requests
    engine.close()


class Mute(ToyModel):
    """Samples nothing where a token is wanted, or one that does not exist."""

    says: list[int]

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        return [self.says if row.sampler else [] for row, _ in zip(rows, super().step(rows), strict=True)]


class BytesOnly(ToyTokenizer):
    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)


@pytest.mark.parametrize(("says", "error"), [([], "sampled no token"), ([300], "ValueError: bytes must be in range")])
def test_a_model_that_breaks_its_contract_fails_the_request(says: list[int], error: str) -> None:
    model = Mute(tokenizer=BytesOnly())
    model.says = says
    engine = Engine(model)
    engine.submit(Request((Text("hi"),), id="r"))
    outputs = drain(engine)
    assert error in str(outputs["r"].error)
    engine.close()


class Lazy(ToyModel):
    """Leaves out the last row of a step, or adds one."""

    rows = -1

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        said = super().step(rows)
        return said[:-1] if self.rows < 0 else [*said, []]


@pytest.mark.parametrize("rows", [-1, 1])
def test_a_model_that_answers_another_number_of_rows_is_broken(rows: int) -> None:
    model = Lazy()
    model.rows = rows
    engine = Engine(model)
    for id in ("a", "b"):
        engine.submit(ask("hi", id=id))
    with pytest.raises(ValueError, match=r"zip\(\)"):
        engine.step()
    engine.close()


def test_an_adapter_that_a_model_lacks_is_told_of_with_those_that_it_has() -> None:
    for adapters, words in (((), "; it has none"), (("red", "blue"), "; it has red, blue")):
        engine = Engine(ToyModel(adapters=adapters))
        error = answer_to(engine, ask("hi", adapter="green")).error
        assert isinstance(error, InvalidRequest)
        assert str(error) == f"the model 'toy' has no adapter 'green'{words}"
        engine.close()


def test_every_id_of_the_vocabulary_may_be_in_a_prompt() -> None:
    engine = Engine(ToyModel())
    assert answer_to(engine, ask(Tokens((0, 255)), sampling={**GREEDY, "logit_bias": {0: -1.0}})).end
    assert answer_to(engine, ask("hi", Special("</think>"))).end
    for control in (256, VOCABULARY - 1):
        error = answer_to(engine, ask(Tokens((5, control)))).error
        assert isinstance(error, InvalidRequest)
        assert f"hold the control token {control}" in str(error)
    engine.close()


def test_a_template_that_does_not_fit_a_model_that_reads_in_both_directions_says_so() -> None:
    engine = Engine(ToyModel(bidirectional=True))
    error = answer_to(engine, ask("hi")).error
    assert isinstance(error, TemplateError)
    assert str(error).startswith("the prompt has no '<sop>', and the model 'toy' answers only behind it")
    engine.close()
