"""What machines of other kinds are said to be, by what their tools print; the tools are scripts."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatbridge import default_threads, usable_cores
from chatbridge.operations import hardware
from chatbridge.operations.hardware import Gpu, gpus, memory, processor, size, whole_number
from chatbridge.operations.threads import cores_of_windows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts of a shell")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that programs are looked for in."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def tool(folder: Path, name: str, *lines: str, status: int = 0) -> None:
    """A program that prints these lines, or the value of its last argument."""
    text = "".join(f"echo '{line}'\n" for line in lines)
    (folder / name).write_text(f"#!/bin/sh\n{text}exit {status}\n")
    (folder / name).chmod(0o755)


def sysctl(folder: Path, **values: str) -> None:
    """`sysctl -n NAME` of macOS, with "_" for "."."""
    cases = "".join(f"{name.replace('_', '.')}) echo '{value}';;\n" for name, value in values.items())
    (folder / "sysctl").write_text(f'#!/bin/sh\ncase "$2" in\n{cases}*) exit 1;;\nesac\n')
    (folder / "sysctl").chmod(0o755)


def test_graphics_cards_are_those_that_tools_tell_of(tools: Path) -> None:
    assert gpus() == []
    tool(tools, "nvidia-smi", "NVIDIA H200, 141 GB, 143771, 570.1", "Odd, [N/A], 570.1", "No devices were found")
    tool(tools, "rocm-smi", "device,Card series", "card0, Radeon Pro", "card1", "")
    assert gpus() == [
        Gpu("NVIDIA H200, 141 GB", 143771 << 20, "driver 570.1"),
        Gpu("Odd", 0, "driver 570.1"),
        Gpu("Radeon Pro", driver="ROCm"),
    ]


def test_a_tool_that_fails_says_nothing(tools: Path) -> None:
    tool(tools, "nvidia-smi", "NVIDIA H200, 143771, 570.1", status=9)
    assert gpus() == []


@pytest.mark.parametrize(
    ("system", "machine", "found"),
    [("darwin", "arm64", ["Apple GPU"]), ("darwin", "x86_64", []), ("linux", "arm64", [])],
)
def test_of_a_macs_cards_that_of_its_own_chip_is_known(
    system: str, machine: str, found: list[str], tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert [card.name for card in gpus()] == found


def test_a_mac_tells_its_processor_memory_and_cores(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert memory() == (0, 0)
    assert processor() == f"{platform.processor() or platform.machine()}, 12 threads"
    assert str(default_threads()) == "12 (one for each thread of the processor)"
    sysctl(tools, machdep_cpu_brand__string="", hw_physicalcpu="10")
    assert str(default_threads()) == "10 (one for each core)"
    sysctl(tools, hw_memsize=str(16 << 30), hw_perflevel0_physicalcpu="0", hw_physicalcpu="10")
    assert (memory(), default_threads().count) == ((16 << 30, 0), 10)
    sysctl(tools, hw_perflevel0_physicalcpu="8", hw_physicalcpu="10")
    assert str(default_threads()) == "8 (one for each performance core)"


def test_of_another_system_the_cores_alone_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "sunos5")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (memory(), usable_cores(), default_threads().count) == ((0, 0), 1, 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert (usable_cores(), default_threads().count) == (3, 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files of Linux")
def test_a_quota_counts_by_whole_threads_and_as_one_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set() if pid else set(range(8)))
    file = tmp_path / "sys/fs/cgroup/cpu.max"
    file.parent.mkdir(parents=True)
    found = []
    for quota in ("100000 100000", "100001 100000", "1 100000", "0 100000", "900000 100000", "1 0"):
        file.write_text(quota)
        found.append(usable_cores(tmp_path))
    assert found == [1, 2, 1, 1, 8, 8]
    assert memory(tmp_path) == (0, 0), "nothing tells"


def test_sizes_for_people() -> None:
    assert [size(count) for count in ((1 << 30) - (1 << 20), 1 << 30, 3 << 29)] == ["1023 MiB", "1.0 GiB", "1.5 GiB"]
    assert (whole_number("9" * 19), whole_number("9" * 20), whole_number("-1")) == (int("9" * 19), None, None)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64", "arm64"), reason="other instruction sets")
def test_instruction_sets_of_this_processor_are_told() -> None:
    found = hardware.cpu_features()
    assert found == sorted(set(found))
    assert found


def core(efficiency: int, length: int = 48) -> bytes:
    return struct.pack("<IIBB", 0, length, 1, efficiency) + bytes(length - 10)


@pytest.mark.parametrize(
    ("records", "count"),
    [
        (core(0, 10) * 3, 3),
        (struct.pack("<II", 3, 0) + core(0) * 2, 2),
        (core(1) * 3 + struct.pack("<II", 1, 48) + bytes(40) + core(0), 3),
        (core(0) * 2 + core(0)[:9], 2),
        (bytes(9), 1),
    ],
)
def test_records_of_windows_are_read_to_their_end_whatever_they_say(records: bytes, count: int) -> None:
    assert cores_of_windows(records).count == count


class Kernel:
    """The part of Windows' own library that is asked: 16 GiB, of which 9 are free, and three cores."""

    records = core(1) * 2 + core(0)
    fails = False

    def GlobalMemoryStatusEx(self, status: Any) -> None:  # noqa: N802
        asked = status._obj
        assert asked.length == ctypes.sizeof(type(asked)), "Windows fills in no structure that does not say its size"
        asked.total, asked.free = 16 << 30, 9 << 30

    def GetLogicalProcessorInformationEx(self, kind: int, buffer: Any, size: Any) -> int:  # noqa: N802
        assert kind == 0, "cores alone"
        if buffer is None:
            size._obj.value = len(self.records)
            return 0
        assert size._obj.value == len(buffer) == len(self.records)
        ctypes.memmove(buffer, self.records, len(self.records))
        return int(not self.fails)


def test_windows_tells_its_memory_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert memory() == (16 << 30, 9 << 30)
    assert str(default_threads()) == "2 (one for each performance core)"
    kernel.fails = True
    assert default_threads().count == 7
