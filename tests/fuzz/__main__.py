"""The fuzzer for hours: `python -m tests.fuzz --minutes 60 --seed 1`, from the checkout's root.

Prints how it goes, each new failure with its seed, and at last how many messages were written, how fast, and the memory
at the start and at the end. A failing script is written to a file; `--script FILE --seed N` acts it out again, and
`--shorten` cuts it down. Ends with 1 where anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
import warnings
from pathlib import Path

from .run import Failure, act, script_of, shortened
from .script import read, written
from .watch import in_use, resident


def main() -> int:
    """Fuzz until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long; a run that has begun is ended")
    parser.add_argument("--messages", type=int, default=10**9, help="or until so many messages were written")
    parser.add_argument("--seed", type=int, default=1, help="the first run's; each run has the next")
    parser.add_argument("--events", type=int, default=2400, help="events of one run")
    parser.add_argument("--script", type=Path, help="act out these events, in the rooms of --seed")
    parser.add_argument("--shorten", action="store_true", help="cut scripts that fail down to what is needed")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failing scripts are written")
    given = parser.parse_args()
    logging.getLogger("markdown_it").setLevel(logging.INFO)
    warnings.simplefilter("ignore", DeprecationWarning)
    if given.script is not None:
        return _replay(given)
    begun, seed = time.monotonic(), given.seed
    known: dict[str, int] = {}
    messages = prompts = answered = 0
    longest, before = 0.0, 0.0
    while time.monotonic() - begun < 60 * given.minutes and messages < given.messages:
        events = script_of(seed, given.events)
        outcome = asyncio.run(act(seed, events))
        before = before or in_use()  # after the first run, in which everything was imported
        messages, prompts = messages + outcome.messages, prompts + outcome.prompts
        answered += outcome.answers
        longest = max(longest, outcome.longest)
        rate = messages / (time.monotonic() - begun)
        print(
            f"seed {seed}: {outcome.messages} messages, {outcome.answers} answers in {outcome.seconds:.1f} s; in all "
            f"{messages} messages, {rate:.0f}/s ({messages / time.process_time():.0f} in a second of the processor), "
            f"{resident():.0f} MiB, event loop held up {longest * 1000:.0f} ms at most",
            flush=True,
        )
        for failure in outcome.failures:
            if (count := known.get(failure.signature, 0)) == 0:
                _tell(given, seed, failure)
            known[failure.signature] = count + 1
        seed += 1
    print(
        f"{messages} messages, {answered} answers, {prompts} prompts looked at in {time.monotonic() - begun:.0f} s "
        f"({messages / (time.monotonic() - begun):.0f} messages/s, {messages / time.process_time():.0f} in a second of "
        f"the processor); memory {before:.0f} MiB in use after the first run, {resident():.0f} MiB at the end, and "
        f"{in_use():.0f} in use; event loop held up {longest * 1000:.0f} ms at most; failures: {known or 'none'}"
    )
    return 1 if known else 0


def _tell(given: argparse.Namespace, seed: int, failure: Failure) -> None:
    """Print a failure, and write its script."""
    events = script_of(seed, given.events)[: failure.event]
    print(f"FAILED seed {seed} after {failure.event} events: {failure.kind}: {failure.what[:1500]}", flush=True)
    if given.shorten:
        events = asyncio.run(shortened(seed, events, failure.signature))
        print(f"the shortest script that fails so has {len(events)} events:\n{written(events)[:4000]}", flush=True)
    given.out.mkdir(exist_ok=True)
    path = given.out / f"{failure.kind.replace(' ', '-')}-{seed}-{failure.event}.jsonl"
    path.write_text(written(events), encoding="ascii")
    print(f"to see it again: python -m tests.fuzz --seed {seed} --script {path}", flush=True)


def _replay(given: argparse.Namespace) -> int:
    events = read(given.script)
    outcome = asyncio.run(act(given.seed, events))
    for failure in outcome.failures:
        print(f"after {failure.event} of {len(events)} events: {failure.kind}: {failure.what[:3000]}")
    if outcome.failures and given.shorten:
        print(written(asyncio.run(shortened(given.seed, events, outcome.failures[0].signature))))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
