"""Strategy strings: taken and refused as the package does, divided as it divides, with errors to the character."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from chatbridge_rwkv import package
from chatbridge_rwkv.checkpoint import read
from chatbridge_rwkv.memory import slots_for
from chatbridge_rwkv.strategy import Slot, StrategyError, normal, parse, plan, spans
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import ConfigError, Plugins
from chatbridge.config import load

from .conftest import V4, recorded, sizes, there

THEIRS = re.compile(
    r"^(?:(?:^|->) *(?:cuda(?::[\d]+)?|cpu|mps|dml) (?:fp(?:16|32)|bf16)(?:i8|i4|i3)?(?: \*[\d]+\+?)? *)+$"
)
"""What the package accepts (STRATEGY_REGEX of rwkv 0.8.32)."""

OURS_ALONE = ("ignores it", "only one part can stream", "a part for no layer", "a device is missing")
"""What the package accepts, and then ignores or fails over."""

RECORD = recorded("reference_v4.json")
TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

parts = st.builds(
    "{} {}{}".format,
    st.sampled_from(["cpu", "cuda", "cuda:1", "mps", "dml"]),
    st.sampled_from(["fp32", "fp16", "bf16", "fp16i8", "fp32i8", "bf16i8", "fp16i4"]),
    st.sampled_from(["", "", " *3", " *0", " *12+", " *0+", " *40", "  "]),
)
written = st.builds(str.join, st.sampled_from([" -> ", "->", "-> "]), st.lists(parts, min_size=1, max_size=4))


@st.composite
def misspelt(draw: st.DrawFn) -> str:
    text = draw(written)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        piece = draw(st.sampled_from([" ", "*", "+", "-", ">", "->", "0", "cuda", "i8", "i4", "f", ":", "gpu", "  "]))
        text = text[:at] + piece + text[at + draw(st.integers(0, 1)) :]
    return text


def complaint(text: str) -> StrategyError | None:
    try:
        parse(text)
    except StrategyError as error:
        return error
    return None


@given(misspelt())
@settings(deadline=None)
def test_what_the_package_takes_is_taken_and_nothing_else(text: str) -> None:
    error = complaint(text)
    if error is None:
        assert THEIRS.match(text) is not None
    else:
        assert 0 <= error.at <= len(text)
        assert THEIRS.match(text) is None or any(why in str(error) for why in OURS_ALONE)


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("cpu", 3, "a type is missing after cpu"),
        ("cpu fp8", 4, "'fp8' is no type"),
        ("gpu fp16", 0, "'gpu' is no device"),
        ("cpu fp32 * 3", 9, "a number of layers is written as"),
        ("cuda fp16i8 *20 -> gpu fp32", 19, "'gpu' is no device"),
        ("cuda fp16i8 *20 ->", 18, "a device is missing"),
        ("", 0, "a device is missing"),
        ("cuda  fp16", 5, "write one blank"),
        ("cuda fp16i4", 9, "i4 and then ignores it"),
        ("cuda fp16 *2+ -> cpu fp32 *3+", 26, "only one part can stream"),
        ("cpu fp32 *0 -> cpu bf16", 9, "a part for no layer"),
        ("cpu fp32 and more", 9, "a number of layers is written as"),
    ],
)
def test_errors_point_at_the_character(text: str, at: int, why: str) -> None:
    with pytest.raises(StrategyError, match=re.escape(why)) as raised:
        parse(text)
    assert raised.value.at == at
    line, shown, pointer = str(raised.value).split("\n")
    assert line.startswith(f"character {at + 1}: ")
    assert shown.removeprefix("    ") == text
    assert pointer == " " * (4 + at) + "^"


def test_a_bad_strategy_is_told_where_bots_yaml_is_read(tmp_path: Path) -> None:
    file = tmp_path / "bots.yaml"
    file.write_text("models:\n  raven: {backend: rwkv, path: raven.pth, strategy: cuda fp16 *20 -> gpu fp32}\n")
    with pytest.raises(ConfigError) as raised:
        load(file, Plugins())
    assert "bots.yaml:2:53: " in str(raised.value)
    assert "character 18: 'gpu' is no device" in str(raised.value)


@pytest.mark.parametrize("strategy", [name for name in RECORD if name.startswith("cpu ")])
def test_recorded_plans(strategy: str) -> None:
    expected = []
    for line in RECORD[strategy]["per_layer"]:
        device, kind, weights, stream = line.split()
        expected.append(Slot(device, TYPES[kind], weights == "uint8", stream == "stream=True"))
    assert list(plan(parse(strategy), len(expected) - 1)) == expected


def test_plans_are_the_packages_own() -> None:
    rng = random.Random(5)
    module = package.module(package.Switches(v7=False, jit=False))
    done = 0
    while done < 12:
        some = [
            f"cpu {rng.choice(['fp32', 'bf16', 'fp32i8'])}"
            + rng.choice(["", f" *{rng.randint(1, 9)}", f" *{rng.randint(0, 6)}+"])
            for _ in range(rng.randint(1, 4))
        ]
        try:
            mine = plan(parsed := parse(rng.choice([" -> ", "->"]).join(some)), sizes(V4).layers)
        except StrategyError:
            continue
        with package.quiet():
            model = module.RWKV(str(V4), "->".join(some), verbose=False)
        assert model.args.strategy_string == normal(parsed)
        theirs = [
            Slot(slot.device, TYPES[str(slot.atype).removeprefix("torch.")], "uint8" in str(slot.wtype), slot.stream)
            for slot in model.strategy
        ]
        assert list(mine) == theirs, some
        done += 1


def test_neighbours_are_told_together() -> None:
    slots = plan(parse("cuda fp16i8 *20 -> cpu fp32"), 32)
    assert [(start, end, slot.device) for start, end, slot in spans(slots)] == [(0, 20, "cuda"), (20, 33, "cpu")]


@pytest.mark.parametrize(
    ("strategy", "at"),
    [
        ("cpu fp32 *10 -> cuda fp16", 17),
        ("cuda fp16 -> cpu fp32 *10", 1),
        ("cpu fp32 *3 -> cuda fp16 *6 -> cpu bf16", 32),
    ],
)
def test_a_part_that_would_get_no_layer_is_refused(strategy: str, at: int) -> None:
    checkpoint = read(there(V4))
    assert checkpoint.layers == 8
    with pytest.raises(StrategyError, match=rf"character {at}: this part would have no effect: the others take all"):
        slots_for(checkpoint, strategy)
    assert slots_for(checkpoint, "cpu fp32 *1 -> cpu bf16")[-1].type == "bf16"
