"""How many threads a model computes with unless told otherwise, and how these wait for one another.

Threads that share one product of matrices meet at a barrier hundreds of times a token, so the slowest decides: two on
one core, one on a small core, or one that is kept waiting by a container's quota hold up all others. Asks the system;
knows no plugin and no settings.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.operations.hardware import control_groups, lines_of, output_of, whole_number

_SMALL = 0.8
"""Of the largest core's speed: what is below it is a core for saving energy. Favoured cores differ by a twentieth."""

_WAITING: Sequence[Mapping[str, str]] = (
    # Threads of OpenMP (llama.cpp, torch) look for their turn without pause, for 3 to 10 ms with GCC's library and
    # 200 ms with LLVM's and Intel's. Where another program has the core of one, the others burn theirs meanwhile: with
    # 2 threads on 2 cores beside other programs, llama.cpp answered with 0.3 to 1.3 tokens a second, and with 9 to 36
    # where threads sleep at once. Looking for a while first (`GOMP_SPINCOUNT` 200, 1,000 and 3,000) was slower in the
    # best moments, too: 50, 36 and 19 beside 54. `benchmarks/threads.py` measures it.
    {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"},
    # NumPy's: 2 to the power of 26 cycles.
    {"OPENBLAS_THREAD_TIMEOUT": "16"},
)
"""Variables that belong together, and go by what a user has set as soon as one of them is set."""


@dataclass(frozen=True, slots=True)
class DefaultThreads:
    """How many threads to compute with, and for people why."""

    count: int
    why: str

    def __str__(self) -> str:
        return f"{self.count} ({self.why})"


def default_threads(root: Path = Path("/")) -> DefaultThreads:
    """One thread for each large core that this process may use, and no more than a container's quota is worth.

    `root`: where the system's files are, on Linux.
    """
    if sys.platform.startswith("linux"):
        return _on_linux(root, os.sched_getaffinity(0))
    if sys.platform == "darwin":
        for name, why in (("hw.perflevel0.physicalcpu", "one for each performance core"), ("hw.physicalcpu", "")):
            if (found := output_of("sysctl", "-n", name)).isdigit() and int(found):
                return DefaultThreads(int(found), why or "one for each core")
    if sys.platform == "win32" and (records := _windows_cores()):
        return cores_of_windows(records)
    return DefaultThreads(os.cpu_count() or 1, "one for each thread of the processor")


def waiting_variables(given: Mapping[str, str], own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that make threads share a machine with other programs, but for those that a user has set.

    `given`: the user's environment. `own`: further ones that a backend asks for, each by itself.
    """
    upper = {name.upper() for name in given}
    groups = [*_WAITING, *({name: value} for name, value in (own or {}).items())]
    return {name: value for group in groups if upper.isdisjoint(group) for name, value in group.items()}


def thread_waiting(environment: Mapping[str, str] | None = None) -> str:
    """How this process's OpenMP threads wait, for people: the variables that decide it."""
    given = os.environ if environment is None else environment
    found = [f"{name}={given[name]}" for name in _WAITING[0] if name in given]
    return ", ".join(found) or "as their library chooses"


def _on_linux(root: Path, allowed: Collection[int]) -> DefaultThreads:
    cpus = root / "sys/devices/system/cpu"
    large = _large(root, allowed)
    siblings = {cpu: _first_line(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in large}
    count = len(set(siblings.values()))
    why = "one for each core"
    if len(large) < len(allowed):
        why = f"one for each large core; {len(allowed) - len(large)} threads are on small ones"
    elif count < len(allowed):
        why = f"one for each core, which has {len(allowed) / count:g} threads"
    if (quota := _quota(root)) is not None and quota < count:
        # What a quota ends in the middle of a step keeps all others waiting: rather one thread less.
        return DefaultThreads(max(1, int(quota)), f"a control group allows {quota:g} cores")
    return DefaultThreads(max(1, count), why)


def _large(root: Path, allowed: Collection[int]) -> Collection[int]:
    """Those of the processor's threads that are not on cores for saving energy; all where these are of one kind."""
    # Intel's, which names its large cores.
    if found := _listed(_first_line(root / "sys/devices/cpu_core/cpus"), allowed):
        return found
    folder = root / "sys/devices/system/cpu"
    # How much work a core does in a time; where that isn't told, how fast its clock can run.
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        told = {cpu: whole_number(_first_line(folder / f"cpu{cpu}/{name}")) for cpu in allowed}
        speeds = {cpu: speed for cpu, speed in told.items() if speed is not None}
        if len(speeds) == len(allowed) and (least := _SMALL * max(speeds.values())) > 0:
            return {cpu for cpu, speed in speeds.items() if speed >= least}
    return allowed


def _quota(root: Path) -> float | None:
    """How many cores the tightest control group allows, version 2 or 1; None for as many as there are."""
    found = [_first_line(group / "cpu.max").split() for group in control_groups(root)]
    for folder in (root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup/cpu,cpuacct"):
        found.append([_first_line(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")])
    whole = [tuple(map(whole_number, pair)) for pair in found if len(pair) == 2]
    return min((quota / period for quota, period in whole if quota is not None and period), default=None)


def cores_of_windows(records: bytes) -> DefaultThreads:
    """By what `GetLogicalProcessorInformationEx` tells of the cores: those of the highest efficiency class."""
    classes = []
    while len(records) >= 10:
        kind, size = struct.unpack_from("<II", records)
        if kind == 0:
            classes.append(records[9])
        records = records[max(size, 8) :]
    largest = classes.count(max(classes, default=0))
    why = "one for each core" if largest == len(classes) else "one for each performance core"
    return DefaultThreads(max(1, largest), why)


def _windows_cores() -> bytes:
    size = ctypes.c_ulong(0)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  (not there on other systems, which mypy knows)
    kernel.GetLogicalProcessorInformationEx(0, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    done = kernel.GetLogicalProcessorInformationEx(0, buffer, ctypes.byref(size))
    return buffer.raw[: size.value] if done else b""


def _listed(text: str, allowed: Collection[int]) -> Collection[int]:
    """Those of `allowed` that a list such as 0-3,8 names."""
    parts: Iterable[tuple[str, str, str]] = (part.partition("-") for part in text.strip().split(","))
    bounds = [(whole_number(first), whole_number(last or first)) for first, _, last in parts]
    spans = [(first, last) for first, last in bounds if first is not None and last is not None]
    return {cpu for cpu in allowed if any(first <= cpu <= last for first, last in spans)}


def _first_line(path: Path) -> str:
    return next(iter(lines_of(path)), "").strip()
