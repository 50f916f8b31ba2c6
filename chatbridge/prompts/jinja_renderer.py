"""Renders by Jinja templates in child processes, within limits of time, memory and output; one child a template.

What a template gets are marks in the place of texts, so equal courses of a conversation give equal outputs, which are
remembered: a prompt that goes on costs one render. Knows no model and no conversation. Blocks;
`off_loop` is for event loops.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, ParamSpec, TypeVar

from chatbridge.errors import TemplateError
from chatbridge.prompts.cache import ByteLru

P = ParamSpec("P")
T = TypeVar("T")

MAX_OUTPUT = 1 << 18
"""Characters that a template may write, marks in the place of texts, besides what it may for each turn."""

OUTPUT_PER_INPUT = 8
"""Characters more that it may write for each one that it is told; a turn is told in about eighty."""

_MAX_CHILDREN = 4
_THREADS = 4
_BYTES_PER_CHARACTER = 12
"""Of an answer: JSON writes a character beyond the first plane as two escapes of six."""
_START_SECONDS = 30.0
_REST_SECONDS = 15.0
"""How long a template that had to be killed is not tried again: each try may take its whole time."""

_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "LC_TIME", "TZ", "TMPDIR", "TEMP", "TMP")


class TemplateLimitError(TemplateError):
    """A template had to be stopped. Other conversations would not do better."""


@dataclass(frozen=True, slots=True)
class JinjaLimits:
    """What one rendering may take: `seconds` of time, `mebibytes` of memory where the system has such a limit."""

    seconds: float = 2.0
    mebibytes: int = 512


class JinjaRenderer:
    """Runs templates; safe to use from several threads. `limits` is asked anew for each child.

    `cache_size`: characters of remembered outputs, and of what they were asked with.
    """

    def __init__(self, limits: Callable[[], JinjaLimits] = JinjaLimits, *, cache_size: int = 1 << 23) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._children: OrderedDict[str, _Child] = OrderedDict()
        self._outputs: ByteLru[tuple[str, str], str] = ByteLru(cache_size, lambda key, out: len(key[1]) + len(out))
        self._threads = ThreadPoolExecutor(_THREADS, "template")

    def output(self, source: str, values: Mapping[str, Any], *, now: str = "") -> str:
        """What the template `source` writes for `values`. Raises TemplateError.

        `now`: the time that its clock stands at, in ISO format; the hour that it is unless given.
        """
        if "strftime_now" not in source:
            now = ""
        elif not now:
            # A clock with seconds would begin each prompt otherwise.
            now = datetime.now().replace(minute=0, second=0, microsecond=0).isoformat()
        return self._done(source, json.dumps({"values": values, "now": now}))

    def variables(self, source: str) -> frozenset[str]:
        """The variables that the template `source` looks up. Raises TemplateError for one that can't be read."""
        return frozenset(self._done(source, "{}").split())

    async def off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what renders in a thread; where it is cancelled, it is left to its time limit."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def close(self) -> None:
        """End all children. What is rendered later starts new ones."""
        with self._lock:
            children = list(self._children.values())
            self._children.clear()
        for child in children:
            child.close()

    def _done(self, source: str, job: str) -> str:
        return self._outputs.get((source, job), lambda: self._child(source).render(job))

    def _child(self, source: str) -> _Child:
        with self._lock:
            child = self._children.get(source)
            if child is None:
                child = self._children[source] = _Child(source, self._limits)
            self._children.move_to_end(source)
            if len(self._children) > _MAX_CHILDREN:
                _, oldest = self._children.popitem(last=False)
                threading.Thread(target=oldest.close, daemon=True).start()  # it may be at work
        return child


@cache
def shared_renderer() -> JinjaRenderer:
    """The one of programs that have no settings for it."""
    return JinjaRenderer()


@dataclass(slots=True, eq=False)
class _Child:
    """The process of one template: started when needed, and anew where it had to be killed."""

    source: str
    limits: Callable[[], JinjaLimits]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _process: subprocess.Popen[bytes] | None = None
    _rest: tuple[float, str] = (0.0, "")

    def render(self, job: str) -> str:
        with self._lock:
            until, why = self._rest
            if time.monotonic() < until:
                raise TemplateLimitError(why)
            limits = self.limits()
            if self._process is None or self._process.poll() is not None:
                self._start(limits)
            answer = self._ask(job, limits.seconds)
        if "output" in answer:
            return answer["output"]
        if "unreadable" in answer:
            raise TemplateError(f"the chat template can't be read: {answer['unreadable']}")
        if "refused" in answer:
            raise TemplateError(f"the model's chat template refuses this conversation: {answer['refused']}")
        if "missing" in answer:
            raise TemplateError(
                f"the chat template can't do without its variable {answer['missing']!r}; give it by `template_options`"
            )
        raise TemplateError(f"the model's chat template fails: {answer.get('failed', 'it says nothing')}")

    def close(self) -> None:
        with self._lock:
            self._end()

    def _start(self, limits: JinjaLimits) -> None:
        self._end()
        arguments = (str(limits.mebibytes), str(MAX_OUTPUT), str(OUTPUT_PER_INPUT), str(limits.seconds))
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "chatbridge.prompts.jinja_child", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        atexit.register(self._process.kill)
        self._ask(json.dumps(self.source), _START_SECONDS)

    def _ask(self, line: str, seconds: float) -> dict[str, str]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        told = b""
        try:
            with suppress(OSError):
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
                told = process.stdout.readline(_BYTES_PER_CHARACTER * (MAX_OUTPUT + OUTPUT_PER_INPUT * len(line)))
        finally:
            timer.cancel()
        if told.endswith(b"\n"):
            answer: dict[str, str] = json.loads(told)
            return answer
        self._end()
        why = f"it takes longer than {seconds:g} s" if late.is_set() else "the process that it runs in has ended"
        why = f"the model's chat template had to be stopped: {why}; choose another one with `template:`"
        self._rest = time.monotonic() + _REST_SECONDS, why
        raise TemplateLimitError(why)

    def _end(self) -> None:
        if (process := self._process) is None:
            return
        self._process = None
        atexit.unregister(process.kill)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not taken any more
                    pipe.close()


def _environment() -> dict[str, str]:
    """Nothing of ours but what Python needs: tokens are often in variables."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONIOENCODING": "utf-8"}
