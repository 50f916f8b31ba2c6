"""A machine that is written down is read, or refused in words; this one is asked without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import Card, Machine, parse_devices, this_machine
from chatbridge.model_tools.planning.machine import MAX_BYTES, MAX_CARDS

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("8xA100-40G", Machine(0, (Card("A100", 40 * GIB),) * 8)),
        ("cpu-16G", Machine(16 * GIB)),
        ("2x3090-24G,cpu-64G", Machine(64 * GIB, (Card("3090", 24 * GIB),) * 2)),
        ("CPU-512MiB, RTX 2080 Ti-11GB", Machine(512 << 20, (Card("RTX 2080 Ti", 11 * GIB),))),
        ("A100-SXM4-40g , 2 × V100-32Gib", Machine(0, (Card("A100-SXM4", 40 * GIB), *(Card("V100", 32 * GIB),) * 2))),
        ("cpu-1.5T", Machine(3 << 39)),
        ("64xA-1G", Machine(0, (Card("A", GIB),) * 64)),
        ("40xA-1G,24xB-1G", Machine(0, (*(Card("A", GIB),) * 40, *(Card("B", GIB),) * 24))),
    ],
)  # fmt: skip
def test_a_machine_is_written_in_a_line(text: str, machine: Machine) -> None:
    assert parse_devices(text) == machine


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no device; write COUNTxNAME-MEMORY, as 8xA100-40G"),
        ("0xA100-40G", "no card at all"),
        ("0xA100", "'0xA100' is no device"),
        ("A100", "'A100' is no device"),
        ("-40G", "'-40G' is no device"),
        ("99999999xA-1G", "99,999,999 cards; a machine has 64 of them at most"),
        ("60xA-1G,60xB-1G", "120 cards"),
        ("65xA-1G", "65 cards"),
        ("8xA100-0G", "a device without memory"),
        ("8xA100-0.000000G", "a device without memory"),
        ("A-999999999T", "no device has so much memory; the most is 1,024 TiB"),
        ("2xcpu-16G", "there is one of it"),
        ("cpu-16G,cpu-16G", "there is one of it"),
        ("8xA100-40G,,cpu-1G", "'' is no device"),
        ("８xA100-40G", "is no device"),
        ("\x1b[2J-40G", r"'\x1b[2J-40G' is no device"),
        ("x" * 10_000, "is no device"),
        ("8xA100-40Gx", "is no device"),
        ("A-1e9G", "is no device"),
    ],
)
def test_what_is_no_machine_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (what it says is looked at below)
        parse_devices(text)
    assert said in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 300


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    try:
        machine = parse_devices(text)
    except ValueError:
        return
    assert len(machine.cards) <= MAX_CARDS
    assert all(0 < card.free <= MAX_BYTES for card in machine.cards)
    assert machine.main or machine.cards


def test_devices_are_found_by_the_names_that_options_have() -> None:
    machine = parse_devices("A-2G,B-4G,cpu-8G")
    assert [machine.free(name) for name in ("cuda", "cuda:0", "cuda:1", "cuda:2", "cpu", "mps")] == [
        2 * GIB, 2 * GIB, 4 * GIB, 0, 8 * GIB, None,
    ]  # fmt: skip
    assert [machine.name(name) for name in ("cuda", "cuda:1", "cuda:2", "cpu")] == ["A", "B", "", "main memory"]
    assert Machine(0).free("cpu") is None


def test_this_machine_is_asked_without_torch() -> None:
    assert this_machine().main > 0 or sys.platform == "darwin"
    program = "import sys, chatbridge; chatbridge.this_machine(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def stand_in(tool: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.write_text(script, encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.delitem(sys.modules, "torch", raising=False)


SMI = """#!/bin/sh
echo "0, GPU-aaaa-1, 81000, NVIDIA A100-SXM4-80GB"
echo "1, GPU-bbbb-2, 24000, NVIDIA GeForce RTX 3090"
echo "2, GPU-cccc-3, [N/A], something odd"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script of the shell")
@pytest.mark.parametrize(
    ("visible", "frees"),
    [(None, [81000, 24000]), ("1,0", [24000, 81000]), ("GPU-bbbb", [24000]), ("0,7,1", [81000]), ("", []), ("-1", [])],
)
def test_cards_are_those_that_programs_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, frees: list[int]
) -> None:
    stand_in(tmp_path / "nvidia-smi", SMI, monkeypatch)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.free >> 20 for card in this_machine().cards] == frees


ROCM = """#!/bin/sh
echo "device,VRAM Total Memory (B),VRAM Total Used Memory (B)"
echo "card0,17163091968,1073741824"
echo "card1,N/A,N/A"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script of the shell")
def test_cards_of_amd_are_seen_where_there_is_none_of_nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "rocm-smi", ROCM, monkeypatch)
    assert this_machine().cards == (Card("AMD card0", 17163091968 - GIB),)
