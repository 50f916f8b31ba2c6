"""The sampler against a slow, obvious one: each option alone and together, draws that repeat, and their shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from chatbridge.engine.sampler import LogitsSampler, draw_token
from chatbridge.errors import BackendError
from chatbridge.sampling import Sampling

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
LOGITS = np.array([1.0, 3.0, -2.0, 0.5, 2.0, 2.0, -1.0, 0.0])


def plain(**options: object) -> Sampling:
    return Sampling.model_validate({**PLAIN, **options})


def adjusted(logits: Sequence[float], options: Sampling, seen: Sequence[int]) -> list[float]:
    scores = [score + options.logit_bias.get(token, 0.0) for token, score in enumerate(logits)]
    window = seen[-options.penalty_window :] if options.penalty_window else seen
    for token in set(window):
        if scores[token] > 0:
            scores[token] /= options.repeat_penalty
        else:
            scores[token] *= options.repeat_penalty
        scores[token] -= options.presence_penalty + options.frequency_penalty * window.count(token)
    return scores


def softmax(scores: Sequence[float]) -> list[float]:
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def above(a: float, b: float) -> bool:
    """Whether a >= b, where that does not hang on how sums are rounded."""
    if a != b and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12):
        reject()
    return a >= b


def first_reaching(chances: Sequence[float], share: float) -> int:
    for count in range(1, len(chances)):
        if above(sum(chances[:count]), share):
            return count
    return len(chances)


def reference(logits: Sequence[float], options: Sampling, seen: Sequence[int] = ()) -> dict[int, float]:
    """The ids left to draw from, with their probabilities, by the options in their documented order."""
    scores = adjusted(logits, options, seen)
    ids = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if options.temperature == 0:
        return {ids[0]: 1.0}
    if options.top_k:
        ids = ids[: options.top_k]
    chances = dict(zip(ids, softmax([scores[token] for token in ids]), strict=True))
    if options.typical_p < 1:
        entropy = -sum(chance * math.log(chance) for chance in chances.values() if chance)
        off = {token: abs(-math.log(chances[token]) - entropy) if chances[token] else math.inf for token in ids}
        by_off = sorted(ids, key=lambda token: off[token])
        for one, other in pairwise(by_off):
            if scores[one] != scores[other]:
                above(off[one], off[other])
        count = first_reaching([chances[token] for token in by_off], options.typical_p)
        ids = [token for token in ids if token in by_off[:count]]
        total = sum(chances[token] for token in ids)
        chances = {token: chances[token] / total for token in ids}
    if options.top_p < 1:
        ids = ids[: first_reaching([chances[token] for token in ids], options.top_p)]
    ids = [token for token in ids if above(chances[token], options.min_p * chances[ids[0]])]
    return dict(zip(ids, softmax([scores[token] / options.temperature for token in ids]), strict=True))


def check(logits: Sequence[float], options: Sampling, seen: Sequence[int] = ()) -> None:
    expected = reference(logits, options, seen)
    ids, chances = LogitsSampler(options, seen).probabilities(np.array(logits))
    assert ids.tolist() == list(expected)
    assert chances.tolist() == pytest.approx(list(expected.values()), rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logit_bias": {1: -4.0, 6: 5.0}},
        {"repeat_penalty": 1.5},
        {"repeat_penalty": 2.0},
        {"repeat_penalty": 0.5},
        {"presence_penalty": 1.2},
        {"frequency_penalty": 0.4},
        {"frequency_penalty": 0.4, "penalty_window": 0},
        {"presence_penalty": 2.0, "penalty_window": 1},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": 8},
        {"top_k": 100},
        {"typical_p": 0.2},
        {"typical_p": 0.7},
        {"top_p": 0.5},
        {"top_p": 0.9},
        {"top_p": 1e-9},
        {"min_p": 0.3},
        {"min_p": 1.0},
        {"temperature": 0.3},
        {"temperature": 3.0},
    ],
    ids=str,
)
def test_each_option(options: dict[str, object]) -> None:
    check(LOGITS.tolist(), plain(**options), seen=[2, 1, 1, 7, 1, 4])


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-12, 12).map(lambda n: n / 2), min_size=1, max_size=12),
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.5]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.05, 0.4, 0.8, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    typical_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    repeat_penalty=st.sampled_from([0.8, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([-0.3, 0.0, 0.6]),
    penalty_window=st.integers(0, 6),
    data=st.data(),
)
def test_all_options_together(logits: list[float], data: st.DataObject, **options: float) -> None:
    ids = st.integers(0, len(logits) - 1)
    bias = data.draw(st.dictionaries(ids, st.sampled_from([-3.0, 0.5, 4.0]), max_size=3))
    seen = data.draw(st.lists(ids, max_size=10))
    check(logits, Sampling.model_validate({**options, "logit_bias": bias}), seen)


def test_what_was_sampled_counts_for_penalties() -> None:
    sampler = LogitsSampler(plain(temperature=0, presence_penalty=2.0, penalty_window=3))
    # The best first; each comes back only when three others have pushed it out of the window.
    assert draws(sampler, 6) == [1, 4, 5, 0, 1, 4]


def test_temperature_zero_takes_the_likeliest_and_of_equals_the_first() -> None:
    assert LogitsSampler(Sampling(temperature=0, typical_p=0.1)).sample(LOGITS) == 1
    assert LogitsSampler(Sampling(temperature=0)).sample(np.zeros(9, np.float32)) == 0
    assert LogitsSampler(plain(temperature=0, logit_bias={2: 9.0})).sample(LOGITS) == 2


def test_a_temperature_next_to_zero_does_not_overflow() -> None:
    ids, chances = LogitsSampler(plain(temperature=1e-310)).probabilities(LOGITS)
    assert dict(zip(ids.tolist(), chances.tolist(), strict=True))[1] == 1.0


def test_a_forbidden_token_never_comes() -> None:
    sampler = LogitsSampler(plain(seed=3, temperature=10, logit_bias={1: -1000}))
    assert 1 not in {sampler.sample(LOGITS) for _ in range(300)}


@pytest.mark.parametrize("logits", [[0.0, math.nan, 1.0], [-math.inf] * 3, [0.0, math.inf, 1.0]])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_say_nothing_are_an_error(logits: list[float], temperature: float) -> None:
    with pytest.raises(BackendError, match="logits"):
        LogitsSampler(Sampling(temperature=temperature)).sample(np.array(logits))


def test_the_logits_themselves_stay_as_they_are() -> None:
    logits = LOGITS.copy()
    LogitsSampler(plain(logit_bias={0: 5.0}, presence_penalty=1.0), [1, 2]).sample(logits)
    assert logits.tolist() == LOGITS.tolist()


def draws(sampler: LogitsSampler, count: int) -> list[int]:
    return [sampler.sample(LOGITS) for _ in range(count)]


def test_equal_seeds_repeat_and_others_do_not() -> None:
    one, same, other = (draws(LogitsSampler(plain(seed=seed)), 64) for seed in (7, 7, 8))
    assert one == same != other
    assert draws(LogitsSampler(plain()), 64) != draws(LogitsSampler(plain()), 64)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**63 - 1), cut=st.integers(0, 30), prompt=st.lists(st.integers(0, 7), max_size=9))
def test_a_resumed_answer_goes_on_as_it_would_have(seed: int, cut: int, prompt: list[int]) -> None:
    options = plain(seed=seed, frequency_penalty=0.3, penalty_window=12)
    whole = draws(LogitsSampler(options, prompt), 30)
    assert draws(LogitsSampler(options, [*prompt, *whole[:cut]], cut), 30 - cut) == whole[cut:]


CRITICAL = 24.32
"""Chi-square with seven degrees of freedom is greater once in a thousand times; the seeds here are fixed."""


def chi_square(tokens: Sequence[int], expected: dict[int, float]) -> float:
    counts = Counter(tokens)
    assert counts.keys() <= expected.keys()
    return sum(
        (counts[token] - chance * len(tokens)) ** 2 / (chance * len(tokens)) for token, chance in expected.items()
    )


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"top_k": 4, "temperature": 0.5}], ids=str)
def test_tokens_come_as_often_as_their_probabilities_say(options: dict[str, object]) -> None:
    chosen = plain(seed=11, **options)
    expected = reference(LOGITS.tolist(), chosen)
    assert chi_square(draws(LogitsSampler(chosen), 10_000), expected) < CRITICAL
    first = [LogitsSampler(plain(seed=seed, **options)).sample(LOGITS) for seed in range(5_000)]
    assert chi_square(first, expected) < CRITICAL


def test_where_no_share_is_asked_for_nothing_is_left_out_however_unlikely() -> None:
    ids, _ = LogitsSampler(plain()).probabilities(np.array([0.0, -50.0, -90.0]))
    assert ids.tolist() == [0, 1, 2]


def test_what_cannot_come_does_not_spoil_what_is_typical() -> None:
    ids, chances = LogitsSampler(plain(typical_p=0.9)).probabilities(np.array([0.0, 0.0, -math.inf]))
    assert (ids.tolist(), chances.tolist()) == ([0, 1], [0.5, 0.5])


def test_where_chances_are_rounded_to_less_than_one_the_last_is_drawn() -> None:
    for chances in ([0.0, 0.0], [1e-30, 1e-30]):
        assert draw_token(np.array([5, 7]), np.array(chances), seed=3, drawn=0) == 7


def test_a_seed_draws_the_same_in_every_version() -> None:
    assert draws(LogitsSampler(plain(seed=7)), 12) == [5, 5, 1, 1, 1, 4, 1, 1, 1, 1, 5, 1]


@pytest.mark.parametrize("shift", [-1e6, 1e6])
def test_how_large_all_logits_are_makes_no_difference(shift: float) -> None:
    for options in (plain(top_p=0.8), plain(typical_p=0.6), plain(min_p=0.1)):
        ids, chances = LogitsSampler(options).probabilities(LOGITS)
        again, same = LogitsSampler(options).probabilities(LOGITS + shift)
        assert again.tolist() == ids.tolist()
        assert same.tolist() == pytest.approx(chances.tolist(), rel=1e-6)
