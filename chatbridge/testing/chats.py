"""A chat service in memory, with the limits, the penalties and the failures of real ones. Knows no frontend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from chatbridge.delivery.chat import Limits, MessageContent
from chatbridge.delivery.clock import Clock, LoopClock
from chatbridge.delivery.errors import ContentRejected, NotFound, OutcomeUnknown, RateLimited, Scope, Unreachable
from chatbridge.delivery.rate_limiter import Route

FaultKind = Literal["penalty", "rejected", "not_found", "unreachable", "lost", "reset", "bug"]


@dataclass(frozen=True, slots=True)
class Fault:
    """How one call fails; "" for one that is only slow.

    "lost": it is done, and the response gets lost. "reset": the connection breaks before it is done; a client can't
    tell the two apart. "bug": the library raises what nobody expects. `seconds` and `scope` are a penalty's.
    """

    kind: FaultKind | Literal[""] = ""
    seconds: float | None = 2.0
    scope: Scope = "chat"
    slow: float = 0.0


@dataclass(slots=True, eq=False)
class ServiceCall:
    """One call as the service saw it: when it began and ended, what it was about, and what came of it."""

    time: float
    chat: str
    route: Route
    message_id: str = ""
    content: MessageContent | None = None
    reply_to: str | None = None
    outcome: str = ""
    ended: float = 0.0


@dataclass
class FakeService:
    """The service. `chat(id)` gives a `Chat` for delivery; what people see there is in `shown(id)`.

    fault: asked before each call. `calls` holds every one. `violations` are in words what no good client does: a call
    during a penalty (which the service prolongs), a message too long, blank, or badly formatted.
    """

    limits: Limits
    fault: Callable[[ServiceCall], Fault | None] = lambda call: None
    clock: Clock = field(default_factory=LoopClock)
    calls: list[ServiceCall] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    messages: dict[str, dict[str, MessageContent]] = field(default_factory=dict)
    _penalties: list[tuple[int, float, float, Scope, str, Route]] = field(default_factory=list)
    _nonces: dict[tuple[str, str], str] = field(default_factory=dict)
    _sent: int = 0

    def chat(self, id: str) -> FakeChat:
        """One chat, which is there as soon as somebody writes."""
        self.messages.setdefault(id, {})
        return FakeChat(self, id)

    def shown(self, id: str) -> list[str]:
        """The texts of the messages in a chat, in their order."""
        return [content.text for content in self.messages.get(id, {}).values()]

    async def handle(self, call: ServiceCall, act: Callable[[], None]) -> None:
        """One call: recorded, checked, done or not."""
        call.time = self.clock.time()
        self.calls.append(call)
        fault = self.fault(call) or Fault()
        if fault.slow:
            await self.clock.sleep(fault.slow)
        try:
            self._handle(call, fault, act)
            call.outcome = "ok"
        except Exception as error:
            call.outcome = type(error).__name__
            raise
        finally:
            call.ended = self.clock.time()

    def _handle(self, call: ServiceCall, fault: Fault, act: Callable[[], None]) -> None:
        at = self.calls.index(call)
        for known_at, since, until, scope, chat, route in self._penalties:
            # A call from another chat at the same moment crosses the answer that told of the penalty.
            here = chat == call.chat or (scope == "global" and call.time > since)
            if at >= known_at and call.time < until and here and (scope != "route" or route == call.route):
                self.violations.append(f"{call.route} in {call.chat} at {call.time:g}, in a penalty until {until:g}")
                raise self._penalize(call, Fault("penalty", 2 * (until - call.time) + 1, scope))
        if fault.kind == "penalty":
            raise self._penalize(call, fault)
        if fault.kind == "rejected":
            raise ContentRejected("can't parse entities")
        if fault.kind == "not_found":
            self.messages[call.chat].pop(call.message_id, None)  # somebody has just taken it away
            raise NotFound("message to edit not found" if call.route == "edit" else "bot was blocked by the user")
        if fault.kind == "unreachable":
            raise Unreachable("connection refused")
        if fault.kind == "reset":
            raise OutcomeUnknown("connection reset")
        if fault.kind == "bug":
            raise ConnectionResetError("an exception of the library's own")
        self._check(call)
        act()
        if fault.kind == "lost":
            raise OutcomeUnknown("the answer got lost")

    def _penalize(self, call: ServiceCall, fault: Fault) -> RateLimited:
        # One that does not say how long it lasts is over after the shortest wait that a client may guess.
        seconds = 4.0 if fault.seconds is None else fault.seconds
        until = self.clock.time() + seconds
        self._penalties.append((len(self.calls), self.clock.time(), until, fault.scope, call.chat, call.route))
        return RateLimited(fault.seconds, fault.scope)

    def _check(self, call: ServiceCall) -> None:
        content, count = call.content, self.limits.count
        if content is None:
            return
        wrong = ""
        if not content.text.strip() and content.file is None:
            wrong = "message text is empty"
        elif (length := count(content.text)) > self.limits.length:
            wrong = f"message is too long: {length} of {self.limits.length}"
        for entity in content.entities:
            if entity.length <= 0 or entity.offset < 0 or entity.offset + entity.length > count(content.text):
                wrong = f"bad entity {entity}"
        if wrong:
            self.violations.append(wrong)
            raise ContentRejected(wrong)

    def _new(self, chat: str, content: MessageContent, nonce: str) -> str:
        if self.limits.idempotent and (known := self._nonces.get((chat, nonce))) is not None:
            if known in self.messages[chat]:
                self.messages[chat][known] = content
            return known
        self._sent += 1
        self._nonces[chat, nonce] = id = f"m{self._sent}"
        self.messages[chat][id] = content
        return id


class FakeChat:
    """One chat of a `FakeService`; see `chatbridge.Chat`."""

    def __init__(self, service: FakeService, id: str) -> None:
        self._service = service
        self._id = id

    @property
    def _messages(self) -> dict[str, MessageContent]:
        return self._service.messages[self._id]

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        call = ServiceCall(0, self._id, "send", content=content, reply_to=reply_to)

        def act() -> None:
            call.message_id = self._service._new(self._id, content, nonce)

        await self._service.handle(call, act)
        return call.message_id

    async def edit(self, message_id: str, content: MessageContent) -> None:
        def act() -> None:
            if message_id not in self._messages:
                raise NotFound("message to edit not found")
            self._messages[message_id] = content

        await self._service.handle(ServiceCall(0, self._id, "edit", message_id, content), act)

    async def delete(self, message_id: str) -> None:
        def act() -> None:
            if self._messages.pop(message_id, None) is None:
                raise NotFound("message to delete not found")

        await self._service.handle(ServiceCall(0, self._id, "delete", message_id), act)

    async def typing(self) -> None:
        await self._service.handle(ServiceCall(0, self._id, "typing"), lambda: None)

    async def draft(self, draft_id: int, content: MessageContent) -> None:
        await self._service.handle(ServiceCall(0, self._id, "draft", str(draft_id), content), lambda: None)
