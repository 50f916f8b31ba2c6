"""Fitting to the context: exact counts, blocks, and the same beginning until the next trim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.errors import PromptTooLong
from chatbridge.prompts import fit
from chatbridge.prompts.fitting import MAX_BYTES_PER_TOKEN, MAX_TOKENS_PER_BYTE, max_tokens
from chatbridge.prompts.segments import Special, Text, Tokens
from chatbridge.types import Turn


async def letters(turns: list[Turn]) -> int:
    """A tokenizer of single letters."""
    return sum(len(turn.text) for turn in turns)


def conversation(rounds: int, length: int = 10) -> list[Turn]:
    turns = [Turn("system", "s" * length, trusted=True)]
    for _ in range(rounds):
        turns += [Turn("user", "u" * length), Turn("assistant", "a" * length)]
    return [*turns, Turn("user", "q" * length)]


async def test_what_fits_stays_whole() -> None:
    turns = conversation(3)
    fitted = await fit(turns, count=letters, context_length=100, reserve=20)
    assert (fitted.turns, fitted.dropped, fitted.start) == (tuple(turns), 0, 0)


async def test_the_oldest_half_goes_and_the_rest_begins_with_a_message() -> None:
    turns = conversation(4)  # system, 8 turns, question: 100 letters
    fitted = await fit(turns, count=letters, context_length=100, reserve=1)
    assert fitted.dropped == 4
    assert fitted.turns == (turns[0], *turns[5:])
    assert fitted.start == 5


async def test_the_start_sticks_until_it_no_longer_fits() -> None:
    turns = conversation(4)
    start = (await fit(turns, count=letters, context_length=100, reserve=1)).start
    starts = []
    for _ in range(5):
        turns += [Turn("assistant", "a" * 10), Turn("user", "q" * 10)]
        fitted = await fit(turns, count=letters, context_length=100, reserve=1, start=start)
        starts.append(start := fitted.start)
    # 60 letters at first: one more round fits, then half goes again.
    assert starts == [5, 9, 9, 13, 13]


async def test_counts_are_asked_for_what_would_be_sent() -> None:
    asked: list[list[Turn]] = []

    async def count(turns: list[Turn]) -> int:
        asked.append(turns)
        return await letters(turns)

    fitted = await fit(conversation(4), count=count, context_length=100, reserve=1)
    assert tuple(asked[-1]) == fitted.turns


async def test_what_can_not_fit_by_far_is_not_even_counted() -> None:
    async def asked_for(length: int) -> list[int]:
        asked = []

        async def count(turns: list[Turn]) -> int:
            asked.append(len(turns))
            return await letters(turns)

        turns = [Turn("user", "x" * length), Turn("assistant", "a"), Turn("user", "q")]
        await fit(turns, count=count, context_length=10, reserve=0)
        return asked

    most = MAX_BYTES_PER_TOKEN * 10 - 2
    assert await asked_for(most) == [3, 1]
    assert await asked_for(most + 1) == [1]
    assert await asked_for(5) == [3]


async def test_where_nobody_has_asked_the_last_answer_stays() -> None:
    turns = [Turn("assistant", "a" * 50), Turn("assistant", "b" * 10)]
    assert (await fit(turns, count=letters, context_length=20, reserve=0)).turns == (turns[1],)
    alone = [Turn("system", "s" * 10)]
    assert (await fit(alone, count=letters, context_length=20, reserve=0)).turns == tuple(alone)


def test_more_tokens_than_that_a_prompt_never_has() -> None:
    prompt = (Special("bos"), Text("é"), Tokens((5, 6)), Text(""))
    assert max_tokens(prompt) == 1 + (1 + 2 * MAX_TOKENS_PER_BYTE) + 2 + 1


async def test_too_long_says_how_long_and_what_fits() -> None:
    turns = [Turn("user", "x" * 50)]
    with pytest.raises(PromptTooLong, match="50 tokens long, and 30 fit: the context has 40, of which 10"):
        await fit(turns, count=letters, context_length=40, reserve=10)


async def test_a_start_from_a_longer_branch_is_no_trouble() -> None:
    turns = conversation(1)
    fitted = await fit(turns, count=letters, context_length=100, reserve=1, start=99)
    assert fitted.turns == (turns[0], turns[-1])


async def test_an_unfinished_answer_stays() -> None:
    turns = [*conversation(4), Turn("assistant", "b" * 10)]
    fitted = await fit(turns, count=letters, context_length=60, reserve=1)
    assert fitted.turns[-2:] == tuple(turns[-2:])


@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    room=st.integers(1, 200),
    start=st.integers(0, 40),
)
async def test_whatever_is_given_what_stays_fits_and_ends_alike(lengths: list[int], room: int, start: int) -> None:
    turns = [Turn("assistant" if at % 2 else "user", "x" * length) for at, length in enumerate(lengths)]
    if turns[-1].role == "assistant":
        turns.append(Turn("user", "x"))
    try:
        fitted = await fit(turns, count=letters, context_length=room + 5, reserve=5, start=start)
    except PromptTooLong:
        assert len(turns[-1].text) > room
        return
    assert await letters(list(fitted.turns)) <= room
    assert fitted.turns == tuple(turns[fitted.start :])
    assert fitted.dropped == fitted.start
    assert fitted.turns[0].role == "user"
    again = await fit(turns, count=letters, context_length=room + 5, reserve=5, start=fitted.start)
    assert again == fitted


async def test_where_no_room_is_left_at_all_it_says_so() -> None:
    turns = [Turn("user", "old"), Turn("assistant", "x"), Turn("user", "x" * 5)]
    with pytest.raises(PromptTooLong, match="5 tokens long, and 0 fit: the context has 40, of which 50"):
        await fit(turns, count=letters, context_length=40, reserve=50)
    with pytest.raises(PromptTooLong, match="5 tokens long, and 0 fit"):
        await fit(turns, count=letters, context_length=40, reserve=40)
