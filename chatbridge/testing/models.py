"""What every `LocalModel` must do, as tests: subclass `LocalModelContract` and give it your model by a fixture."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chatbridge.engine.backend import LocalModel, ModelState, Request, Row
from chatbridge.prompts.segments import Prompt, Special, Text
from chatbridge.sampling import Sampling
from chatbridge.testing.engines import engine_on, finish_all, prompt_ending
from chatbridge.types import Finish

GREEDY = Sampling(temperature=0, max_tokens=24)

TEXTS = (
    "Hello!",
    "How are you today?",
    "你好，今天天气怎么样？",
    "naïve café — “quotes” … 🙂👩‍👩‍👧",
    "  two blanks before, a tab\tand a line\nbreak  ",
    "def f(x):\n    return x ** 2\n",
    "a" * 200,
)


class LocalModelContract:
    """Subclass it and define the fixture `model`: a freshly loaded `LocalModel`, closed afterwards by the test.

    A model that can't honour one of these may override that test with `pytest.mark.xfail(reason=...)` only.
    """

    @pytest.fixture
    def model(self) -> LocalModel:
        raise NotImplementedError("define a fixture `model` that returns your LocalModel")

    def test_says_what_it_is(self, model: LocalModel) -> None:
        """Fails where `info` was filled in carelessly: the scheduler and the doctor of templates rely on it."""
        info = model.info
        assert info.architecture
        assert info.fingerprint
        assert info.vocabulary
        assert info.context_length > 0
        assert info.max_batch > 0
        assert all(0 <= token < info.vocab_size for token in (*info.eos, *info.specials.values()))
        assert info.bos is None or 0 <= info.bos < info.vocab_size
        model.close()

    @pytest.mark.parametrize("text", TEXTS)
    def test_text_survives_its_tokens(self, model: LocalModel, text: str) -> None:
        """Fails where a tokenizer adds or drops characters, or where ids decode to other bytes alone than together."""
        tokenizer = model.tokenizer
        for start in (True, False):
            ids = tokenizer.encode(text, start=start)
            assert all(0 <= token < model.info.vocab_size for token in ids)
            whole = tokenizer.decode(ids)
            # The dummy blank that SentencePiece puts before a text that begins one.
            assert whole == text.encode() or (start and whole == b" " + text.encode())
            assert b"".join(tokenizer.decode([token]) for token in ids) == whole
        model.close()

    def test_text_never_becomes_a_control_token(self, model: LocalModel) -> None:
        """Fails where the tokenizer parses special tokens in plain text: then anybody can forge a turn."""
        info = model.info
        for name, number in info.specials.items():
            assert model.tokenizer.special(name) == number
            for text in (name, f"x{name}y", f" {name} ", name * 3, f"{name[:-1]}{name}"):
                ids = model.tokenizer.encode(text, start=True)
                assert not set(ids) & set(info.specials.values()), f"{text!r} gave a control token"
        assert model.tokenizer.special("<no such control token>") is None
        model.close()

    def test_a_state_counts_what_it_consumed(self, model: LocalModel) -> None:
        """Fails where `length` counts calls, or where a state shares memory with its fork."""
        ids = some_ids(model, 8)
        state = model.new_state()
        assert state.length == 0
        model.step([Row(state, ids[:3], None)])
        fork = state.fork()
        model.step([Row(state, ids[3:], None)])
        assert (state.length, fork.length) == (len(ids), 3)
        assert state.nbytes > 0
        for one in (state, fork):
            one.release()
        model.close()

    def test_a_row_without_a_sampler_samples_nothing(self, model: LocalModel) -> None:
        """Fails where `step` returns something for parts of prompts."""
        ids = some_ids(model, 4)
        states = [model.new_state(), model.new_state()]
        sampled = model.step([Row(states[0], ids, None), Row(states[1], ids, model.new_sampler(GREEDY, ids, 0))])
        assert not sampled[0]
        assert sampled[1], "a token was wanted, and none came"
        release(model, states)

    def test_a_fork_goes_on_like_the_original(self, model: LocalModel) -> None:
        """Fails where a fork is shallow, or forgets positions."""
        ids = some_ids(model, 12)
        state = model.new_state()
        model.step([Row(state, ids[:6], None)])
        fork = state.fork()
        assert sampled_after(model, state, ids[6:]) == sampled_after(model, fork, ids[6:])
        release(model, [state, fork])

    def test_a_trimmed_state_is_as_if_it_had_never_gone_on(self, model: LocalModel) -> None:
        """Fails where trimming keeps what was to be forgotten. Skipped where `info.can_trim` is false."""
        if not model.info.can_trim:
            pytest.skip("this model's states can't trim")
        ids = some_ids(model, 12)
        fresh, trimmed = model.new_state(), model.new_state()
        model.step([Row(trimmed, ids, None)])
        trimmed.trim(5)
        assert trimmed.length == 5
        model.step([Row(fresh, ids[:5], None)])
        other = list(reversed(ids))
        assert sampled_after(model, trimmed, other) == sampled_after(model, fresh, other)
        release(model, [fresh, trimmed])

    def test_a_saved_state_comes_back(self, model: LocalModel) -> None:
        """Fails where `save` leaves something out that the next token depends on."""
        ids = some_ids(model, 12)
        state = model.new_state()
        model.step([Row(state, ids[:7], None)])
        again = model.new_state(state.save())
        assert again.length == 7
        assert sampled_after(model, state, ids[7:]) == sampled_after(model, again, ids[7:])
        release(model, [state, again])

    def test_seeds_repeat(self, model: LocalModel) -> None:
        """Fails where a sampler takes chance from elsewhere than its seed."""
        hot = Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=11, max_tokens=20)
        first, second = (answers(model, [ask(model, "Tell me something.", hot)])[0] for _ in range(2))
        assert first.reply == second.reply
        model.close()

    def test_batched_equals_alone(self, model: LocalModel) -> None:
        """Fails where rows of a batch see one another, or where a cached prefix is not what was asked for."""
        requests = [ask(model, text) for text in TEXTS for _ in range(2)]
        alone = [answers(model, [request], cache_bytes=0)[0].reply for request in requests]
        together = [finish.reply for finish in answers(model, requests)]
        assert together == alone
        model.close()

    def test_prompts_read_in_pieces_give_the_same(self, model: LocalModel) -> None:
        """Fails where positions or masks depend on how a prompt is cut into steps."""
        request = ask(model, "Once upon a time there was a bridge, and many people went over it every day.")
        whole = answers(model, [request], cache_bytes=0)[0]
        pieces = answers(model, [request], cache_bytes=0, token_budget=3)[0]
        assert pieces.reply == whole.reply
        model.close()


def ask(model: LocalModel, text: str, sampling: Sampling = GREEDY) -> Request:
    """A request with the model's BOS and that text."""
    prompt: Prompt = (Special("bos"), Text(text, "person"), *prompt_ending(model.info))
    return Request(prompt, sampling=sampling)


