"""CPU time of `chatbridge --help` beside that of `llm --help` (simonw/llm), in alternation in the same run.

    python benchmarks/help.py [RUNS]

Makes a virtual environment for llm and installs it from the package index. Children's user and system time is
counted, so that a busy machine disturbs little. POSIX only.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path


def cpu_seconds(*command: str) -> float:
    """User and system time of one run, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(runs: int) -> None:
    ours = Path(sys.executable).with_name("chatbridge")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        theirs = Path(folder) / "bin" / "llm"
        pip = (str(theirs.with_name("python")), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "llm")
        subprocess.run(pip, check=True)
        version = subprocess.run([theirs, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        times: dict[Path, list[float]] = {ours: [], theirs: []}
        for program in times:
            cpu_seconds(str(program), "--help")  # once to write the bytecode
        for _ in range(runs):
            for program, measured in times.items():
                measured.append(cpu_seconds(str(program), "--help"))
    print(f"| program | median CPU ms | min | max | ({runs} runs) |\n|---|---|---|---|---|")
    for program, name in ((ours, "chatbridge --help"), (theirs, f"llm --help ({version})")):
        measured = [1000 * seconds for seconds in times[program]]
        print(f"| {name} | {statistics.median(measured):.0f} | {min(measured):.0f} | {max(measured):.0f} | |")
    share = statistics.median(times[ours]) / statistics.median(times[theirs])
    print(f"\nchatbridge takes {share:.3f} of llm's CPU time (at most 0.2 is wanted)")
    sys.exit(share > 0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
