"""Sampling as ChatRWKV does it, against recorded distributions and a recorded run, with the core's options besides."""

from __future__ import annotations

import re

import numpy as np
import pytest
from chatbridge_rwkv.model import RwkvModel
from chatbridge_rwkv.sampler import Rules, RwkvSampler
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import BackendError, InvalidRequest, Sampling
from chatbridge.testing import greedy_ids

from .conftest import V4, opened, recorded

OFF = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


def distribution(logits: np.ndarray, sampling: Sampling, rules: Rules | None = None) -> np.ndarray:
    ids, chances = RwkvSampler(sampling, [], 0, rules or Rules()).probabilities(logits)
    found = np.zeros(logits.size)
    found[ids] = chances
    return found


def test_recorded_distributions(reference: dict[str, np.ndarray]) -> None:
    logits = reference["v4.fp32.logits_full"][-1]
    names = [name for name in reference if name.startswith("v4.sample.")]
    assert len(names) > 3
    for name in names:
        temperature, top_p, top_k = map(float, re.findall(r"\d+(?:\.\d+)?", name.removeprefix("v4")))
        sampling = Sampling(temperature=temperature, top_p=top_p, top_k=int(top_k), min_p=0)
        if temperature == 0:
            assert RwkvSampler(sampling, [], 0, Rules()).sample(logits) == logits.argmax() == reference[name].argmax()
            continue
        found = distribution(logits, sampling)
        np.testing.assert_allclose(found, reference[name], atol=1e-5, err_msg=name)
        assert (found > 0).sum() == (reference[name] > 0).sum(), name


