"""How many threads a model gets on machines of several kinds, by their recorded files, and how its threads wait."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from chatbridge import default_threads
from chatbridge.operations import threads
from chatbridge.operations.threads import cores_of_windows, thread_waiting, waiting_variables

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files of Linux")

CPU = "sys/devices/system/cpu"


def machine(root: Path, monkeypatch: pytest.MonkeyPatch, allowed: Sequence[int], files: Mapping[str, str]) -> Path:
    """A system with these files, on which this process may use the `allowed` threads of the processor."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set() if pid else set(allowed))
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def siblings(lists: Mapping[int, str]) -> dict[str, str]:
    return {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": text for cpu, text in lists.items()}


RYZEN = siblings({cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)})
"""A Ryzen 3 5300G: four cores of two threads each."""

ALDER_LAKE = {
    **siblings({cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" if cpu < 12 else str(cpu) for cpu in range(16)}),
    **{f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "4900000" if cpu < 12 else "3600000" for cpu in range(16)},
}
"""A Core i5-12600K: six large cores of two threads each, four small ones."""

ROCK = {
    **siblings({cpu: str(cpu) for cpu in range(8)}),
    **{f"{CPU}/cpu{cpu}/cpu_capacity": "530" if cpu < 4 else "1024" for cpu in range(8)},
    **{f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "1800000" if cpu < 4 else "2256000" for cpu in range(8)},
}
"""A Rockchip RK3588: four Cortex-A55, four Cortex-A76."""

FAVOURED = {f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "4900000" if cpu in (2, 3) else "4700000" for cpu in range(4)}
"""Two cores of four may be clocked a little higher."""

UNTOLD = {f"{CPU}/cpu{cpu}/cpu_capacity": "0" for cpu in range(4)}
"""A system that tells nothing of what its cores do."""


def clocked(*speeds: int) -> dict[str, str]:
    return {f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": str(speed) for cpu, speed in enumerate(speeds)}


@linux
@pytest.mark.parametrize(
    ("files", "allowed", "count", "why"),
    [
        (RYZEN, range(8), 4, "one for each core, which has 2 threads"),
        (RYZEN, (0, 4), 1, "one for each core, which has 2 threads"),
        (RYZEN, (0, 1, 2), 3, "one for each core"),
        (ALDER_LAKE, range(16), 6, "one for each large core; 4 threads are on small ones"),
        ({**ALDER_LAKE, "sys/devices/cpu_core/cpus": "0-11"}, range(2, 16), 5, "4 threads are on small ones"),
        ({**ALDER_LAKE, "sys/devices/cpu_core/cpus": "0-11"}, range(12, 16), 4, "one for each core"),
        (ROCK, range(8), 4, "one for each large core; 4 threads are on small ones"),
        (ROCK, range(4), 4, "one for each core"),
        (FAVOURED, range(4), 4, "one for each core"),
        ({}, range(3), 3, "one for each core"),
        (clocked(1000, 1000, 800, 800), range(4), 4, "one for each core"),
        (clocked(1000, 1000, 799, 799), range(4), 2, "one for each large core; 2 threads are on small ones"),
        ({**clocked(9, 9, 1, 1), **UNTOLD}, range(4), 2, "one for each large core; 2 threads are on small ones"),
        (clocked(9, 9, 1), range(4), 4, "one for each core"),
        ({**RYZEN, "sys/fs/cgroup/cpu.max": "400000 100000"}, range(8), 4, "one for each core, which has 2 threads"),
        ({**RYZEN, "sys/fs/cgroup/cpu.max": "350000 100000"}, range(8), 3, "a control group allows 3.5 cores"),
    ],
)
def test_each_large_core_gets_one_thread(
    files: Mapping[str, str],
    allowed: Sequence[int],
    count: int,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = default_threads(machine(tmp_path, monkeypatch, allowed, files))
    assert found.count == count
    assert found.why.endswith(why)


@linux
@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "800000 100000"}, 4),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_a_containers_quota_bounds_the_threads(
    files: Mapping[str, str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_threads(machine(tmp_path, monkeypatch, range(8), {**RYZEN, **files})).count == count


def test_on_windows_the_performance_cores_count() -> None:
    def core(efficiency: int) -> bytes:
        return struct.pack("<IIBB", 0, 48, 1, efficiency) + bytes(38)

    assert cores_of_windows(core(0) * 4).count == 4
    found = cores_of_windows(core(1) * 6 + core(0) * 4 + struct.pack("<II", 3, 8))
    assert (found.count, found.why) == (6, "one for each performance core")
    assert cores_of_windows(b"").count == 1


def test_this_machine_has_a_thread_for_a_model() -> None:
    assert default_threads().count >= 1


def test_waiting_threads_sleep_unless_a_user_says_how_they_wait() -> None:
    chosen = waiting_variables({"PATH": "/bin"})
    assert chosen["OMP_WAIT_POLICY"] == "passive"
    assert {"GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_THREAD_TIMEOUT"} < set(chosen)
    # Who asks for one of OpenMP's is not to be overruled by another of them.
    assert set(waiting_variables({"omp_wait_policy": "active"})) == {"OPENBLAS_THREAD_TIMEOUT"}


def test_a_backend_may_name_further_variables_which_a_user_overrules() -> None:
    own = {"ONE": "1", "TWO": "2"}
    assert set(waiting_variables({"TWO": "3"}, own)) - set(waiting_variables({})) == {"ONE"}


def test_it_is_told_which_variables_decide_how_threads_wait() -> None:
    assert thread_waiting({}) == "as their library chooses"
    assert thread_waiting({"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "passive"}) == (
        "OMP_WAIT_POLICY=passive, KMP_BLOCKTIME=0"
    )


def test_a_list_of_threads_is_read() -> None:
    assert threads._listed("0-3,8", range(10)) == {0, 1, 2, 3, 8}
    assert threads._listed("", range(10)) == set()


@linux
@pytest.mark.parametrize("text", ["\0\xff", "²", "0-x", "1" * 400 + " 1", "1" * 5000 + " 1", "- -"])
def test_files_of_a_system_that_say_nonsense_change_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a sandbox makes them up."""
    names = ("cpu0/cpu_capacity", "cpu1/cpu_capacity", "cpu0/cpufreq/cpuinfo_max_freq")
    files = {"sys/devices/cpu_core/cpus": text, "sys/fs/cgroup/cpu.max": text, "proc/self/cgroup": text}
    files |= {f"{CPU}/{name}": text for name in names}
    assert default_threads(machine(tmp_path, monkeypatch, range(2), files)).count == 2
