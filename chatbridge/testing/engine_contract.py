"""What the engine promises of any model: many arrive and leave, and each gets the text that it gets alone.

Subclass `EngineContract` and give it your model by a fixture.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from chatbridge.engine.backend import LocalModel, Request
from chatbridge.errors import InvalidRequest, PromptTooLong
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens
from chatbridge.sampling import Sampling
from chatbridge.testing.engines import (
    arrive_and_leave,
    arriving_requests,
    conversations,
    engine_on,
    finish_all,
    prompt_ending,
    requests_for,
)
from chatbridge.types import Finish

_ALONE = pytest.StashKey[dict[str, dict[str, Finish]]]()


class EngineContract:
    """Subclass it and define the fixture `model`, which gives all tests one `LocalModel` that another fixture closes.

    No test leaves a state behind. Rounding must not depend on which rows are computed
    together, or greedy texts differ: where that can be chosen, choose float32. A model that can't honour one of these
    may override that test with `pytest.mark.xfail(reason=...)` only.
    """

    @pytest.fixture
    def model(self) -> LocalModel:
        raise NotImplementedError("define a fixture `model` that yields your LocalModel")

    @pytest.fixture
    def alone(self, model: LocalModel, request: pytest.FixtureRequest) -> dict[str, Finish]:
        """What each of the requests gets by itself, with nothing kept; computed once for each model."""
        known = request.config.stash.setdefault(_ALONE, {})
        if model.info.fingerprint not in known:
            asked = arriving_requests(ending=prompt_ending(model.info))
            known[model.info.fingerprint] = {
                r.id: finish_all(engine_on(model, cache_bytes=0), [r])[r.id] for r in asked
            }
        return known[model.info.fingerprint]

    def test_the_answers_differ(self, alone: dict[str, Finish]) -> None:
        """Fails where the model says the same whatever it is asked: then the other tests here say nothing."""
        assert len({finish.reply.text for finish in alone.values()}) > len(alone) // 2

    @pytest.mark.parametrize("token_budget", [24, 512])
    @pytest.mark.parametrize("cache_bytes", [0, 1 << 26])
    def test_many_arrive_and_leave_and_each_gets_its_own_text(
        self, model: LocalModel, alone: dict[str, Finish], token_budget: int, cache_bytes: int
    ) -> None:
        """Fails where conversations in one batch see one another, or a kept state is not what it is taken for."""
        engine = engine_on(model, token_budget=token_budget, cache_bytes=cache_bytes)
        ended = arrive_and_leave(engine, arriving_requests(ending=prompt_ending(model.info)))
        assert {name: f.reply for name, f in ended.items()} == {name: f.reply for name, f in alone.items()}
        assert engine.stats()["steps"] < sum(f.usage.generated for f in alone.values())
        engine.close()

    def test_a_long_conversation_is_the_same_with_and_without_kept_states(self, model: LocalModel) -> None:
        """Fails where a kept state is not the one that reading everything again would give, or is not used."""

        def talk(cache_bytes: int) -> list[Finish]:
            engine = engine_on(model, cache_bytes=cache_bytes)
            ending = prompt_ending(model.info)
            prompt: Prompt = (Special("bos"),)
            said: list[Finish] = []
            for i in range(8):
                prompt = (*prompt, Text(f"turn {i}: how are you?\n"))
                said.append(finish_all(engine, requests_for([(*prompt, *ending)], 12))["0"])
                prompt = (*prompt, Tokens(said[-1].reply.tokens), Text("\n"))
            engine.close()
            return said

        kept, fresh = talk(1 << 26), talk(0)
        assert [finish.reply for finish in kept] == [finish.reply for finish in fresh]
        assert all(finish.usage.cached == 0 for finish in fresh)
        if model.info.bidirectional_until is not None:
            return  # a longer prompt changes what was read of its beginning, so all of it is read again
        for before, after in pairwise(kept):  # only the newest turn is read
            assert after.usage.cached >= before.usage.prompt

    def test_regenerating_gives_the_same_answer(self, model: LocalModel) -> None:
        """Fails where a state that was trimmed or forked goes on otherwise than a fresh one."""
        engine = engine_on(model)
        asked = requests_for(conversations(1, seed=2, ending=prompt_ending(model.info)), 30)
        first, again = (finish_all(engine, asked)["0"] for _ in range(2))
        assert again.reply == first.reply
        if model.info.can_trim:
            assert again.usage.cached == first.usage.prompt - 1
        engine.close()

    def test_what_is_read_in_both_directions_is_never_taken_for_another_prompts(self, model: LocalModel) -> None:
        """Fails where a longer prompt is given states of a shorter one. Skipped for models that read one way."""
        if model.info.bidirectional_until is None:
            pytest.skip("this model reads one way")
        ending = prompt_ending(model.info)
        beginning: Prompt = (Text("a beginning that all of them share, and that is long enough to be found again"),)
        ends = [Text(word) for word in ("", " and on", " and on it goes", ", or not", " and on")]
        prompts = [(*beginning, end, *ending) for end in ends]
        engine = engine_on(model)
        kept = [finish_all(engine, requests_for([prompt], 6))["0"] for prompt in prompts]
        fresh = [finish_all(engine_on(model, cache_bytes=0), requests_for([prompt], 6))["0"] for prompt in prompts]
        assert [finish.reply for finish in kept] == [finish.reply for finish in fresh]
        assert [finish.usage.cached for finish in kept] == [0, 0, 0, 0, kept[-1].usage.prompt - 1]
        engine.close()

    def test_a_seed_repeats_an_answer_in_any_company(self, model: LocalModel) -> None:
        """Fails where a sampler's chance depends on the batch."""
        asked = arriving_requests(ending=prompt_ending(model.info))
        wild = Request(asked[3].prompt, id="wild", sampling=Sampling(temperature=1.2, seed=5, max_tokens=20))
        one = finish_all(engine_on(model, cache_bytes=0), [wild])["wild"]
        company = requests_for([r.prompt for r in asked[:6]], 20)
        many = finish_all(engine_on(model, cache_bytes=0), [*company, wild])["wild"]
        assert many.reply == one.reply

    def test_an_answer_that_a_new_worker_takes_over_goes_on_as_it_would_have(self, model: LocalModel) -> None:
        """Fails where `new_sampler` forgets what was generated already: penalties, and draws from the seed."""
        options = {"temperature": 1.1, "seed": 9, "repeat_penalty": 1.2, "frequency_penalty": 0.1, "max_tokens": 24}
        (prompt,) = conversations(1, seed=8, ending=prompt_ending(model.info))
        whole = Request(prompt, id="0", sampling=Sampling.model_validate(options))
        reply = finish_all(engine_on(model, cache_bytes=0), [whole])["0"].reply
        resumed = Request(whole.prompt, id="0", sampling=whole.sampling, resume=reply.tokens[:9])
        assert finish_all(engine_on(model, cache_bytes=0), [resumed])["0"].reply.tokens == reply.tokens

    def test_what_cannot_be_served_fails_alone(self, model: LocalModel) -> None:
        """Fails where one person's mistake ends the answers of others."""
        engine, info = engine_on(model), model.info
        good = requests_for(conversations(1, seed=4, ending=prompt_ending(model.info)), 5)[0]
        endless = Tokens((min(info.vocab_size - 1, 70),) * info.context_length)
        long = Request((endless, *prompt_ending(info)), id="long")
        biased = Request(good.prompt, id="biased", sampling=Sampling(logit_bias={info.vocab_size: 5.0}))
        for request in (long, good, biased):
            engine.submit(request)
        errors, ended = {}, {}
        while not engine.idle:
            for event in engine.step():
                if event.error is not None:
                    errors[event.request_id] = event.error
                elif event.chunk is not None and event.chunk.finish is not None:
                    ended[event.request_id] = event.chunk.finish
        assert isinstance(errors.pop("long"), PromptTooLong)
        assert isinstance(errors.pop("biased"), InvalidRequest)
        assert not errors
        assert ended["0"].usage.generated in range(1, 6)
        engine.close()
