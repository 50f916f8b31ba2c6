"""What this machine is: processor, memory, graphics cards, disk. Asks the system; knows no plugin and no settings."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chatbridge.operations.environment import child_environment

_BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",  # NumPy's wheels
    "OMP_NUM_THREADS",  # torch, other builds of OpenBLAS, BLIS
    "MKL_NUM_THREADS",  # conda, torch
    "VECLIB_MAXIMUM_THREADS",  # macOS
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card; `memory` in bytes, 0 where it can't be told."""

    name: str
    memory: int = 0
    driver: str = ""


def processor() -> str:
    """The processor's name and the number of its threads that this process may use."""
    name = platform.processor() or platform.machine()
    if sys.platform.startswith("linux"):
        for line in lines_of(Path("/proc/cpuinfo")):
            if line.startswith(("model name", "Model")):
                name = line.partition(":")[2].strip()
                break
    elif sys.platform == "darwin":
        name = output_of("sysctl", "-n", "machdep.cpu.brand_string") or name
    return f"{name}, {usable_cores()} threads"


def usable_cores(root: Path = Path("/")) -> int:
    """Processor threads that this process may use, also in a container that is given less than the machine has.

    `root`: where the system's files are, on Linux.
    """
    if not sys.platform.startswith("linux"):
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    for group in control_groups(root):
        quota, _, period = "".join(lines_of(group / "cpu.max")).partition(" ")
        allowed, of = whole_number(quota), whole_number(period)
        if allowed is not None and of:
            cores = min(cores, -(-allowed // of))
    return max(1, cores)


def limit_blas_threads(count: int, *, before: tuple[str, ...]) -> None:
    """Let the libraries that multiply matrices use `count` threads.

    They read it once, when a module of `before` is first imported: where one of these is imported already, nothing
    is changed.
    """
    if not any(module in sys.modules for module in before):
        os.environ.update(dict.fromkeys(_BLAS_THREADS, str(count)))


def cpu_features() -> list[str]:
    """Instruction sets that speed models up and that this processor has."""
    import numpy

    described = numpy.show_config(mode="dicts")
    found = described.get("SIMD Extensions", {}) if isinstance(described, dict) else {}
    names = [*found.get("baseline", []), *found.get("found", [])]
    wanted = ("AVX", "FMA", "F16C", "NEON", "ASIMD", "SVE", "X86_V", "RVV", "VSX")
    return sorted({name for name in names if name.startswith(wanted)})


def memory(root: Path = Path("/")) -> tuple[int, int]:
    """Main memory in bytes: all of it, and what this process may still take (0 where it can't be told).

    A container's limits count, too. `root`: where the system's files are, on Linux.
    """
    if sys.platform.startswith("linux"):
        found = (re.match(r"(\w+):\s+(\d+) kB", line) for line in lines_of(root / "proc/meminfo"))
        sizes = {match[1]: int(match[2]) * 1024 for match in found if match}
        total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
        for group in control_groups(root):
            limit, used = (_number(group / f"memory.{name}") for name in ("max", "current"))
            if limit is not None:
                # Files that were read count as used, and give way when something else needs the room.
                left = limit - (used or 0) + _cached(group)
                total, free = min(total, limit), min(free, max(0, left))
        return total, free
    if sys.platform == "darwin":
        return int(output_of("sysctl", "-n", "hw.memsize") or 0), 0
    if sys.platform == "win32":
        return _windows_memory()
    return 0, 0


def gpus() -> list[Gpu]:
    """Graphics cards that a tool of their maker, or the system, tells of."""
    found = []
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    for line in output_of("nvidia-smi", *query).splitlines():
        if len(parts := [part.strip() for part in line.rsplit(",", 2)]) == 3:  # else it says that there is none
            name, size, driver = parts
            found.append(Gpu(name, int(size) * 2**20 if size.isdigit() else 0, f"driver {driver}"))
    for line in output_of("rocm-smi", "--showproductname", "--csv").splitlines()[1:]:
        if len(parts := line.split(",")) > 1:
            found.append(Gpu(parts[1].strip(), driver="ROCm"))
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append(Gpu("Apple GPU", driver="Metal"))
    return found


def disk_free(path: Path) -> int:
    """Free bytes where `path` is, or will be."""
    return shutil.disk_usage(_nearest_existing(path)).free


def why_not_writable(path: Path) -> str:
    """Why a file can't be written, or made; empty where it can."""
    there = _nearest_existing(path)
    if there == path:
        if path.is_dir():
            return f"{path} is a folder"
        return "" if os.access(path, os.W_OK) else f"{path} may not be written"
    return "" if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else f"nothing can be made in {there}"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def free_memory() -> int:
    """Bytes of main memory that this process may still take; 0 where it can't be told."""
    return memory()[1]


def control_groups(root: Path) -> list[Path]:
    """The control groups (version 2) that this process is in, from its own up to the topmost: limits of each count."""
    top = root / "sys/fs/cgroup"
    own = next((line[3:] for line in lines_of(root / "proc/self/cgroup") if line.startswith("0::")), "/")
    folder = top / own.strip("/")
    groups = [folder, *folder.parents]
    return groups[: groups.index(top) + 1] if top in groups else [top]


def _number(path: Path) -> int | None:
    """What a file holds, if that is a number: "max" is none."""
    return whole_number("".join(lines_of(path)).strip())


def _cached(group: Path) -> int:
    """Bytes of files that a control group may give up."""
    found = (line.split() for line in lines_of(group / "memory.stat"))
    return next((whole_number(pair[-1]) or 0 for pair in found if pair[:1] == ["inactive_file"]), 0)


def _nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    # Not Path.exists: that raises where a folder may not be looked into.
    while not os.path.exists(path) and path != path.parent:  # noqa: PTH110
        path = path.parent
    return path


def whole_number(text: str) -> int | None:
    """What a file of the system's says; None for what is no number, or none that a machine could mean."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def lines_of(path: Path) -> list[str]:
    """The lines of a file of the system's, or none."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def output_of(*command: str) -> str:
    """What a program prints; empty if it is not there or fails."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, timeout=10, check=True, env=child_environment()
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()


def _windows_memory() -> tuple[int, int]:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "space", "left", "more")),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  (not there on other systems, which mypy knows)
    kernel.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.total), int(status.free)
