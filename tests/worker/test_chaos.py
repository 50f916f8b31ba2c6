"""A small sample of the chaos under many rooms: the program ends well only where nobody has lost anything."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.skipif(sys.platform == "win32", reason="signals end processes on POSIX systems")
async def test_no_room_loses_more_than_its_own_culprit() -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, "--minutes", "1.5", "--blows", "3", "--every", "0.2-1"),
        *("--rooms", "6", "--seed", "3", "--only", "SIGKILL,SIGSEGV"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await program.communicate()
    assert program.returncode == 0, said.decode()
    assert "breaches: 0" in said.decode()
    assert said.decode().count("an answer went on after") == 3 + 1, "each blow, and the report"
