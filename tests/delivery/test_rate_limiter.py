"""The rate limiter alone, at made-up times: what goes first, how long it waits, when it gives up."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.delivery.chat import Budget, Limits
from chatbridge.delivery.errors import ChatError, ContentRejected, NotFound, OutcomeUnknown, RateLimited, Unreachable
from chatbridge.delivery.rate_limiter import (
    LONGEST_PENALTY,
    MARGIN,
    MAX_PENALTIES,
    Call,
    CallWindow,
    Cooldowns,
    RateLimiter,
)

LIMITS = Limits(2000, first_preview=1.0, preview_every=2.0, typing_every=5.0)


def limiter_of(limits: Limits = LIMITS, cooldowns: Cooldowns | None = None, chat: str = "c") -> RateLimiter:
    return RateLimiter(chat, limits, cooldowns or Cooldowns())


def drive(limiter: RateLimiter, until: float, now: float = 0.0) -> list[tuple[float, str]]:
    """Every call up to a time, all of them going well."""
    made = []
    while now <= until:
        step = limiter.next(now)
        if isinstance(step, Call):
            made.append((now, step.kind))
            limiter.settle(step, now)
        elif step is None or step > until:
            break
        else:
            assert step > now
            now = step
    return made


def test_an_answer_begins_with_typing_then_previews_follow_their_pace() -> None:
    limiter = limiter_of()
    limiter.open("a", 0.0)
    made = drive(limiter, 0.5)
    assert made == [(0.0, "typing")]
    made = drive(limiter, 20.0, 0.5)
    # One placeholder, and nothing more as long as there is nothing new; typing goes on.
    assert made == [(1.0, "preview"), (5.0, "typing"), (10.0, "typing"), (15.0, "typing"), (20.0, "typing")]
    for _ in range(100):
        limiter.touch("a")
    assert drive(limiter, 20.4, 20.3) == [(20.3, "preview")]
    limiter.touch("a")
    assert [(round(time, 6), kind) for time, kind in drive(limiter, 24.0, 20.4)] == [(22.3, "preview")]


def test_nothing_but_the_final_message_once_an_answer_is_closed() -> None:
    limiter = limiter_of()
    limiter.open("a", 0.0)
    limiter.close("a")
    limiter.touch("a")
    limiter.add(Call("send"))
    limiter.forget("a")
    limiter.touch("a")
    assert drive(limiter, 100.0) == [(0.0, "send")]


def test_final_messages_go_before_previews_and_in_their_order() -> None:
    limiter = limiter_of()
    limiter.open("a", 0.0)
    finals = [Call("edit"), Call("send"), Call("send")]
    limiter.add(*finals)
    for final in finals:
        assert limiter.next(50.0) is final
        limiter.settle(final, 50.0)
    assert [final.state for final in finals] == ["delivered"] * 3
    step = limiter.next(50.0)
    assert isinstance(step, Call)
    assert step.kind == "preview"


@pytest.mark.parametrize(
    ("scope", "own", "other_route", "other_chat"),
    [("route", 10.1, 0.0, 0.0), ("chat", 10.1, 10.1, 0.0), ("global", 10.1, 10.1, 10.1)],
)
def test_a_penalty_holds_what_it_concerns(scope: str, own: float, other_route: float, other_chat: float) -> None:
    cooldowns = Cooldowns()
    limiter, other = limiter_of(cooldowns=cooldowns), limiter_of(cooldowns=cooldowns, chat="other")
    first = Call("send")
    limiter.add(first)
    limiter.next(0.0)
    limiter.settle(first, 0.0, RateLimited(10.0, scope))  # type: ignore[arg-type]
    assert limiter.next(0.0) == own
    other.add(Call("send"))
    assert _when(other) == other_chat
    edits = limiter_of(cooldowns=cooldowns)
    edits.add(Call("edit"))
    assert _when(edits) == other_route
    # Optional calls wait for every penalty that concerns the chat in any way.
    watching = limiter_of(cooldowns=cooldowns)
    watching.open("a", 0.0)
    assert _when(watching) == own


def _when(limiter: RateLimiter) -> float:
    step = limiter.next(0.0)
    assert step is not None
    return 0.0 if isinstance(step, Call) else step


def test_penalties_without_a_time_are_guessed_longer_each_time() -> None:
    limiter, call, now = limiter_of(), Call("send"), 0.0
    limiter.add(call)
    waits = []
    for _ in range(8):
        assert limiter.next(now) is call
        limiter.settle(call, now, RateLimited(None))
        step = limiter.next(now)
        assert isinstance(step, float)
        waits.append(round(step - now - MARGIN, 6))
        now = step
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize("seconds", [0.0, -3.0, math.nan])
def test_a_penalty_of_no_seconds_is_guessed_as_well(seconds: float) -> None:
    limiter, call = limiter_of(), Call("send")
    limiter.add(call)
    limiter.settle(_next(limiter, 0.0, "send"), 0.0, RateLimited(seconds))
    assert limiter.next(0.0) == 5 + MARGIN


def test_a_penalty_says_what_it_holds_and_for_how_long() -> None:
    assert str(RateLimited(2.5, "global")) == "too many calls (global); wait 2.5 s"
    assert str(RateLimited()) == "too many calls (chat); wait a while"


@pytest.mark.parametrize("scope", ["global", "chat", "route"])
@pytest.mark.parametrize("seconds", [1e300, math.inf])
def test_no_penalty_silences_a_bot_for_ever(scope: str, seconds: float) -> None:
    cooldowns = Cooldowns()
    cooldowns.impose(100.0, RateLimited(seconds, scope), "a", "send")  # type: ignore[arg-type]
    assert cooldowns.until("a", "send") == 100.0 + LONGEST_PENALTY + MARGIN


def test_penalties_slow_previews_down_and_success_speeds_them_up() -> None:
    limiter = limiter_of()
    limiter.open("a", 0.0)
    now = 1.0
    for _ in range(3):
        limiter.touch("a")
        limiter.settle(_next(limiter, now, "preview"), now, RateLimited(0.5), "edit")
        now += 100
    assert limiter.pause == 16.0
    for _ in range(50):
        limiter.touch("a")
        limiter.settle(_next(limiter, now, "preview"), now)
        now += 100
    assert limiter.pause == 2.0


def _next(limiter: RateLimiter, now: float, kind: str) -> Call:
    while isinstance(step := limiter.next(now), Call) and step.kind != kind:
        limiter.settle(step, now)
    assert isinstance(step, Call)
    return step


def test_a_slow_service_is_asked_less_often() -> None:
    limiter = limiter_of()
    limiter.open("a", 0.0)
    call = _next(limiter, 1.0, "preview")
    limiter.settle(call, 8.0)  # it took seven seconds
    limiter.touch("a")
    previews = [time for time, kind in drive(limiter, 30.0, 8.0) if kind == "preview"]
    assert previews == [15.0]


@pytest.mark.parametrize(
    ("error", "tries", "doubtful"),
    [(Unreachable("down"), 12, False), (OutcomeUnknown("lost"), 3, True), (RateLimited(1.0), MAX_PENALTIES, False)],
)
def test_a_final_message_is_tried_often_but_not_for_ever(error: ChatError, tries: int, doubtful: bool) -> None:
    limiter, call, after = limiter_of(), Call("send"), Call("send")
    limiter.add(call, after)
    now, made, waits = 0.0, 0, []
    while call.state == "waiting":
        step = limiter.next(now)
        if isinstance(step, float):
            waits.append(step - now)
            now = step
            continue
        assert step is call
        made += 1
        limiter.settle(call, now, error)
    assert (made, call.state, call.doubtful, call.error) == (tries, "failed", doubtful, str(error))
    assert all(later > earlier - 1e-6 for earlier, later in pairwise(waits))
    if isinstance(error, Unreachable):
        assert waits == pytest.approx([min(2.0**number, 300.0) for number in range(11)])
    # What follows is delivered all the same.
    step = limiter.next(now + 1000)
    assert step is after


def test_where_sending_twice_leaves_one_message_nothing_is_doubtful() -> None:
    limiter, call = limiter_of(Limits(2000, idempotent=True)), Call("send")
    limiter.add(call)
    limiter.settle(_next(limiter, 0.0, "send"), 0.0, OutcomeUnknown("lost"))
    assert not call.doubtful
    edit = Call("edit")
    limiter = limiter_of()
    limiter.add(edit)
    limiter.settle(_next(limiter, 0.0, "edit"), 0.0, OutcomeUnknown("lost"))
    assert not edit.doubtful


def test_rejections_lead_from_the_formatted_content_to_an_error_notice() -> None:
    limiter, call = limiter_of(), Call("edit", "m1", formatted=True)
    limiter.add(call)
    seen = []
    while call.state == "waiting":
        step = _next(limiter, 0.0, call.kind)
        assert step is call
        seen.append((call.kind, call.target, call.variant))
        limiter.settle(call, 0.0, ContentRejected("no"))
    assert seen == [
        ("edit", "m1", "full"),
        ("edit", "m1", "plain"),
        ("send", "", "full"),
        ("send", "", "plain"),
        ("send", "", "error_notice"),
    ]
    assert (call.state, call.error) == ("failed", "no")
    # What stands in the message that could not be edited is not left behind.
    step = limiter.next(0.0)
    assert isinstance(step, Call)
    assert (step.kind, step.target) == ("delete", "m1")


def test_what_follows_a_message_that_is_gone_comes_behind_its_replacement() -> None:
    limiter = limiter_of()
    first, second, other = (Call("edit", f"m{i}", key=key) for i, key in enumerate("aab"))
    limiter.add(first, second, other)
    limiter.settle(_next(limiter, 0.0, "edit"), 0.0, NotFound("deleted"))
    made = []
    while isinstance(step := limiter.next(0.0), Call):
        made.append((step.kind, step.target))
        limiter.settle(step, 0.0)
    assert made == [("send", ""), ("delete", "m1"), ("send", ""), ("edit", "m2")]


def test_a_deletion_that_the_service_refuses_is_given_up_and_holds_nothing_up() -> None:
    limiter, delete, after = limiter_of(), Call("delete", "m1"), Call("send")
    limiter.add(delete, after)
    limiter.settle(_next(limiter, 0.0, "delete"), 0.0, ContentRejected("too old"))
    assert (delete.kind, delete.state, delete.error) == ("delete", "failed", "too old")
    assert _next(limiter, 0.0, "send") is after


def test_what_is_delivered_at_last_has_no_error_any_more() -> None:
    limiter, call = limiter_of(), Call("send")
    limiter.add(call)
    limiter.settle(_next(limiter, 0.0, "send"), 0.0, Unreachable("down"))
    assert call.error == "down"
    limiter.settle(_next(limiter, 1000.0, "send"), 1000.0)
    assert (call.state, call.error) == ("delivered", "")


def test_an_error_notice_that_arrives_is_no_delivery() -> None:
    limiter, call = limiter_of(), Call("send")
    limiter.add(call)
    for error in (ContentRejected("too odd"), None):
        limiter.settle(_next(limiter, 0.0, "send"), 0.0, error)
    assert (call.state, call.error) == ("failed", "too odd")


def test_a_message_that_is_gone_is_sent_anew_and_a_chat_that_is_gone_is_given_up() -> None:
    limiter, call = limiter_of(), Call("edit", "m1")
    limiter.add(call)
    limiter.settle(_next(limiter, 0.0, "edit"), 0.0, NotFound("deleted"))
    assert (call.kind, call.target, call.state) == ("send", "", "waiting")
    limiter.settle(_next(limiter, 0.0, "send"), 0.0, NotFound("blocked"))
    assert call.state == "failed"
    delete = Call("delete", "m1")
    limiter.add(delete)
    limiter.settle(_next(limiter, 0.0, "delete"), 0.0, NotFound("deleted"))
    assert delete.state == "delivered"


def test_a_budget_is_kept_and_a_share_of_it_is_left_to_final_messages() -> None:
    limiter = limiter_of(Limits(2000, budget=Budget(5, 10.0), first_preview=0.0, preview_every=0.1, typing_every=0))
    limiter.open("a", 0.0)
    now, previews = 0.0, []
    while now < 30:
        limiter.touch("a")
        step = limiter.next(now)
        if isinstance(step, Call):
            previews.append(now)
            limiter.settle(step, now)
        now += 0.25
    assert max(len([t for t in previews if start <= t < start + 10]) for start in previews) == 3
    finals = [Call("send") for _ in range(2)]
    limiter.add(*finals)
    for final in finals:  # at once, though previews have used their share
        limiter.settle(_next(limiter, now, "send"), now)
        assert final.state == "delivered"


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 9), st.floats(0, 1)), max_size=60),
    st.integers(1, 5),
    st.floats(0.5, 5),
)
def test_a_call_window_never_lets_more_arrive(
    plan: list[tuple[float, float, float]], calls: int, seconds: float
) -> None:
    """However long each call takes, and wherever in that time the service counts it."""
    window, now = CallWindow(Budget(calls, seconds)), 0.0
    arrivals: list[float] = []
    under_way: list[float] = []
    for pause, takes, arrives in plan:
        now += pause
        while True:
            while under_way and under_way[0] <= now:
                window.end(heappop(under_way))
            if (ready := window.ready(now)) <= now:
                break
            now = min([ready, *under_way[:1]])
        window.begin()
        heappush(under_way, now + takes)
        arrivals.append(now + arrives * takes)
    arrivals.sort()
    for first, beyond in zip(arrivals, arrivals[calls:], strict=False):
        assert beyond - first >= seconds - 1e-9


def test_of_several_answers_in_one_chat_the_first_is_shown_first() -> None:
    limiter = limiter_of(Limits(2000, typing_every=0, first_preview=0, preview_every=1.0))
    limiter.open("a", 0.0)
    limiter.open("b", 0.0)
    assert _next(limiter, 0.0, "preview").key == "a"
    assert limiter.next(10.0) is None
    limiter.close("a")
    assert limiter.next(10.0) is None  # the finals of the first are on their way
    limiter.forget("a")
    assert _next(limiter, 10.0, "preview").key == "b"


def test_one_is_told_whether_a_touch_changes_anything() -> None:
    limiter = limiter_of()
    assert not limiter.touch("a")
    limiter.open("a", 0.0)
    assert not limiter.touch("a"), "its first preview is due anyway"
    drive(limiter, 1.5)
    assert [limiter.touch("a"), limiter.touch("a")] == [True, False]
    limiter.close("a")
    assert not limiter.touch("a")
    limiter = limiter_of(Limits(2000, previews="none"))
    limiter.open("a", 0.0)
    assert not limiter.touch("a")


def test_a_limiter_is_silent_once_nothing_that_it_did_counts_any_more() -> None:
    limiter = limiter_of(Limits(2000, budget=Budget(2, 10.0)))
    assert limiter.silent(0.0)
    limiter.add(Call("send"))
    assert not limiter.silent(0.0)
    limiter.settle(_next(limiter, 0.0, "send"), 1.0)
    assert [limiter.silent(now) for now in (1.0, 10.9, 11.0)] == [False, False, True]
    for limits, first, again in (
        (LIMITS, 0.0, 5.0),  # typing
        (Limits(2000, first_preview=1.0, preview_every=2.0, typing_every=0), 1.0, 3.0),  # a preview
    ):
        limiter = limiter_of(limits)
        limiter.open("a", 0.0)
        call = limiter.next(first)
        assert isinstance(call, Call)
        limiter.settle(call, first)
        assert not limiter.silent(first)
        limiter.forget("a")
        assert [limiter.silent(now) for now in (first, again - 0.1, again)] == [False, False, True]


def test_an_idle_gate_wants_nothing() -> None:
    limiter = limiter_of(Limits(2000, previews="none", typing_every=0))
    assert limiter.next(0.0) is None
    limiter.open("a", 0.0)
    limiter.touch("a")
    assert limiter.next(1e9) is None


errors = st.one_of(
    st.none(),
    st.builds(
        RateLimited, st.none() | st.floats(-1, 50) | st.just(math.nan), st.sampled_from(["route", "chat", "global"])
    ),
    st.builds(lambda kind: kind("x"), st.sampled_from([ContentRejected, NotFound, Unreachable, OutcomeUnknown])),
)
wishes = st.one_of(
    st.tuples(st.sampled_from(["open", "touch", "close"]), st.sampled_from("ab")),
    st.tuples(st.just("final"), st.sampled_from(["send", "edit"])),
    st.tuples(st.just("wait"), st.floats(0, 5)),
)


@given(st.lists(st.tuples(wishes, errors), max_size=60))
def test_no_call_is_made_in_a_penalty_and_final_messages_end_in_their_order(script: list) -> None:
    """Whatever is wished, whatever fails: two chats of one bot, with a record of penalties of the test's own."""
    cooldowns = Cooldowns()
    gates = {chat: limiter_of(Limits(2000, tries=4), cooldowns, chat) for chat in ("c", "d")}
    finals: dict[str, list[Call]] = {"c": [], "d": []}
    closed: set[str] = set()
    penalties: list[tuple[float, str, str, str]] = []
    now = 0.0

    def step(limiter: RateLimiter, error: ChatError | None) -> float | None:
        made = limiter.next(now)
        if not isinstance(made, Call):
            return made
        route = "edit" if made.kind == "preview" else made.kind
        for until, scope, chat, where in penalties:
            concerned = scope == "global" or (chat == limiter.chat and (scope == "chat" or where == route))
            assert not (concerned and now < until), (made, now, until)
        if made.kind == "preview":
            assert made.key not in closed
        else:
            assert made.kind in ("typing", "delete") or made is next(
                f for f in finals[limiter.chat] if f.state == "waiting"
            )
        limiter.settle(made, now, error)
        if isinstance(error, RateLimited):
            penalties.append(
                (now + (error.seconds if error.seconds and error.seconds > 0 else 5), error.scope, limiter.chat, route)
            )
        return now

    for number, ((wish, detail), error) in enumerate(script):
        limiter = gates["cd"[number % 2]]
        if wish == "open":
            limiter.open(detail, now)
            closed.discard(detail)
        elif wish == "touch":
            limiter.touch(detail)
        elif wish == "close":
            for other in gates.values():
                other.close(detail)
                other.forget(detail)
            closed.add(detail)
        elif wish == "final":
            call = Call(detail, "m" if detail == "edit" else "")
            finals[limiter.chat].append(call)
            limiter.add(call)
        else:
            now += detail
        step(limiter, error)
    for limiter in gates.values():
        limiter.forget("a")
        limiter.forget("b")
    for _ in range(10_000):
        waits = [wait for limiter in gates.values() if (wait := step(limiter, None)) is not None]
        if not waits:
            break
        now = max(now, min(waits))
    assert all(final.state != "waiting" for calls in finals.values() for final in calls)


def test_what_one_chat_has_called_counts_for_all_until_the_budgets_seconds_are_over() -> None:
    cooldowns = Cooldowns(Budget(2, 10.0))
    busy, other = limiter_of(cooldowns=cooldowns), limiter_of(cooldowns=cooldowns, chat="other")
    calls = [Call("send"), Call("send")]
    busy.add(*calls)
    for call, end in zip(calls, (1.0, 3.0), strict=True):
        assert busy.next(end - 1) is call
        busy.settle(call, end)
    waiting = Call("send")
    other.add(waiting)
    assert other.next(3.0) == 11.0, "ten seconds after the end of the first"
    assert other.next(11.0) is waiting
    other.settle(waiting, 11.5)
    other.add(second := Call("send"))
    assert other.next(11.5) == 13.0
    assert other.next(13.0) is second