def answers(
    model: LocalModel, requests: Sequence[Request], *, cache_bytes: int = 1 << 26, token_budget: int = 64
) -> list[Finish]:
    """What an engine on `model` answers to all of the requests at once; the model stays open."""
    engine = engine_on(model, cache_bytes=cache_bytes, token_budget=token_budget)
    finished = finish_all(engine, requests)
    engine.close()
    return [finished[request.id] for request in requests]


def some_ids(model: LocalModel, count: int) -> list[int]:
    """So many ids of ordinary text."""
    ids = model.tokenizer.encode("The quick brown fox jumps over the lazy dog, and over the bridge.", start=True)
    until = model.info.bidirectional_until
    first = [] if until is None else [until]  # nothing before it, so what follows may come in any pieces
    return [*first, *ids * (count // len(ids) + 1)][:count]


def sampled_after(model: LocalModel, state: ModelState, ids: Sequence[int], count: int = 6) -> list[int]:
    """The tokens that the model goes on with, greedily, after `ids`."""
    sampler = model.new_sampler(GREEDY, ids, 0)
    sampled: list[int] = []
    pending = list(ids)
    while len(sampled) < count:
        (tokens,) = model.step([Row(state, pending, sampler)])
        sampled += tokens
        pending = list(tokens[-1:])
    return sampled


def release(model: LocalModel, states: Sequence[ModelState]) -> None:
    """Give the states back and close the model."""
    for state in states:
        state.release()
    model.close()
