"""What commands print, line by line: plans and their bars, models, messages that wait, and how far long work is."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import click
import pytest

from chatbridge import MemoryPlan, ModelDescription, Plugins
from chatbridge.cli import progress, streams
from chatbridge.cli.model.inspect import _lines, _problem
from chatbridge.cli.model.plan import _bar, drawn
from chatbridge.cli.model.quantize import plan_lines
from chatbridge.cli.progress import ProgressBar
from chatbridge.cli.queue import describe
from chatbridge.model_files.description import AdapterDescription, Problem
from chatbridge.model_tools.planning.memory_plan import Change, DevicePlan, Part, gib
from chatbridge.plugins.packages import install_command
from chatbridge.store.queue import Entry

from .test_quantize import PLAN

MIB = 1 << 20


def bar(free: int | None, width: int, *parts: int, plain: bool = True) -> str:
    names: tuple[Part, ...] = ("weights", "cache", "working memory", "program")
    return click.unstyle(_bar(DevicePlan("cpu", "", free, dict(zip(names, parts, strict=False))), width, plain))


@pytest.mark.parametrize(
    ("free", "parts", "drawn_"),
    [
        (100, (30, 20), "#" * 12 + "=" * 8 + "." * 20),
        (100, (31, 20, 1), "#" * 13 + "=" * 8 + "." * 19),
        (100, (100,), "#" * 40),
        (50, (40, 60), "#" * 16 + "=" * 4 + "!" * 20),
        (50, (40, 20, 40), "#" * 16 + "=" * 4 + "!" * 4 + "!" * 16),
        (50, (50, 50), "#" * 20 + "!" * 20),
        (None, (25, 25, 25, 25), "#" * 10 + "=" * 10 + "-" * 10 + ":" * 10),
        (0, (10,), "!" * 40),
        (0, (), "." * 40),
        (None, (), "." * 40),
    ],
)
def test_a_bar_is_as_long_as_its_parts(free: int | None, parts: tuple[int, ...], drawn_: str) -> None:
    assert bar(free, 40, *parts) == drawn_
    signs = str.maketrans("#=-:!.", "█▓▒░╳·")
    assert bar(free, 40, *parts, plain=False) == drawn_.translate(signs)


def test_what_is_too_much_is_red_and_nothing_else() -> None:
    assert "\x1b[31m" not in _bar(DevicePlan("cpu", "", 10, {"weights": 10}), 40, True)
    assert "\x1b[31m" in _bar(DevicePlan("cpu", "", 10, {"weights": 11}), 40, True)


def plan(*devices: DevicePlan, conversations: int = 1, **more: object) -> MemoryPlan:
    return MemoryPlan("m", "b", "q", 2048, conversations, devices, **more)  # type: ignore[arg-type]


def told(made: MemoryPlan, columns: int = 90) -> list[str]:
    return [click.unstyle(line) for line in drawn(made, columns, plain=True)]


def test_a_device_is_told_with_what_it_holds_and_what_loading_takes() -> None:
    some = DevicePlan("cuda:0", "GPU", 4 * MIB, {"weights": 2 * MIB}, loading=2 * MIB, holds="all")
    main = DevicePlan("cpu", "CPU", None, {"program": MIB}, loading=3 * MIB)
    found = told(plan(some, main, DevicePlan("x", "", None, {}), notes=("a note",), conversations=2))
    assert found[1:4] == [
        "b, q; 2 conversations of 2,048 tokens",
        "# weights, = cache, - working memory, : program",
        "",
    ]
    assert (found[4], found[6]) == ("cuda:0 GPU: all", "2.0 MiB of 4.0 MiB: 2.0 MiB weights")
    assert (found[8], found[10]) == ("main memory", "1.0 MiB: 1.0 MiB program; 3.0 MiB while loading")
    assert found[12:] == [
        "x", "." * 90, "0.0 MiB", "", "a note", "✓ it fits, if main memory has room for its part"
    ]  # fmt: skip
    assert told(plan(some))[1] == "b, q; 1 conversation of 2,048 tokens"
    assert told(plan(some))[-1] == "✓ it fits"
    assert [max(map(len, told(plan(some), columns))) for columns in (1, 24, 25)] == [24, 24, 25]
    assert [max(map(len, told(plan(some), columns))) for columns in (99, 100, 101)] == [99, 100, 100]


def test_changes_in_vain_are_told_up_to_six() -> None:
    large = DevicePlan("cuda:0", "", MIB, {"weights": 2 * MIB})
    vain = Change("quantization: a", plan(large))
    short = "cuda:0 would need 2.0 MiB, and 1.0 MiB are free"
    found = told(plan(large, tried=(vain,) * 6))
    assert found[-8:-7] == [f"✗ it does not fit: {short}"]
    assert found[-7:-1] == [f"  · quantization: a: {short}"] * 6
    assert found[-1] == "  → take a smaller model, or free memory"
    found = told(plan(large, tried=((vain,) * 7 + (Change("quantization: b", plan()),))))
    assert found[-2:] == ["  · and 1 more in vain", "  → quantization: b would fit"]
    assert found.count(f"  · quantization: a: {short}") == 6


def test_bytes_are_told_in_gib_from_one_on() -> None:
    assert [gib(size) for size in (0, (1 << 30) - MIB, 1 << 30, 3 << 29)] == [
        "0.0 MiB", "1023.0 MiB", "1.0 GiB", "1.5 GiB"
    ]  # fmt: skip


# --- models ----------------------------------------------------------------------------------------------------------


def facts(**facts: object) -> dict[str, str]:
    found = ModelDescription(Path("m"), **facts)  # type: ignore[arg-type]
    return dict(_lines(found, Plugins([], discover=False)))


def test_little_that_is_known_of_a_model_is_little_that_is_told() -> None:
    assert facts(layout="") == {"family": "not known", "backend": "none runs it as it is"}
    assert facts(layout="x", family="LLaMA", architecture="llama", variant="Alpaca")["family"] == "LLaMA, Alpaca"
    assert facts(layout="x", family="Guide", architecture="llama")["family"] == "Guide (llama)"
    assert facts(layout="x", format="GGUF")["form"] == "GGUF"
    assert facts(layout="x", format="GGUF", nbytes=MIB - 1)["form"] == "GGUF, 1,048,575 bytes"
    assert facts(layout="x", format="GGUF", nbytes=MIB)["form"] == "GGUF, 1 MiB"
    for number, words in (
        (999_999, "999,999"), (10**6, "1.0 M"), (10**9 - 10**8, "900.0 M"), (10**9, "1.00 B"), (13 * 10**8, "1.30 B")
    ):  # fmt: skip
        assert facts(layout="x", parameters=number)["parameters"] == words


def test_sizes_and_vocabulary_are_told_as_far_as_they_are_known() -> None:
    assert facts(layout="x", layers=2, heads=4)["sizes"] == "2 layers, 4 heads"
    assert facts(layout="x", vocabulary=5)["vocabulary"] == "5 rows in the weights"
    assert facts(layout="x", tokens=5, tokenizer="t")["vocabulary"] == "rows not told, 5 ids in the tokenizer (t)"
    assert facts(layout="x", backends=["numpy"])["chat template"] == "none of its own; fitting preset: none known"
    assert facts(layout="x", backends=["numpy"], chat_template=True, preset="p")["chat template"] == (
        "its own; fitting preset: p"
    )
    assert "chat template" not in facts(layout="x")
    about = AdapterDescription("LORA", (4, 8), 0.5, ("q",), 1200, 0, 0, 7, "")
    assert facts(layout="x", adapter=about, width=8) == {
        "family": "not known",
        "sizes": "its base: width 8",
        "adapter": "LORA, rank 4 and 8, alpha 0.5, 1,200 tensors, of q; it replaces a vocabulary with 7 rows; "
        "trained on a model that it does not name",
        "backend": "none runs it as it is",
    }
    about = AdapterDescription("LORA", (), 0, (), 0, 0, 0, 0, "base")
    found = facts(layout="x", adapter=about)
    assert found["adapter"] == "LORA, rank not told, alpha 0, 0 tensors, of no layer; trained on base"
    assert "sizes" not in found


def test_a_backend_that_is_not_there_is_told_with_its_package() -> None:
    assert facts(layout="x", backends=["rwkv", "acme"])["backend"] == (
        f"rwkv (not installed: {install_command('backend', 'rwkv')}), acme"
    )


def test_a_fault_has_its_mark_and_its_remedy() -> None:
    assert click.unstyle(_problem(Problem("error", "m\n", "r\x1b"))).startswith("✗ m")
    assert click.unstyle(_problem(Problem("warning", "m", "r"))) == "! m\n    → r"
    assert click.unstyle(_problem(Problem("note", "m"))) == "· m"


def test_names_are_told_up_to_three_and_bytes_below_a_mebibyte() -> None:
    made = {**PLAN, "bytes": MIB - 1, "source_bytes": MIB, "without_importance": ["a", "b", "c"], "imatrix": "i"}
    found = [click.unstyle("".join(line)) for line in plan_lines(made)]
    assert found[0] == "q4_k_m: 1,048,575 bytes, 100% of the source's 1 MiB"
    assert found[-1] == "· i has no weights for a, b, c"
    found = [click.unstyle("".join(line)) for line in plan_lines({**made, "without_importance": [*"abcd"]})]
    assert found[-1] == "· i has no weights for a, b, c and 1 more"


# --- messages, and long work -----------------------------------------------------------------------------------------


def test_a_message_that_waits_is_told_in_a_line_or_more() -> None:
    created = time.mktime((2026, 11, 30, 12, 5, 0, 0, 0, -1))
    entry = Entry("in-7", "bot", "room", "dead", 1, "", "", created)
    assert click.unstyle(describe(entry)) == "in-7  dead  bot/room  2026-11-30 12:05  1 try"
    assert "\x1b[31mdead" in describe(entry)
    entry = Entry("in-7", "bot", "room", "new", 2, "why\n", "x" * 1001, created)
    first, error, text = click.unstyle(describe(entry)).split("\n")
    assert first.endswith("  2 tries")
    assert (error.startswith("  error: why"), text.startswith("  " + "x" * 90), len(text) < 110) == (True, True, True)
    assert "\x1b[31m" not in describe(entry)


def test_without_a_terminal_work_is_told_after_each_pause(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressBar() as shown:
        shown.begin("copying", 8 * MIB)
        for seconds, size in ((9.9, MIB), (0.1, MIB), (9.9, MIB), (10.0, MIB)):
            now[0] += seconds
            shown.advance(size)
        shown.begin("checking", 0)
        now[0] += 9.9
        shown.advance(MIB)
        now[0] += 0.1
        shown.advance(0)
    assert capsys.readouterr().err.splitlines() == [
        "copying: 2 MiB, 25 %", "copying: 4 MiB, 50 %", "checking: 1 MiB"
    ]  # fmt: skip


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name", "code", "words"),
    [
        (errno.EPIPE, None, 0, ""),
        (errno.EPIPE, "f", 1, f"f: {os.strerror(errno.EPIPE)}"),
        (errno.EBADF, None, 1, "the output can't be written: it is closed"),
        (errno.ENOSPC, None, 1, f"the output can't be written: {os.strerror(errno.ENOSPC)}"),
        (errno.EACCES, None, 1, os.strerror(errno.EACCES)),
        (errno.EACCES, b"\xff", 1, f"\\udcff: {os.strerror(errno.EACCES)}"),
    ],
)
def test_an_error_of_the_system_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], number: int, name: str | None, code: int, words: str
) -> None:
    assert streams.exit_code_of(OSError(number, os.strerror(number), name)) == code
    assert capsys.readouterr().err == (f"chatbridge: {words}\n" if words else "")
    assert streams.exit_code_of(OSError("odd")) == 1
    assert capsys.readouterr().err == "chatbridge: odd\n"