def original(logits: np.ndarray, temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """The steps of the package's `sample_logits`, in 64 bits and written down plainly."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    cutoff = shares[order[min(np.searchsorted(np.cumsum(shares[order]), top_p), logits.size - 1)]]
    shares[shares < cutoff] = 0
    if 0 < top_k < logits.size:
        shares[order[top_k:]] = 0
    shares = shares ** (1 / temperature)
    return shares / shares.sum()


@given(
    # Sixteenths: two logits are equal or well apart, in 32 bits as in 64.
    logits=st.lists(st.integers(-320, 320).map(lambda n: n / 16), min_size=2, max_size=300),
    temperature=st.floats(0.2, 5),
    top_p=st.floats(0.05, 0.95),
    top_k=st.integers(0, 40),
)
@settings(deadline=None)
def test_the_order_is_the_packages(logits: list[float], temperature: float, top_p: float, top_k: int) -> None:
    array = np.array(logits, np.float32)
    expected = original(array.astype(np.float64), temperature, top_p, top_k)
    found = distribution(array, Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=0))
    if (found > 0).sum() != (expected > 0).sum():  # the share of those that were kept met top_p in the last digit
        shares = np.sort(np.exp(array - array.max()) / np.exp(array - array.max()).sum())[::-1]
        assert np.abs(np.cumsum(shares) - top_p).min() < 1e-5
    else:
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_large_vocabulary_is_cut_as_a_small_one() -> None:
    rng = np.random.default_rng(1)
    for spread in (0.1, 1.0, 4.0):
        logits = (rng.standard_normal(65536) * spread).astype(np.float32)
        for top_p, top_k in ((0.5, 0), (0.9, 0), (0.9, 50), (1.0, 50), (0.3, 4)):
            found = distribution(logits, Sampling(**{**OFF, "top_p": top_p, "top_k": top_k}))
            shares = original(logits.astype(np.float64), 1.0, min(top_p, 1 - 1e-12), top_k)
            assert abs(int((found > 0).sum()) - int((shares > 0).sum())) <= 1
            np.testing.assert_allclose(found, shares, atol=1e-5)


def test_a_recorded_run_of_the_packages_generate() -> None:
    run = recorded("reference_v4.json")["pipeline_generate"]
    model = opened(V4, token_ban=run["args"]["token_ban"], alpha_decay=run["args"]["alpha_decay"])
    penalties = {
        "presence_penalty": run["args"]["alpha_presence"],
        "frequency_penalty": run["args"]["alpha_frequency"],
    }
    ids = model.tokenizer.encode(run["ctx"], start=True)
    (said,) = greedy_ids(model, [ids], max_tokens=run["token_count"], **penalties)
    # What the package printed: it holds everything back behind a character that is never completed.
    assert model.tokenizer.decode(said).decode("utf-8", "replace").startswith(run["text"].rstrip("\ufffd"))
    assert len(said) == run["token_count"]
    model.close()


def test_earlier_tokens_count_less_and_less() -> None:
    sampling = Sampling(**OFF, presence_penalty=1.0, frequency_penalty=2.0)
    sampler = RwkvSampler(sampling, [9, 9, 5, 6, 5], 3, Rules(decay=0.5, light=frozenset([6])))
    scores = sampler._adjusted(np.zeros(10, np.float32))
    # 5 came 3 and 1 tokens ago; 6 is not counted but was there; 9 belongs to the prompt.
    np.testing.assert_allclose(scores[[5, 6, 9]], [-1 - 2 * (0.25 + 1), -1, 0], rtol=1e-6)


def test_without_decay_the_core_counts() -> None:
    sampling = Sampling(**OFF, presence_penalty=1.0, frequency_penalty=0.5, penalty_window=3, repeat_penalty=2.0)
    sampler = RwkvSampler(sampling, [9, 9, 5, 6, 5], 0, Rules(decay=None))
    scores = sampler._adjusted(np.full(10, 4, np.float32))
    np.testing.assert_allclose(scores[[5, 6, 9]], [2 - 1 - 1, 2 - 1 - 0.5, 4])


def test_bans_biases_and_repeats() -> None:
    rules = Rules(bans=(3,), avoid=frozenset([7]))
    sampler = RwkvSampler(Sampling(**OFF, logit_bias={4: 2.0}), [7], 0, rules)
    ids, chances = sampler.probabilities(np.zeros(10, np.float32))
    assert not {3, 7} & {int(i) for i, chance in zip(ids, chances, strict=True) if chance > 0}
    assert int(ids[0]) == 4
    later = RwkvSampler(Sampling(**OFF), [7, 1], 0, rules)
    assert 7 in later.probabilities(np.zeros(10, np.float32))[0]


def test_line_ends_are_held_back_and_hurried() -> None:
    rules = Rules(chat_length=(40, 150), line_end=2)

    def added(generated: int) -> float:
        sampler = RwkvSampler(Sampling(**OFF), [5] * generated, generated, rules)
        return float(sampler._adjusted(np.zeros(5, np.float32))[2])

    assert added(0) < -1e8
    assert added(1) < -1e8
    assert [added(count) for count in (2, 21, 41, 100, 151, 153, 400)] == pytest.approx([-3.9, -2.0, 0, 0, 0, 0.5, 3.0])


@given(seed=st.integers(0, 2**62), cut=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_a_resumed_answer_goes_on_as_it_would_have(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, 60)).astype(np.float32) * 3
    sampling = Sampling(
        temperature=1.3, top_p=0.9, top_k=0, min_p=0, frequency_penalty=0.8, presence_penalty=0.3, seed=4
    )
    rules = Rules(chat_length=(4, 8), line_end=1, avoid=frozenset([3, 4]))
    whole = RwkvSampler(sampling, [1, 2], 0, rules)
    said = [whole.sample(row) for row in rows]
    again = RwkvSampler(sampling, [1, 2, *said[:cut]], cut, rules)
    assert [again.sample(row) for row in rows[cut:]] == said[cut:]


def test_tokens_come_as_often_as_they_should() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    counts = np.zeros(4)
    for seed in range(2000):
        counts[RwkvSampler(Sampling(**OFF, seed=seed), [], 0, Rules()).sample(logits)] += 1
    np.testing.assert_allclose(counts / 2000, [0.5, 0.25, 0.15, 0.1], atol=0.04)


def test_typical_and_min_p_are_honoured() -> None:
    logits = np.log(np.array([0.6, 0.2, 0.1, 0.06, 0.04], np.float32))
    assert (distribution(logits, Sampling(**{**OFF, "min_p": 0.15})) > 0).sum() == 3
    kept = distribution(logits, Sampling(**OFF, typical_p=0.3))
    assert (kept > 0).sum() < 5


@pytest.mark.parametrize("scores", [[np.nan, 1.0], [-np.inf, -np.inf], [np.inf, 0.0]])
def test_logits_that_say_nothing_are_an_error(scores: list[float]) -> None:
    with pytest.raises(BackendError, match="no numbers to choose from"):
        RwkvSampler(Sampling(), [], 0, Rules()).sample(np.array(scores, np.float32))


def test_the_logits_stay_as_they_are() -> None:
    logits = np.zeros(5, np.float32)
    RwkvSampler(Sampling(**OFF, logit_bias={1: 3.0}), [], 0, Rules(bans=(2,))).sample(logits)
    assert not logits.any()


def test_a_bias_outside_the_vocabulary_is_refused(v4: RwkvModel) -> None:
    with pytest.raises(InvalidRequest, match="70000 is outside"):
        v4.new_sampler(Sampling(logit_bias={70000: 1.0}), [1], 0)


def test_the_makers_values_are_recommended(v4: RwkvModel, v7: RwkvModel) -> None:
    for model, temperature, top_p in ((v4, 1.2, 0.5), (v7, 1.0, 0.3)):
        sampling = model.info.sampling
        assert sampling is not None
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (temperature, top_p, 0, 0)
    named = opened(V4, alpha_presence=0.1, alpha_frequency=0.9)
    assert named.info.sampling is not None
    assert (named.info.sampling.presence_penalty, named.info.sampling.frequency_penalty) == (0.1, 0.9)
    named.close()
