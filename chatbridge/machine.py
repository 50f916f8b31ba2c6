"""What this machine is: processor, memory, graphics cards, disk. Asks the system; knows no plugin and no settings."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


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
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                name = line.partition(":")[2].strip()
                break
    elif sys.platform == "darwin":
        name = _said("sysctl", "-n", "machdep.cpu.brand_string") or name
    return f"{name}, {usable_cores()} threads"


def usable_cores() -> int:
    """Processor threads that this process may use."""
    if sys.platform.startswith("linux"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_features() -> list[str]:
    """Instruction sets that speed models up and that this processor has."""
    import numpy

    described = numpy.show_config(mode="dicts")
    found = described.get("SIMD Extensions", {}) if isinstance(described, dict) else {}
    names = [*found.get("baseline", []), *found.get("found", [])]
    wanted = ("AVX", "FMA", "F16C", "NEON", "ASIMD", "SVE", "X86_V", "RVV", "VSX")
    return sorted({name for name in names if name.startswith(wanted)})


def memory() -> tuple[int, int]:
    """Main memory in bytes: all of it, and what programs may still take (0 where it can't be told)."""
    if sys.platform.startswith("linux"):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
        return sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
    if sys.platform == "darwin":
        return int(_said("sysctl", "-n", "hw.memsize") or 0), 0
    if sys.platform == "win32":
        return _windows_memory()
    return 0, 0


def gpus() -> list[Gpu]:
    """Graphics cards that a tool of their maker, or the system, tells of."""
    found = []
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    for line in _said("nvidia-smi", *query).splitlines():
        name, size, driver = (part.strip() for part in line.split(","))
        found.append(Gpu(name, int(size) * 2**20 if size.isdigit() else 0, f"driver {driver}"))
    for line in _said("rocm-smi", "--showproductname", "--csv").splitlines()[1:]:
        if len(parts := line.split(",")) > 1:
            found.append(Gpu(parts[1].strip(), driver="ROCm"))
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append(Gpu("Apple GPU", driver="Metal"))
    return found


def disk_free(path: Path) -> int:
    """Free bytes where `path` is, or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def why_not_writable(path: Path) -> str:
    """Why a file can't be written, or made; empty where it can."""
    if path.exists():
        return "" if os.access(path, os.W_OK) else f"{path} may not be written"
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return "" if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else f"nothing can be made in {folder}"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _said(*command: str) -> str:
    """What a program prints, or nothing if it is not there or fails."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


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
