"""Decides which call a chat gets next, and when. Pure logic: knows no clock, no service and no text.

A `RateLimiter` is one chat's limiter and queue of calls in one. Requests go in (`open`, `touch`, `add`), `next` says
which call may be made now, or when to ask again, and `settle` is told what came of it. Final messages go first and in
their order, each until it is delivered or given up. Previews and typing are optional calls: they wait, coalesce, and
are dropped.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from chatbridge.delivery.chat import Budget, Limits
from chatbridge.delivery.errors import ChatError, ContentRejected, NotFound, OutcomeUnknown, RateLimited, Unreachable

Route = Literal["send", "edit", "delete", "typing", "draft"]
ROUTES: tuple[Route, ...] = ("send", "edit", "delete", "typing", "draft")

MARGIN = 0.1
"""Seconds to wait beyond a penalty: clocks differ, and services round."""

PENALTY_WITHOUT_TIME = (5.0, 300.0)
BACK_OFF = (1.0, 300.0)
"""The first wait and the longest, in seconds; doubled each time."""

MAX_PENALTIES = 30
"""After so many penalties a call is given up."""

LONGEST_PENALTY = 86_400.0
"""Seconds that a service's word is taken for: nonsense in one answer must not silence a bot for ever."""

SOON = 0.05
"""Seconds until asking again while all calls of a budget are under way: nothing tells when one of them ends."""

OPTIONAL_SHARE = 0.6
"""How much of a budget the optional calls, previews and typing, may use."""


