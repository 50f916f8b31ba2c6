"""The prefix cache against a naive search through all kept states, with toy states that know what they consumed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from chatbridge.engine.backend import ModelState
from chatbridge.engine.prefix_cache import BLOCK, PrefixCache, common_prefix
from chatbridge.testing.toy import ToyModel, ToyState

MANY = 1 << 40


def state_of(model: ToyModel, tokens: Sequence[int]) -> ToyState:
    state = model.new_state()
    state.consume(tokens)
    return state


def fetched(cache: PrefixCache, prompt: Sequence[int], *, room: int = 99, beyond: int = 0) -> int:
    """How many tokens of `prompt` a state from the cache has consumed, if it is the right one."""
    state = cache.fetch(prompt, room=room, beyond=beyond)
    if state is None:
        return 0
    check(prompt, state)
    length = state.length
    state.release()
    return length


def check(prompt: Sequence[int], state: ModelState) -> None:
    assert isinstance(state, ToyState)
    assert not state.released
    assert state.digests == state_of(ToyModel(), prompt[: state.length]).digests, "it has consumed something else"


def text(word: str, times: int = 1) -> list[int]:
    return list(word.encode()) * times


def test_the_longest_shared_prefix_is_found() -> None:
    model = ToyModel()
    cache = PrefixCache(True, MANY, 9)
    for tokens in (text("ab", 40), text("ab", 20) + text("x", 50), text("zz")):
        cache.put(tokens, state_of(model, tokens))
    assert fetched(cache, text("ab", 19)) == 37  # one is always left to evaluate
    assert fetched(cache, text("ab", 20) + text("xy")) == 41
    assert fetched(cache, text("ab", 20) + text("q", 60)) == 40
    assert fetched(cache, text("zq")) == 1
    assert fetched(cache, text("q")) == 0
    assert fetched(cache, text("ab", 30), beyond=59) == 0
    assert (cache.hits, len(cache), model.live) == (4, 3, 3)


def test_a_state_that_is_wanted_whole_is_given_away_and_otherwise_copied() -> None:
    model = ToyModel()
    cache = PrefixCache(True, MANY, 9)
    kept = state_of(model, text("abc"))
    cache.put(text("abc"), kept)
    copy = cache.fetch(text("abd"), room=9)
    assert copy is not kept
    assert copy is not None
    copy.release()
    assert cache.fetch(text("abcd"), room=9) is kept
    assert len(cache) == 0


def test_for_an_answer_that_is_given_anew_the_state_is_trimmed_and_not_copied() -> None:
    model = ToyModel()
    cache = PrefixCache(True, MANY, 9)
    kept = state_of(model, text("question answer"))
    cache.put(text("question answer"), kept)
    again = cache.fetch(text("question "), room=9)
    assert again is kept
    assert (again.length, len(cache), model.live) == (8, 0, 1)
    cache.put(text("question another"), state_of(model, text("question another")))
    # Somebody branches off near the beginning: all that follows is worth a copy.
    assert fetched(cache, text("ques")) == 3
    assert len(cache) == 1


def test_a_conversation_whose_answer_is_given_anew_is_known_again() -> None:
    model, question = ToyModel(), text("q", BLOCK + 4)
    cache = PrefixCache(True, MANY, 9)
    for answer in ("a", "b"):
        whole = question + text(answer, BLOCK)
        cache.put(whole, state_of(model, whole))
        (entry,) = cache.newest()
        again = cache.fetch(question, room=9)
        assert again is not None
        again.release()
    assert entry.use.interval == 1, "the turn before was one turn ago"


def test_of_several_states_that_serve_the_one_with_least_besides_is_copied() -> None:
    model = ToyModel()
    cache = PrefixCache(True, MANY, 9)
    for rest in ("a very long conversation", "short", "a long one"):
        cache.put(text("system " + rest), state_of(model, text("system " + rest)))
    assert fetched(cache, text("system x")) == 7
    assert next(bytes(entry.tokens) for entry in cache.newest()) == b"system short"
    assert len(cache) == 3


def test_without_room_for_a_copy_the_kept_state_is_given_away() -> None:
    for can_trim in (True, False):
        model = ToyModel(can_trim=can_trim, max_states=1)
        cache = PrefixCache(can_trim, MANY, 1)
        kept = state_of(model, text("ab"))
        cache.put(text("ab"), kept)
        assert cache.fetch(text("abc"), room=1) is kept
        assert (len(cache), model.live) == (0, 1)


def test_with_room_for_one_copy_the_kept_state_stays() -> None:
    model = ToyModel(max_states=2)
    cache = PrefixCache(True, MANY, 2)
    cache.put(text("abcde"), state_of(model, text("abcde")))
    assert fetched(cache, text("ab") + text("q", 9), room=2) == 2
    assert (len(cache), model.live) == (1, 1)
    assert fetched(cache, text("abcdef"), room=2) == 5


def test_room_for_a_copy_is_made_by_dropping_others() -> None:
    model = ToyModel(max_states=3)
    cache = PrefixCache(True, MANY, 3)
    for word in ("abc", "xyz", "uvw"):
        cache.put(text(word), state_of(model, text(word)))
    assert fetched(cache, text("abd"), room=3) == 2
    assert [fetched(cache, text(word + "!")) for word in ("xyz", "uvw", "abc")] == [0, 3, 3]


def test_states_that_cannot_trim_serve_only_what_goes_on_from_all_of_them() -> None:
    model = ToyModel(can_trim=False)
    cache = PrefixCache(False, MANY, 9)
    for length in (2, 40, 70):
        cache.put(text("ab", 50)[:length], state_of(model, text("ab", 50)[:length]))
    assert [fetched(cache, text("ab", 50)[:length]) for length in (2, 3, 40, 41, 70, 71, 99)] == [
        0, 2, 2, 40, 40, 70, 70,
    ]  # fmt: skip
    assert fetched(cache, text("ab", 20) + text("x")) == 40
    assert (len(cache), model.live) == (3, 3), "each was copied: a regeneration comes back to the same point"


@pytest.mark.parametrize("lengths", [(1, 5), (30, 31), (31, 32), (32, 33), (33, 40), (40, 33), (63, 64), (31, 64, 90)])
def test_of_states_that_cannot_trim_the_longest_that_serves_is_taken(lengths: tuple[int, ...]) -> None:
    model, story = ToyModel(can_trim=False), text("abc", 40)
    cache = PrefixCache(False, MANY, 9)
    for length in lengths:
        cache.put(story[:length], state_of(model, story[:length]))
        other = story[: length - 1] + text("x")
        cache.put(other, state_of(model, other))
    for end in range(1, 100):
        assert fetched(cache, story[:end]) == max((length for length in lengths if length < end), default=0)
    assert model.live == len(cache)


@pytest.mark.parametrize("can_trim", [True, False])
def test_where_no_whole_block_is_shared_the_beginning_of_one_serves(can_trim: bool) -> None:
    model, story = ToyModel(can_trim=can_trim), text("z", 40)
    cache = PrefixCache(can_trim, MANY, 9)
    for tokens in (text("a"), text("a") + story, text("bc"), text("q") + story):
        cache.put(tokens, state_of(model, tokens))
    assert fetched(cache, text("b") + story) == int(can_trim), "what follows is another's, though its blocks are alike"
    assert fetched(cache, text("bc") + story) == 2


def test_an_answer_of_just_the_length_of_its_prompt_is_given_anew_without_a_copy() -> None:
    for length, left in ((8, 0), (7, 1)):
        model = ToyModel()
        cache = PrefixCache(True, MANY, 9)
        cache.put(text("question12345678"), state_of(model, text("question12345678")))
        assert fetched(cache, text("question12345678")[: length + 1]) == length
        assert len(cache) == left


def test_where_bytes_run_out_what_takes_most_for_each_token_goes_first() -> None:
    class Heavy(ToyState):
        __slots__ = ()

        @property
        def nbytes(self) -> int:
            return 1000

    for most_bytes, left in ((1100, "light"), (2 * 1000 + 4 * 8, "heavy"), (MANY, "heavy")):
        model = ToyModel()
        cache = PrefixCache(True, most_bytes, 9)
        for kind, tokens in ((ToyState, text("abc")), (Heavy, text("x", 30)), (Heavy, text("y", 100))):
            state = state_of(model, tokens)
            state.__class__ = kind
            cache.put(tokens, state)
        cache.shrink(2)
        kept = {len(entry.tokens) for entry in cache.newest()}
        assert (3 in kept) == (left == "light")


@pytest.mark.parametrize("can_trim", [True, False])
def test_where_one_of_several_with_the_same_blocks_goes_the_others_are_found_still(can_trim: bool) -> None:
    model, story = ToyModel(can_trim=can_trim), text("abcd", 16)
    cache = PrefixCache(can_trim, MANY, 9)
    for end in ("xxx", "yyy", "xxx"):
        cache.put(story + text(end), state_of(model, story + text(end)))
    assert len(cache) == 2, "of equal ones the old one goes"
    assert cache.shared(story + text("z")) == 64
    assert fetched(cache, story + text("yyyz")) == 67
    cache.clear()
    assert (cache.shared(story + text("z")), fetched(cache, story + text("yyyz"))) == (0, 0)


def test_what_states_begin_with_is_told_in_whole_blocks() -> None:
    model = ToyModel(can_trim=False)
    cache = PrefixCache(False, MANY, 9)
    kept = text("ab", 50)
    cache.put(kept, state_of(model, kept))
    assert cache.shared(kept) == 96
    assert cache.shared(kept[:70] + text("x", 70)) == 64
    assert cache.shared(text("x") + kept) == 0
    assert cache.shared(kept[:31]) == 0
    assert cache.shared(kept, "another adapter") == 0
    assert PrefixCache(False, MANY, 9).shared(kept) == 0


def test_a_longer_state_makes_its_beginnings_superfluous_where_it_can_be_trimmed() -> None:
    for can_trim, left in ((True, 2), (False, 3)):
        model = ToyModel(can_trim=can_trim)
        cache = PrefixCache(can_trim, MANY, 9)
        for word in ("ab", "ax", "abc", "abc"):
            cache.put(text(word), state_of(model, text(word)))
        assert len(cache) == model.live == left
        assert cache.evictions == 0


def test_the_least_recently_used_goes_first() -> None:
    model = ToyModel()
    cache = PrefixCache(True, MANY, 3)
    for word in ("abc", "xyz", "uvw"):
        cache.put(text(word), state_of(model, text(word)))
    assert fetched(cache, text("abd")) == 2
    cache.put(text("new"), state_of(model, text("new")))
    assert [fetched(cache, text(word)) for word in ("abc", "xyz", "uvw", "new")] == [2, 0, 2, 2]
    assert cache.evictions == 1


def test_of_rooms_that_take_turns_about_as_many_are_served_as_fit() -> None:
    model = ToyModel()
    cache = PrefixCache(True, MANY, 8)
    served = 0
    histories = [text(f"{room:02} says that"[:3] + "x" * 40) for room in range(16)]
    for turn in range(12):
        for room, history in enumerate(histories):
            history += text(f"turn {turn} of this room")
            state = cache.fetch(history, room=9)
            if state is not None and state.length > 40:
                served += 1
            if state is not None:
                state.release()
            cache.put(history, state_of(model, history))
            assert len(cache) <= 8, room
    # By least recent use, none would be: each goes just before it is wanted.
    assert served > 12 * 16 // 3


def test_work_grows_with_what_matches_and_not_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    class Counted(tuple[int, ...]):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

        __hash__ = tuple.__hash__

    def comparisons(others: int) -> int:
        nonlocal compared
        model, cache = ToyModel(), PrefixCache(True, MANY, 10_000)
        for number in range(others):
            tokens = text("system text " * 4 + f"room {number:06} and much that it said")
            cache.put(tokens, state_of(model, tokens))
        for entry in cache.newest():
            entry.tokens = Counted(entry.tokens)
        compared = 0
        tokens = text("system text " * 4 + f"room {0:06} and much that it said, and more")
        assert cache.fetch(tokens, room=10_001) is not None
        cache.put(tokens, state_of(model, tokens))
        assert len(cache) == others
        return compared

    assert comparisons(400) == comparisons(20)


def test_bytes_are_bounded() -> None:
    model = ToyModel()
    cache = PrefixCache(True, 8 * 12, 99)
    for word in ("abc", "xyz", "uvw"):  # each holds a digest of 8 bytes for each length from 0 to 3
        cache.put(text(word), state_of(model, text(word)))
    assert (len(cache), cache.nbytes) == (3, 96)
    cache.put(text("longer"), state_of(model, text("longer")))
    assert (len(cache), cache.nbytes, cache.evictions) == (2, 88, 2)
    cache.put(text("much longer than that"), state_of(model, text("much longer than that")))
    assert (len(cache), cache.nbytes, model.live) == (0, 0, 0)


def test_nothing_is_kept_where_nothing_may_be() -> None:
    model = ToyModel()
    cache = PrefixCache(True, 0, 9)
    cache.put(text("abc"), state_of(model, text("abc")))
    cache.put([], state_of(model, []))
    assert (len(cache), model.live) == (0, 0)


# Few symbols in long runs: many shared prefixes, of more and of less than a block, that end anywhere.
TOKENS = st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2, 31, 32, 33])), max_size=4).map(
    lambda runs: [symbol for symbol, count in runs for _ in range(count)]
)


class Machine(RuleBasedStateMachine):
    """What is kept can be told from outside: all states put in that were neither released nor given back."""

    @initialize(can_trim=st.booleans())
    def begin(self, can_trim: bool) -> None:
        self.model = ToyModel(can_trim=can_trim)
        self.cache = PrefixCache(can_trim, 8 * 300, 4)
        self.came: list[tuple[list[int], ToyState]] = []
        self.prompts: list[list[int]] = [[]]

    def kept(self) -> list[tuple[list[int], ToyState]]:
        return [(tokens, state) for tokens, state in self.came if not state.released]

    def grown(self, data: st.DataObject, more: list[int]) -> list[int]:
        """A sequence that goes on from somewhere in one that came before."""
        old = data.draw(st.sampled_from(self.prompts))
        self.prompts.append(old[: data.draw(st.integers(0, len(old)))] + more)
        return self.prompts[-1]

    @rule(data=st.data(), more=TOKENS)
    def put(self, data: st.DataObject, more: list[int]) -> None:
        tokens = self.grown(data, more)
        state = state_of(self.model, tokens)
        self.came.append((tokens, state))
        self.cache.put(tokens, state)

    @rule(data=st.data(), more=TOKENS, room=st.integers(1, 6), beyond=st.sampled_from([0, 0, 5, 40]))
    def fetch(self, data: st.DataObject, more: list[int], room: int, beyond: int) -> None:
        prompt = self.grown(data, more)
        shared = [(common_prefix(tokens, prompt), len(tokens)) for tokens, _ in self.kept()]
        usable = [min(n, len(prompt) - 1) for n, whole in shared if self.model.can_trim or n == whole < len(prompt)]
        longest = max(usable, default=0)
        self.cache.shrink(room)
        if len(self.kept()) < len(shared):  # what was longest may have gone
            return
        state = self.cache.fetch(prompt, room=room, beyond=beyond)
        if state is None:
            assert longest <= beyond
            return
        assert state.length == longest > beyond
        check(prompt, state)
        self.came = [entry for entry in self.came if entry[1] is not state]
        assert len(self.cache) < room
        state.release()

    @invariant()
    def bounds_hold_and_nothing_leaks(self) -> None:
        kept = self.kept()
        assert len(self.cache) == len(kept) == self.model.live <= 4
        assert self.cache.nbytes == sum(state.nbytes for _, state in kept) <= 8 * 300
        assert all(state.length == len(tokens) for tokens, state in kept), "a kept state was changed"


def test_random_use(scale: int) -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=50 * scale, stateful_step_count=25, deadline=None)
    )


@settings(deadline=None)
@given(a=TOKENS, b=TOKENS)
def test_common_prefix(a: list[int], b: list[int]) -> None:
    length = common_prefix(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


@pytest.mark.parametrize("can_trim", [True, False])
def test_clear_releases_everything(can_trim: bool) -> None:
    model = ToyModel(can_trim=can_trim)
    cache = PrefixCache(can_trim, MANY, 9)
    for word in ("ab", "abc", "x"):
        cache.put(text(word), state_of(model, text(word)))
    cache.clear()
    assert (len(cache), cache.nbytes, model.live) == (0, 0, 0)
    assert cache.fetch(text("abcd"), room=9) is None
    model.close()
