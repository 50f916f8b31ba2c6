"""One run: a script is acted out, and after each round it is looked at what must hold. Shortens scripts that fail."""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.delivery.clock import LoopClock

from .model import InProcess
from .people import People, answers
from .prompts import Prompts
from .rooms import MESSAGES_PER_MINUTE, PATIENCE, Room, Stage, stage
from .script import Event, drawn, halves
from .watch import Report, Watch

KINDS = ("open", "open", "paired", "limited")
ROUND = 120
"""Events between two looks at everything."""
QUIET = 0.1
"""Seconds between two looks at what goes on, and in which nothing more may come."""
CLOCK = LoopClock()
MEMORY = next((folder for folder in ("/dev/shm",) if Path(folder).is_dir()), None)  # noqa: S108 (a folder of its own in it)
"""Where stores are put: a disk would be waited for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What did not hold, and after how many events."""

    kind: str
    what: str
    event: int

    @property
    def signature(self) -> str:
        """The same for failures that are alike: without numbers and what people wrote."""
        return f"{self.kind}: {re.sub(r'[0-9]+', 'N', self.what)[:60]}"


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    failures: list[Failure] = field(default_factory=list)
    messages: int = 0
    answers: int = 0
    prompts: int = 0
    seconds: float = 0.0
    longest: float = 0.0


def script_of(seed: int, count: int) -> list[Event]:
    """The script that belongs to a seed."""
    return drawn(random.Random(f"script {seed}"), count)


async def act(seed: int, events: Sequence[Event], *, kind: str = "") -> Outcome:
    """Act out a script in the rooms that belong to a seed."""
    outcome, at = Outcome(), [0]

    def report(of: str, what: str) -> None:
        outcome.failures.append(Failure(of, what, at[0]))

    rng = random.Random(f"rooms {seed}")
    watch, prompts = Watch(report), Prompts(report, seed)
    model = InProcess(prompts.look)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as folder, prompts.listening():
        async with stage(rng, kind or KINDS[seed % len(KINDS)], Path(folder) / "store", model) as found:
            people = People(found)
            with watch.on():
                for start in range(0, len(events), ROUND):
                    for event in events[start : start + ROUND]:
                        at[0] += 1
                        await people.do(event)
                        await asyncio.sleep(0)
                    if not await _settled(found, people, report):
                        break
                    _look(found, people, report)
            outcome.answers = sum(len(answers(found, room)) for room in people.rooms)
    outcome.messages, outcome.prompts, outcome.longest = people.said, prompts.looked, watch.longest
    outcome.seconds = time.monotonic() - begun
    return outcome


async def _settled(found: Stage, people: People, report: Report) -> bool:
    """Wait until nothing is in hand and everybody has an answer; False where that takes too long."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if any(task.done() for task in found.frontends):
            ended = [task.exception() for task in found.frontends if task.done() and not task.cancelled()]
            report("frontend", f"it has ended: {ended!r}")
            return False
        idle = all(delivery.in_hand == delivery.queued == 0 for delivery in found.bridge.services.deliveries)
        if idle and not people.waiting and not found.servers["telegram"].bot.updates and not _missing(found, people):
            calls = _calls(found)
            await CLOCK.sleep(QUIET)
            if _calls(found) == calls:
                return True
            continue
        await CLOCK.sleep(QUIET)
    for room, count in _missing(found, people):
        said = [getattr(one, "content", None) or one.text for one in room.said[-4:]]
        report("unanswered", f"{room.service} {_about(room)}: {count} of {room.expected}; last said: {said!r}"[:2000])
    if found.servers["telegram"].bot.updates:
        report("unanswered", f"{len(found.servers['telegram'].bot.updates)} updates of Telegram were not taken")
    for one in people.waiting:
        report("unanswered", f"an interaction of type {one.type} in {one.channel.name!r}: {one.data!r}"[:1000])
    hands = {delivery.bot_name: (delivery.in_hand, delivery.queued) for delivery in found.bridge.services.deliveries}
    report("stuck", f"nothing has settled for {PATIENCE:g} s; in hand and queued: {hands}")
    return False


def _calls(found: Stage) -> int:
    return sum(len(server.calls) for server in found.servers.values())


def _about(room: Room) -> str:
    settings = room.settings
    where = "private" if room.owner is not None else "group"
    return f"{where} {settings.template} {settings.scope} {settings.follow_up} {settings.reply_to}"


def _missing(found: Stage, people: People) -> list[tuple[Room, int]]:
    counts = [(room, len(answers(found, room))) for room in people.rooms]
    return [(room, count) for room, count in counts if count < room.expected[0]]


def _look(found: Stage, people: People, report: Report) -> None:
    for room in people.rooms:
        shown = answers(found, room)
        if len(shown) > room.expected[1]:
            last = [getattr(one, "content", None) or one.text for one in shown[-4:]]
            report("surplus", f"{room.service} {_about(room)}: {len(shown)} of {room.expected}: {last!r}"[:2000])
        if found.kind == "limited" and room.owner:
            _within_quota(shown, people.since, report)
        room.expected[:] = [len(shown), len(shown)]
    people.new_round()


def _within_quota(shown: Sequence[Any], since: float, report: Report) -> None:
    """No more answers than all minutes so far allow, whenever they came; notices have no buttons."""
    count = sum(bool(getattr(one, "components", None) or getattr(one, "keyboard", None)) for one in shown)
    most = MESSAGES_PER_MINUTE * (1 + int((time.monotonic() - since) // 60))
    if count > most:
        report("quota", f"{count} answers where {most} are allowed")


async def shortened(seed: int, events: Sequence[Event], signature: str, *, tries: int = 60) -> list[Event]:
    """The shortest script found by cutting parts out that still fails in this way."""
    events, parts = list(events), 2
    while tries > 0 and len(events) > 1:
        for fewer in halves(events, parts):
            tries -= 1
            outcome = await act(seed, fewer)
            if any(failure.signature == signature for failure in outcome.failures):
                events, parts = fewer, max(2, parts - 1)
                break
            if tries <= 0:
                break
        else:
            if parts >= len(events):
                break
            parts = min(len(events), 2 * parts)
    return events
