"""What Discord, or whoever answers in its place, says of a failed call: never more than can be believed."""

from __future__ import annotations

import pytest
from chatbridge_discord.failures import error_of
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import ChatError, NotFound, RateLimited

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["retry_after", "global", "code", "message", "errors"])


@given(st.sampled_from([400, 401, 403, 404, 429, 500, 502, 503]), st.dictionaries(FIELDS, JSON) | JSON)
def test_any_answer_is_an_error_of_delivery_s(status: int, answer: object) -> None:
    assert isinstance(error_of(status, {}, answer), ChatError)


@pytest.mark.parametrize("nonsense", ["soon", None, [1], {}, True])
def test_a_time_that_is_none_is_not_taken(nonsense: object) -> None:
    error = error_of(429, {"Retry-After": "3", "X-RateLimit-Scope": "user"}, {"retry_after": nonsense})
    assert isinstance(error, RateLimited)
    assert (error.seconds, error.scope) == (3.0, "route")


def test_a_time_is_taken_as_it_is_said() -> None:
    error = error_of(429, {}, {"retry_after": 0.65, "global": True})
    assert isinstance(error, RateLimited)
    assert (error.seconds, error.scope) == (0.65, "global")


def test_codes_of_what_is_not_there_any_longer_are_known() -> None:
    assert isinstance(error_of(400, {}, {"code": 50083}), NotFound)
    assert not isinstance(error_of(400, {}, {"code": [50083]}), NotFound)
