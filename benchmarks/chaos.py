"""Chaos under many rooms: the model's worker is stopped, crashed, killed and starved at random, while all rooms talk.

    python benchmarks/chaos.py [--minutes 10] [--rooms 50] [--seed 1] [--only SIGKILL,poison] [--blows 5]
        [--every 2-6] [--hang-timeout 2] [--patience 60]

The toy model runs in a worker process. In each room somebody asks one thing after the other; what an undisturbed worker
answers is known before, and every answer has to be just that, to the letter. Every few seconds something befalls the
worker from outside: SIGSTOP, SIGSEGV, SIGKILL, or all memory that it may have is what it has. Now and then a person's
text is poison: the worker that reads it crashes, is killed, hangs, or runs out of memory. Poison may cost its own room
that answer, said in words; any other answer that is lost is a breach, unless the worker died under it again and again
by blows from outside, for which nobody can tell who is to blame: so many are counted by themselves.

Ends with 1 where an innocent room has lost anything, or waits while nothing came for `--patience` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge import Author, Bot, Bridge, Channel, ChannelSettings, ChatbridgeError, Message, ReplyStream, Sampling
from chatbridge.testing import ToyOptions, bridge_with, toy_backend
from chatbridge.testing.toy import Doom

BLOWS = ("SIGSTOP", "SIGSEGV", "SIGKILL", "memory")
POISON: dict[str, Doom] = {"\x01": "crash", "\x02": "kill", "\x03": "hang", "\x04": "memory"}
QUESTIONS = 40
POISONED = 0.004
"""The share of questions that are poison."""
UNLUCKY = 2
"""An answer under which the worker died so often by blows from outside may be given up, in words."""
MODEL = "model"


@dataclass(slots=True)
class Report:
    """What came of it. `breaches` are in words."""

    whole: int = 0
    poisoned: int = 0
    in_words: Counter[str] = field(default_factory=Counter)
    unlucky: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    recovered: list[float] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)
    breaches: list[str] = field(default_factory=list)


class Chaos:
    """The rooms, and what befalls the worker. `patience`: seconds in which somebody has to be told something."""

    def __init__(self, bridge: Bridge, given: argparse.Namespace) -> None:
        self.report = Report()
        self._bridge, self._given = bridge, given
        self._bot: Bot = bridge.bot("chaos")
        self._rng = random.Random(given.seed)
        self._expected: dict[str, str] = {}
        self._deaths = 0
        self._last_chunk = time.monotonic()
        self._chunk = asyncio.Event()
        self._over = False
        self._innocents = 0

    def _pid(self) -> int | None:
        backend = self._bridge.services.models.loaded().get(MODEL)
        pid: int | None = getattr(backend, "pid", None)
        if pid is not None and pid not in self.report.workers:
            self._deaths += bool(self.report.workers)
            self.report.workers.add(pid)
        return pid

    async def run(self) -> Report:
        """Learn what is said in peace; then chaos, until the time is over and every room has its last answer."""
        questions = [f"question {number}: {'why ' * (number % 7)}not?" for number in range(QUESTIONS)]
        asking = (self._ask(f"peace{number}", 0, question) for number, question in enumerate(questions))
        self._expected = dict(zip(questions, await asyncio.gather(*asking), strict=True))
        self._pid()
        blowing = asyncio.create_task(self._blows())
        watching = asyncio.create_task(self._watch())
        rooms = [asyncio.create_task(self._room(number)) for number in range(self._given.rooms)]
        await asyncio.wait([blowing], timeout=60 * self._given.minutes)
        self._over = True
        blowing.cancel()
        await asyncio.gather(*rooms)
        watching.cancel()
        await asyncio.gather(blowing, watching, return_exceptions=True)
        return self.report

    async def _room(self, number: int) -> None:
        rng, count = random.Random(f"{self._given.seed} {number}"), 0
        while not self._over:
            count += 1
            question, poison = rng.choice([*self._expected]), ""
            if "poison" in self._given.only and rng.random() < POISONED:
                poison = rng.choice([*POISON])
            deaths = self._deaths
            self._innocents += not poison
            try:
                said = await self._ask(f"room{number}", count, question + poison)
            except ChatbridgeError as error:
                gone = self._pid() is None
                self._failed(number, poison, self._deaths + gone - deaths, error)
                continue
            except Exception as error:
                self.report.breaches.append(f"room {number}: {error!r}")
                continue
            finally:
                self._innocents -= not poison
            if poison:
                self.report.breaches.append(f"room {number}: poison was answered by {said!r}")
            elif said != self._expected[question]:
                self.report.breaches.append(f"room {number}: {said!r} in place of {self._expected[question]!r}")
            else:
                self.report.whole += 1

    def _failed(self, number: int, poison: str, deaths: int, error: ChatbridgeError) -> None:
        self.report.in_words[f"{type(error).__name__}{' of poison' if poison else ''}"] += 1
        if poison:
            self.report.poisoned += 1
        elif deaths >= UNLUCKY:
            self.report.unlucky += 1
        else:
            self.report.breaches.append(f"room {number} lost an answer, {deaths} deaths in its time: {error}")

    async def _ask(self, room: str, count: int, text: str) -> str:
        message = Message(f"{room}-{count}", Channel(room), Author(room, room), text)
        reply = await self._bot.receive(message)
        assert isinstance(reply, ReplyStream), reply
        said = ""
        async for chunk in reply:
            said += chunk.text
            self._last_chunk = time.monotonic()
            self._chunk.set()
        return said

    async def _blows(self) -> None:
        """One blow after another, each once the worker is well again."""
        kinds = [kind for kind in BLOWS if kind in self._given.only]
        least, most = map(float, self._given.every.split("-"))
        if not kinds:  # all that befalls it is poison
            await asyncio.sleep(60 * self._given.minutes)
        while self.report.blows.total() < self._given.blows:
            await asyncio.sleep(self._rng.uniform(least, most))
            kind, pid = self._rng.choice(kinds), self._pid()
            if pid is None:
                continue
            self.report.blows[kind] += 1
            struck = time.monotonic()
            with suppress(ProcessLookupError, PermissionError):
                strike(kind, pid)
            while self._pid() in (pid, None) and time.monotonic() - struck < self._given.patience:
                if kind == "memory" and time.monotonic() - struck > 5:  # it may have had enough
                    break
                await asyncio.sleep(0.02)  # a worker has no event for its parent's guests
            self._chunk.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._chunk.wait(), self._given.patience)
                self.report.recovered.append(time.monotonic() - struck)
            print(f"{kind}: an answer went on after {time.monotonic() - struck:.1f} s", flush=True)

    async def _watch(self) -> None:
        """Nobody waits for ever: a worker that does nothing for so long was noticed by nobody.

        Where all that is left is poison, workers that die of it one after the other are started ever later.
        """
        while True:
            await asyncio.sleep(0.2)
            pid = self._pid()
            if not self._innocents:
                self._last_chunk = time.monotonic()
            if time.monotonic() - self._last_chunk > self._given.patience:
                self.report.breaches.append(f"nothing came for {self._given.patience:g} s: the worker hangs")
                self._last_chunk = time.monotonic()
                if pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def strike(kind: str, pid: int) -> None:
    """Let this befall a process."""
    if kind != "memory":
        os.kill(pid, getattr(signal, kind))
        return
    import resource

    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (used, hard))


async def main() -> int:
    """Cause chaos, and tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rooms", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join((*BLOWS, "poison")), help="which of these befall the worker")
    parser.add_argument("--blows", type=float, default=float("inf"), help="end after so many, before the time is over")
    parser.add_argument("--every", default="2-6", help="seconds from an answer after one blow to the next blow")
    parser.add_argument(
        "--hang-timeout",
        type=float,
        default=2.0,
        help="the model's setting, in seconds; a long step may take 20 times as long",
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds in which somebody has to be told something"
    )
    given = parser.parse_args()
    given.only = given.only.split(",")
    logging.basicConfig(level=logging.CRITICAL)
    dooms = {str(ord(sign)): doom for sign, doom in POISON.items()}
    given_model = {"context_length": 1024, "eos_every": 10**6, "step_seconds": 0.02, "dooms": dooms}
    options = ToyOptions.model_validate(given_model)
    defaults = ChannelSettings(
        reply_to="always", language="en", history=False, sampling=Sampling(temperature=0, max_tokens=40)
    )
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        store, hang = Path(folder) / "store", given.hang_timeout
        async with bridge_with(toy_backend, store, options=options, defaults=defaults, hang_timeout=hang) as bridge:
            report = await Chaos(bridge, given).run()
    tell(report, time.monotonic() - begun)
    return 1 if report.breaches else 0


def tell(report: Report, seconds: float) -> None:
    """Print it."""
    times = sorted(report.recovered) or [0.0]
    failures = ", ".join(f"{count} {name}" for name, count in report.in_words.items()) or "none"
    blows = ", ".join(f"{count} {name}" for name, count in report.blows.items()) or "none"
    print(
        f"{report.whole} answers whole and as in peace, in {seconds:.0f} s; failures in words: {failures}; of these "
        f"{report.poisoned} were poison and {report.unlucky} met {UNLUCKY} or more deaths; blows: {blows}; an answer "
        f"went on after {times[len(times) // 2]:.1f} s (median), {times[-1]:.1f} s (longest); "
        f"{len(report.workers)} workers; breaches: {len(report.breaches)}"
    )
    for breach, count in Counter(report.breaches).most_common(20):
        print(f"BREACH ({count}): {breach[:600]}")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
