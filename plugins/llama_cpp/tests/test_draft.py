"""A small model that guesses ahead saves steps and changes no answer, however good or bad its guesses are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from chatbridge_llama_cpp.model import LlamaModel

from chatbridge import LocalModel, ModelLoadError, Sampling, Special, Text, Tokens
from chatbridge.testing import (
    LocalModelContract,
    conversations,
    engine_on,
    finish_all,
    llama_metadata,
    random_llama,
    requests_for,
    sentencepiece_metadata,
    write_gguf,
)

from .conftest import EXACT, SIZE, Load, opened


@pytest.fixture(scope="module")
def small_path(tmp_path_factory: pytest.TempPathFactory, words: sentencepiece.SentencePieceProcessor) -> Path:
    """Another model with the same vocabulary, which mostly guesses wrong."""
    size = {**SIZE, "layers": 1, "dim": 32, "hidden": 48, "heads": 2, "kv_heads": 1}
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    return write_gguf(path, llama_metadata(**size) | sentencepiece_metadata(words), random_llama(**size))


class TestModelWithADraft(LocalModelContract):
    @pytest.fixture
    def model(self, random_path: Path, small_path: Path) -> LocalModel:
        return opened(random_path, **EXACT, draft=str(small_path), draft_least=0, draft_tokens=3)


class TestModelThatGuessesItself(LocalModelContract):
    """Every guess comes true."""

    @pytest.fixture
    def model(self, random_path: Path) -> LocalModel:
        return opened(random_path, **EXACT, draft=str(random_path), draft_least=0, draft_tokens=3, sequences=3)


def replies_and_steps(model: LlamaModel, **sampling: Any) -> tuple[list[Any], int]:
    """The replies to eight conversations at once, and the steps that they took."""
    engine = engine_on(model, token_budget=64)
    requests = requests_for(conversations(8, seed=5), 30)
    if sampling:
        chosen = Sampling(**sampling, max_tokens=30)
        requests = [type(r)(r.prompt, id=r.id, sampling=chosen) for r in requests]
    ended = finish_all(engine, requests)
    steps = engine.stats()["steps"]
    engine.close()
    return [ended[r.id].reply for r in requests], steps


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.1, "seed": 3, "top_k": 0}])
def test_guesses_change_no_answer_and_save_steps(
    random_path: Path, small_path: Path, model_of: Load, sampling: dict[str, Any]
) -> None:
    plain, steps = replies_and_steps(model_of(random_path, **EXACT), **sampling)
    bad, _ = replies_and_steps(model_of(random_path, **EXACT, draft=str(small_path), draft_least=0), **sampling)
    good, fewer = replies_and_steps(model_of(random_path, **EXACT, draft=str(random_path), draft_least=0), **sampling)
    assert bad == plain
    assert good == plain
    if not sampling:
        assert fewer < steps / 2


def test_it_stops_where_it_is_not_sure(random_path: Path, model_of: Load) -> None:
    sure = model_of(random_path, **EXACT, draft=str(random_path), draft_least=0)
    never = model_of(random_path, **EXACT, draft=str(random_path), draft_least=1)
    assert replies_and_steps(sure)[1] < replies_and_steps(never)[1] / 2


def replies_over_turns(model: LlamaModel, turns: int = 3) -> tuple[list[Any], list[int]]:
    """The replies to eight conversations of some turns, and the steps that each turn took."""
    engine = engine_on(model, token_budget=64)
    requests = requests_for(conversations(8, seed=5), 30)
    replies: list[Any] = []
    steps: list[int] = []
    for _ in range(turns):
        before = engine.stats()["steps"]
        ended = finish_all(engine, requests)
        steps.append(engine.stats()["steps"] - before)
        replies += [ended[r.id].reply for r in requests]
        requests = [
            replace(r, prompt=(*r.prompt, Tokens(ended[r.id].reply.tokens), Text(" and then?"))) for r in requests
        ]
    engine.close()
    return replies, steps


@pytest.mark.parametrize("sequences", [2, 8])
def test_the_next_turn_is_guessed_as_well(random_path: Path, model_of: Load, sequences: int) -> None:
    """Also where states were forked, trimmed, swapped out and in in between."""
    guessing = model_of(random_path, **EXACT, draft=str(random_path), draft_least=0, sequences=sequences)
    replies, steps = replies_over_turns(guessing)
    plain, all_steps = replies_over_turns(model_of(random_path, **EXACT, sequences=sequences))
    assert replies == plain
    assert all(few < many / 2 for few, many in zip(steps, all_steps, strict=True)), (steps, all_steps)


def test_after_a_restart_it_catches_up(random_path: Path, model_of: Load) -> None:
    def open_one() -> LlamaModel:
        return model_of(random_path, **EXACT, draft=str(random_path), draft_least=0, batch=32)

    from chatbridge import Row

    ids = list(range(10, 110))
    greedy = Sampling(temperature=0)
    first, second = open_one(), open_one()
    state = first.new_state()
    first.step([Row(state, ids, None)])
    restored = second.new_state(state.save())
    taken: list[list[int]] = []
    pending = [7]
    sampler = second.new_sampler(greedy, [*ids, 7], 0)
    for _ in range(6):  # it reads 32 tokens with each step, and then guesses
        (sampled,) = second.step([Row(restored, pending, sampler)])
        taken.append(sampled)
        pending = sampled[-1:]
    assert [len(sampled) for sampled in taken[:3]] == [1, 1, 1]
    assert all(len(sampled) > 1 for sampled in taken[4:])


def test_the_whole_context_can_be_used(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, draft=str(random_path), draft_least=0, context_length=64)
    (request,) = requests_for([(Special("bos"), Text("The quick brown fox"))], 500)
    finish = finish_all(engine_on(model), [request])["0"]
    assert finish.usage.prompt + finish.usage.generated == 64
    assert finish.reason == "length"


def test_a_draft_model_that_does_not_fit_is_refused(
    tmp_path: Path, random_path: Path, model_of: Load, words: sentencepiece.SentencePieceProcessor
) -> None:
    def refused(draft: Path, *phrases: str, **options: Any) -> None:
        with pytest.raises(ModelLoadError) as caught:
            model_of(random_path, draft=str(draft), **options)
        assert all(phrase in str(caught.value) for phrase in ("draft: ", *phrases)), caught.value

    refused(tmp_path / "absent.gguf", "there is no such file")
    metadata = llama_metadata(**SIZE) | sentencepiece_metadata(words)
    metadata["tokenizer.ggml.tokens"] = ["other", *metadata["tokenizer.ggml.tokens"][1:]]
    other = write_gguf(tmp_path / "other.gguf", metadata, random_llama(**SIZE))
    refused(other, "other.gguf has another vocabulary than random.gguf", "of the same family")
    metadata = llama_metadata(**{**SIZE, "context": 64}) | sentencepiece_metadata(words)
    short = write_gguf(tmp_path / "short.gguf", metadata, random_llama(**SIZE))
    refused(short, "short.gguf was trained for")
    refused(random_path, "needs a graphics card", draft_gpu_layers=3)


def test_its_options_need_it(random_path: Path, model_of: Load) -> None:
    for options in ({"draft_least": 0.5}, {"draft": "lookup", "draft_gpu_layers": 2}):
        with pytest.raises(ValueError, match="do nothing without a small model"):
            model_of(random_path, **options)


def test_what_was_trimmed_away_is_forgotten_by_the_small_model_too(random_path: Path, model_of: Load) -> None:
    from chatbridge import Row

    model = model_of(random_path, **EXACT, draft=str(random_path), draft_least=0, draft_tokens=6)
    ids = list(range(10, 60))
    state = model.new_state()
    model.step([Row(state, ids, model.new_sampler(Sampling(temperature=0), ids, 0))])
    state.trim(30)
    other = [*ids[:30], 200, 300]
    (sampled,) = model.step([Row(state, other[30:], model.new_sampler(Sampling(temperature=0), other, 0))])
    assert len(sampled) == 7, "the same model guesses all rightly"