class Cooldowns:
    """Until when a bot may not call: everywhere, in one chat, or on one route of it. All its chats share one."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.window = CallWindow(budget)
        self._over: dict[tuple[str, str], float] = {}
        """When they are over, by chat and route; "" are all routes of a chat, and all chats."""

    def impose(
        self, now: float, penalty: RateLimited, chat: str, route: Route, guess: float = PENALTY_WITHOUT_TIME[0]
    ) -> None:
        """Begin a cooldown. `guess`: its seconds, where the penalty does not say how long it lasts.

        One that is longer than `LONGEST_PENALTY` is asked about again after that time.
        """
        seconds = guess if penalty.seconds is None or not penalty.seconds > 0 else penalty.seconds
        seconds = min(seconds, LONGEST_PENALTY)
        until = now + seconds + MARGIN
        place = {"global": ("", ""), "chat": (chat, ""), "route": (chat, route)}[penalty.scope]
        self._over = {key: time for key, time in self._over.items() if time > now}
        self._over[place] = max(self._over.get(place, until), until)

    @property
    def everywhere(self) -> float:
        """When the cooldown of all calls of the bot is over."""
        return self._over.get(("", ""), -math.inf)

    def until(self, chat: str, *routes: Route) -> float:
        """When the last of the cooldowns that concern these routes is over."""
        places = (("", ""), (chat, ""), *((chat, route) for route in routes))
        return max(self._over.get(place, -math.inf) for place in places)


class CallWindow:
    """A sliding window: a call counts against the budget from its beginning until `budget.seconds` after its end.

    The service counts a call when it arrives, which is somewhere between the two: however long calls are on their
    way, it never counts more than the budget.
    """

    def __init__(self, budget: Budget | None) -> None:
        self._budget = budget
        self._under_way = 0
        self._ended: deque[float] = deque(maxlen=budget.calls if budget else 0)

    def begin(self) -> None:
        """A call begins."""
        self._under_way += 1

    def end(self, now: float) -> None:
        """A call has ended."""
        self._under_way -= 1
        self._ended.append(now)

    def ready(self, now: float, share: float = 1.0) -> float:
        """When there is room for one more call, if only that share of the budget may be used."""
        if self._budget is None:
            return -math.inf
        room = max(1, int(self._budget.calls * share)) - self._under_way
        if room <= 0:
            return now + SOON
        return -math.inf if len(self._ended) < room else self._ended[-room] + self._budget.seconds

    def empty(self, now: float) -> bool:
        """Whether no call counts any more."""
        over = self._budget is None or not self._ended or self._ended[-1] + self._budget.seconds <= now
        return over and not self._under_way


@dataclass(eq=False, slots=True)
class Call:
    """One call to make. An optional call is made once; of a final message the same object goes through all tries.

    `kind` "preview" leaves to whoever makes the call whether it is a send, an edit or a draft. `target`: the message
    to edit or delete. `formatted`: the content has formatting that can be left out. `variant`: what to send: all of
    the content, the content without formatting, or an error notice in its place. `doubtful`: an earlier try may have
    left the message there. `state` and `error`: what became of a final message. `key`: the answer that it belongs to.
    """

    kind: Literal["typing", "preview", "send", "edit", "delete"]
    target: str = ""
    formatted: bool = False
    variant: Literal["full", "plain", "error_notice"] = "full"
    doubtful: bool = False
    state: Literal["waiting", "delivered", "failed"] = "waiting"
    error: str = ""
    key: str = ""
    failures: int = 0
    penalties: int = 0
    not_before: float = -math.inf


@dataclass(slots=True)
class _Answer:
    """An answer being written. `changed`: it has something new to show, from `show_from` on, unless it is `closed`."""

    show_from: float
    changed: bool = False
    closed: bool = False


@dataclass(slots=True)
class RateLimiter:
    """One chat's calls; see the module's description. One call is under way at a time."""

    chat: str
    limits: Limits
    cooldowns: Cooldowns
    _finals: deque[Call] = field(default_factory=deque)
    _answers: dict[str, _Answer] = field(default_factory=dict)
    _window: CallWindow = field(init=False)
    _pause: float = field(init=False)
    _next_preview: float = -math.inf
    _next_typing: float = -math.inf
    _begun: float = 0.0

    def __post_init__(self) -> None:
        self._window = CallWindow(self.limits.budget)
        self._pause = self.limits.preview_every

    @property
    def pause(self) -> float:
        """Seconds between two previews at present."""
        return self._pause

    def silent(self, now: float) -> bool:
        """Whether nothing is to be done, and nothing that was done still counts: a new limiter would decide the same.

        Only the pace of previews, which a slow service has slowed down, begins anew.
        """
        waits = self._next_preview > now or self._next_typing > now
        return not (self._finals or self._answers or waits) and self._window.empty(now)

    # --- requests ----------------------------------------------------------------------------------------------

    def open(self, key: str, now: float) -> None:
        """An answer begins: show typing, and soon a preview."""
        self._answers[key] = _Answer(now + self.limits.first_preview, changed=self.limits.previews != "none")

    def touch(self, key: str) -> bool:
        """There is more of the answer to show; ignored once it is closed. Whether that changes what `next` says."""
        answer = self._answers.get(key)
        if answer is None or answer.closed or answer.changed or self.limits.previews == "none":
            return False
        answer.changed = True
        return True

    def close(self, key: str) -> None:
        """No preview of this answer from now on, nor of others until it is forgotten: its final messages come first."""
        if key in self._answers:
            self._answers[key] = _Answer(math.inf, closed=True)

    def forget(self, key: str) -> None:
        """The answer's final messages have been added, or there are none."""
        self._answers.pop(key, None)

    def add(self, *finals: Call) -> None:
        """Calls that have to be made, in this order, after those that wait already."""
        self._finals.extend(finals)

    # --- what to do --------------------------------------------------------------------------------------------

    def next(self, now: float) -> Call | float | None:
        """The call to make now, or the time to ask again, or None: nothing is to be done until the next request."""
        if self._finals:
            call = self._finals[0]
            cooldown = self.cooldowns.until(self.chat, _route(call))
            ready = max(call.not_before, cooldown, self._window.ready(now), self.cooldowns.window.ready(now))
            return self._begin(call, now) if ready <= now else ready
        if not self._answers:
            return None
        # Only the answer that began first is shown: the next one's messages would come between its own.
        key, answer = next(iter(self._answers.items()))
        preview = max(answer.show_from, self._next_preview) if answer.changed else math.inf
        typing = self._next_typing if self.limits.typing_every else math.inf
        if (wanted := min(preview, typing)) == math.inf:
            return None
        free = max(
            self.cooldowns.until(self.chat, *ROUTES),
            self._window.ready(now, OPTIONAL_SHARE),
            self.cooldowns.window.ready(now, OPTIONAL_SHARE),
        )
        if (ready := max(wanted, free)) > now:
            return ready
        if preview > now:
            return self._begin(Call("typing"), now)
        answer.changed = False
        return self._begin(Call("preview", key=key), now)

    def _begin(self, call: Call, now: float) -> Call:
        self._begun = now
        self._window.begin()
        self.cooldowns.window.begin()
        return call

    # --- what came of it ---------------------------------------------------------------------------------------

    def settle(self, call: Call, now: float, error: ChatError | None = None, route: Route | None = None) -> None:
        """A call is over. `error`: how it failed; `route`: which call a preview really was."""
        self._window.end(now)
        self.cooldowns.window.end(now)
        if isinstance(error, RateLimited):
            guess = min(PENALTY_WITHOUT_TIME[0] * 2.0**call.penalties, PENALTY_WITHOUT_TIME[1])
            self.cooldowns.impose(now, error, self.chat, route or _route(call), guess)
        if call.kind == "typing":
            pause = self.limits.typing_every
            self._next_typing = now + (pause if error is None else max(pause, self.limits.preview_slowest))
        elif call.kind == "preview":
            self._pace(now, error)
        else:
            self._settle_final(call, now, error)

    def _pace(self, now: float, error: ChatError | None) -> None:
        if error is None:
            self._pause = max(self.limits.preview_every, self._pause * 0.9)
        else:
            self._pause = min(self.limits.preview_slowest, max(self._pause, 0.5) * 2)
        # A service that takes long to answer is not asked more often than it can.
        self._next_preview = now + max(self._pause, now - self._begun)

    def _settle_final(self, call: Call, now: float, error: ChatError | None) -> None:
        assert call is self._finals[0], "final messages are settled in their order"
        if error is not None:
            call.error = str(error)
        match error:
            case None:
                self._end(call, "failed" if call.variant == "error_notice" else "delivered")
            case RateLimited():
                call.penalties += 1
                if call.penalties >= MAX_PENALTIES:
                    self._end(call, "failed")
            case ContentRejected():
                self._content_rejected(call)
            case NotFound() if call.kind == "edit":
                self._send_as_new(call)
            case NotFound():
                self._end(call, "delivered" if call.kind == "delete" else "failed")
            case Unreachable() | OutcomeUnknown() | ChatError():
                call.failures += 1
                unsure = call.kind == "send" and not self.limits.idempotent and not isinstance(error, Unreachable)
                call.doubtful |= unsure
                if call.failures >= (self.limits.doubtful_tries if unsure else self.limits.tries):
                    self._end(call, "failed")
                call.not_before = now + min(BACK_OFF[0] * 2.0 ** (call.failures - 1), BACK_OFF[1])

    def _content_rejected(self, call: Call) -> None:
        """Try the next, humbler variant of a content that the service does not take."""
        # The same again would be rejected for ever, and nothing may be lost in silence. So: the words without their
        # formatting; for an edit, both once more as a new message, since the old one may be what can't be edited; at
        # last a line that says what is missing here. No step is taken twice, so this ends.
        if call.kind == "delete":
            self._end(call, "failed")
        elif call.variant == "full" and call.formatted:
            call.variant = "plain"
        elif call.kind == "edit" and call.variant != "error_notice":
            self._finals.insert(1, Call("delete", target=call.target))
            self._send_as_new(call)
        elif call.variant != "error_notice":
            call.variant = "error_notice"
        else:
            self._end(call, "failed")

    def _send_as_new(self, call: Call) -> None:
        """Send as a new message what was to be an edit, and the rest of its answer behind it."""
        # A new message stands at the end of the chat. The answer's later messages were to be edits of messages that
        # stand above it now and would be read before it: they are sent anew as well, and the old ones deleted. The
        # deletions come behind this call, so that people keep what they could read until it is there.
        call.kind, call.target, call.variant = "send", "", "full"
        for other in [other for other in self._finals if other.key == call.key and other.kind == "edit"]:
            self._finals.insert(1, Call("delete", target=other.target))
            other.kind, other.target = "send", ""

    def _end(self, call: Call, state: Literal["delivered", "failed"]) -> None:
        call.state = state
        if state == "delivered":
            call.error = ""
        self._finals.popleft()


def _route(call: Call) -> Route:
    # A preview is made only where all routes are free; which one it took is told afterwards.
    return "edit" if call.kind == "preview" else call.kind
