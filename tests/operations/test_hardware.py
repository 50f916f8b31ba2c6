"""What the machine is said to be, also in a container that may use only a part of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from chatbridge import free_memory, limit_blas_threads, usable_cores
from chatbridge.operations import hardware

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files of Linux")

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def system(root: Path, *, group: str = "/", **files: str) -> Path:
    """A system's files: 16 GiB, of which 8 are free, and these files of control groups, "/" written as "__"."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {16 * MIB} kB\nMemFree: 1 kB\nMemAvailable: {8 * MIB} kB\n")
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_without_limits_all_is_there(tmp_path: Path) -> None:
    root = system(tmp_path, memory_max="max", cpu_max="max 100000")
    assert hardware.memory(root) == (16 * GIB, 8 * GIB)
    assert hardware.usable_cores(root) == hardware.usable_cores()


def test_a_containers_limit_counts_and_cached_files_are_free(tmp_path: Path) -> None:
    stat = f"anon 5\ninactive_file {GIB}\n"
    root = system(tmp_path, memory_max=str(4 * GIB), memory_current=str(3 * GIB), memory_stat=stat)
    assert hardware.memory(root) == (4 * GIB, 2 * GIB)


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        group="/a/b",
        a__memory_max=str(2 * GIB),
        a__memory_current=str(GIB),
        a__b__memory_max="max",
        a__cpu_max="50000 100000",
    )
    assert hardware.memory(root) == (2 * GIB, GIB)
    assert hardware.usable_cores(root) == 1


def test_a_full_container_has_nothing_free(tmp_path: Path) -> None:
    root = system(tmp_path, memory_max=str(GIB), memory_current=str(GIB + KIB))
    assert hardware.memory(root) == (GIB, 0)


def test_what_cannot_be_read_is_no_limit(tmp_path: Path) -> None:
    root = system(tmp_path, memory_max="nonsense", cpu_max="", memory_stat="\n")
    assert hardware.memory(root) == (16 * GIB, 8 * GIB)
    assert hardware.memory(system(tmp_path / "other", memory_max=str(GIB), memory_stat="\n")) == (GIB, GIB)


def test_files_that_can_be_written_and_folders(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert hardware.why_not_writable(tmp_path / "there") == ""
    assert hardware.why_not_writable(tmp_path / "new" / "file") == ""
    assert hardware.why_not_writable(tmp_path) == f"{tmp_path} is a folder"
    assert hardware.why_not_writable(tmp_path / "there" / "file") == f"nothing can be made in {tmp_path / 'there'}"


def test_this_machine_has_something() -> None:
    assert free_memory() > 0
    assert usable_cores() >= 1


def test_threads_are_limited_only_before_a_library_has_read_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "7")
    limit_blas_threads(3, before=("no_such_module", "sys"))
    assert {os.environ[name] for name in names} == {"7"}
    limit_blas_threads(3, before=("no_such_module",))
    assert {os.environ[name] for name in names} == {"3"}
