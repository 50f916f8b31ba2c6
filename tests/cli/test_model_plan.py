"""`chatbridge model plan`: what it draws at any width, what it prints for programs, how it ends, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbridge import Machine, MemoryPlan, ModelLoadError, Plugins, device_plan, guide_path, parse_devices
from chatbridge.cli import main
from chatbridge.cli.model.plan import drawn
from chatbridge.model_tools.planning.memory_plan import Change, Part
from chatbridge.model_tools.planning.planner import Wish, plan_place
from chatbridge.testing import fixtures

Install = Callable[..., Path]
Plan = Callable[..., tuple[int, str, str]]

ACME = """
from chatbridge import BackendType, ConfigPath, MemoryPlan, Options, device_plan, hookimpl

class AcmeOptions(Options):
    path: ConfigPath

async def connect(options): ...

def plan(options, machine, request):
    {plan}

@hookimpl
def register_backends():
    return [BackendType("acme", AcmeOptions, "", connect=connect, runs=("meta",), plan={given})]
"""
GOOD = """share = device_plan(machine, "cpu", {"weights": 3 << 30})
    return MemoryPlan(str(options.path), "acme", request.quantization, 10, request.conversations, (share,))"""


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """How `model plan` ends, what it prints, and what it says of errors."""
    monkeypatch.setenv("COLUMNS", "80")

    def plan(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(("model", "plan", *map(str, arguments)))
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return plan


def acme(install: Install, body: str = GOOD, given: str = "plan") -> Path:
    install("acme", ACME.replace("{plan}", body).replace("{given}", given))
    return fixtures() / "llama" / "meta-1shard"


def test_a_model_that_fits_is_told_device_by_device(plan: Plan) -> None:
    code, told, errors = plan("llama-7b", "--backend", "numpy", "--devices", "cpu-64G", "--conversations", 2)
    assert (code, errors) == (0, "")
    lines = told.splitlines()
    assert lines[:3] == [
        "llama-7b",
        "numpy, float32; 2 conversations of 2,048 tokens",
        "█ weights, ▓ cache, ▒ working memory, ░ program",
    ]
    assert "main memory: layers 1 to 32" in lines
    assert re.search(r"^█{32}▓{5}·{43}$", told, re.MULTILINE)
    assert "GiB of 64.0 GiB: 25.1 GiB weights, 4.0 GiB cache, " in told
    assert lines[-1] == "✓ it fits"


def test_what_does_not_fit_ends_with_1_and_what_would(plan: Plan) -> None:
    code, told, _ = plan("llama-7b", "--backend", "numpy", "--devices", "cpu-30G", "--conversations", 8)
    assert code == 1
    assert "╳" in told
    assert "✗ it does not fit: it needs 41.4 GiB of main memory, and 30.0 GiB are free" in told
    assert "  · 4 conversations at once: it needs " in told
    assert told.splitlines()[-1] == "  → 2 conversations at once would fit"
    code, told, _ = plan("llama-7b", "--backend", "numpy", "--devices", "cpu-2G")
    assert code == 1
    assert "  → use backend: llama_cpp, which keeps weights quantised" in told


@pytest.mark.parametrize("name", ["LLaMA 7B", "llama_7b", "LLAMA7B", "meta/LLaMA-7b"])
def test_names_are_read_however_they_are_written(plan: Plan, name: str) -> None:
    assert plan(name, "--backend", "numpy", "--devices", "cpu-64G")[1].startswith("llama-7b\n")


def test_cards_that_were_named_are_never_left_out_in_silence(plan: Plan) -> None:
    _, told, _ = plan("llama-7b", "--backend", "numpy", "--devices", "2xA100-40G,cpu-64G")
    assert "the cards that --devices names hold nothing of it: the numpy backend uses" in told
    machine = parse_devices("A100-40G,cpu-64G")
    numpy_alone = {name: kind for name, kind in Plugins().backends.items() if name == "numpy"}
    with pytest.raises(ModelLoadError, match=r"needs the backend .*llama_cpp \(\S*pip install \S*plugins/llama_cpp\)"):
        plan_place("llama-7b", numpy_alone, machine, Wish(devices=True))
    assert plan_place("llama-7b", numpy_alone, machine, Wish()).backend == "numpy"


def test_files_are_planned_by_what_runs_them(plan: Plan) -> None:
    code, told, _ = plan(guide_path(), "--json", "--context", 64, "--backend", "numpy", "--devices", "cpu-1G")
    found = json.loads(told)
    assert code == 0
    assert (found["model"], found["backend"], found["context"]) == (str(guide_path()), "numpy", 64)
    assert (found["fits"], found["suggestions"], len(found["devices"])) == (True, [], 1)
    assert found["devices"][0]["free"] == 1 << 30
    assert plan(guide_path(), "--backend", "numpy")[0] == 0  # on this machine


def test_a_backend_of_somebody_elses_plans_too(plan: Plan, install: Install) -> None:
    model = acme(install)
    code, told, _ = plan(model, "--devices", "cpu-4G", "--quant", "q7", "--conversations", 5, "--json")
    assert code == 0
    assert json.loads(told) | {"backend": "acme", "quantization": "q7", "conversations": 5} == json.loads(told)
    assert plan(model, "--devices", "cpu-2G")[0] == 1


def test_one_that_tells_no_plan_is_named(plan: Plan, install: Install) -> None:
    model = acme(install, given="None")
    assert plan(model) == (1, "", f"chatbridge: {model}: the backend acme tells no plan\n")


def test_one_whose_plan_fails_is_named(plan: Plan, install: Install) -> None:
    model = acme(install, body="raise ZeroDivisionError('no bytes')")
    assert plan(model) == (1, "", "chatbridge: backend acme: its plan failed: ZeroDivisionError: no bytes\n")


def test_lengths_of_a_backend_that_has_none_are_refused(plan: Plan, install: Install) -> None:
    model = acme(install)
    assert plan(model, "--context", 64)[2].endswith(
        "the backend acme has no key context_length, so it can't be planned\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lama-7b"], "no model of that name is known here; did you mean 'llama-7b'?"),
        (["nothing-like-it"], "names are such as chatglm-6b, glm-130b"),
        (["\0"], "no model of that name"),
        ([fixtures() / "llama" / "alpaca-lora"], "this is an adapter and no model; plan the model that it is for"),
        ([fixtures() / "llama" / "meta-1shard"], "nothing runs it as it is"),
        (["llama-7b", "--backend", "no-such"], "the backend no-such is not installed"),
        (["llama-7b", "--backend", "numpy", "--quant", "q9"], "'q9': the numpy backend has weights in float32 alone"),
        (["chatglm-6b", "--backend", "numpy"], "not known as a model of the numpy backend"),
        (["llama-7b", "--backend", "numpy", "--devices", "0xA100"], "'0xA100' is no device"),
        (["llama-7b", "--backend", "numpy", "--devices", "A100--40G"], "write COUNTxNAME-MEMORY, as 8xA100-40G"),
        (["llama-7b", "--backend", "numpy", "--devices", "A100 -40G"], "'A100 -40G' is no device"),
        (["llama-7b", "--backend", "numpy", "--devices", "A100-40G-"], "'A100-40G-' is no device"),
        (["LLaMa 7"], "did you mean 'llama-7b'?"),
        (["llama-7b", "--backend", "numpy", "--devices", "99999999xA-1G"], "a machine has 64 of them at most"),
        (["llama-7b", "--backend", "numpy", "--devices", "8xA100-0G"], "a device without memory"),
        (["llama-7b", "--context", "1"], "Invalid value for '--context'"),
        (["llama-7b", "--conversations", "0"], "Invalid value for '--conversations'"),
    ],
    ids=lambda value: " ".join(map(str, value))[-40:] if isinstance(value, list) else "",
)
def test_what_can_not_be_planned_is_refused_in_words(plan: Plan, arguments: list[object], said: str) -> None:
    code, told, errors = plan(*arguments)
    assert code in (1, 2)
    assert told == ""
    assert said in " ".join(errors.split())
    assert "Traceback" not in errors


def test_a_damaged_model_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "there are no weights here; download" in plan(tmp_path)[2]


# --- what is drawn ---------------------------------------------------------------------------------------------------


def sample(machine: Machine, sizes: list[int], name: str = "m.gguf") -> MemoryPlan:
    parts: dict[Part, int] = dict(zip(("weights", "cache", "working memory", "program"), sizes, strict=True))
    places = [f"cuda:{number}" for number in range(len(machine.cards))]
    shares = tuple(device_plan(machine, place, parts, holds="layers 1 to 9 and the embedding") for place in places)
    main = device_plan(machine, "cpu", parts, loading=2 * sum(sizes))
    return MemoryPlan(name, "toy", "cuda:0 fp16 *20 -> cuda:1 fp16 *21", 2048, 3, (*shares, main), ("a note " * 20,))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([40, 80]), st.booleans(), st.lists(st.integers(0, 1 << 36), min_size=4, max_size=4),
    st.sampled_from(["A100-40G", "8x2080Ti-11G,cpu-64G", "cpu-1G", "2xNVIDIA GeForce RTX 4090 Laptop GPU-16G"]),
)  # fmt: skip
def test_no_line_is_wider_than_the_terminal(columns: int, plain: bool, sizes: list[int], devices: str) -> None:
    found = sample(parse_devices(devices), sizes)
    lines = [click.unstyle(line) for line in drawn(found, columns, plain=plain)]
    assert max(map(len, lines)) <= columns
    bars = [line for line in lines if line and set(line) <= set("█▓▒░·╳#=-:.!")]
    assert len(bars) == len(found.devices)
    assert {len(bar) for bar in bars} == {columns}
    for bar, device in zip(bars, found.devices, strict=True):
        over = device.free is not None and device.needed > device.free
        assert over >= (bar[-1] in "╳!")
        assert not over or bar[-1] in "╳!"


def test_a_narrow_terminal_and_one_without_unicode() -> None:
    found = sample(parse_devices("A100-40G,cpu-64G"), [20 << 30, 8 << 30, 4 << 30, 0])
    lines = [click.unstyle(line) for line in drawn(found, 40, plain=True)]
    assert lines[lines.index("cuda:0 A100: layers 1 to 9 and the") + 2] == "#" * 20 + "=" * 8 + "-" * 4 + "." * 8
    assert any(line.startswith("32.0 GiB of 40.0 GiB: 20.0 GiB weights,") for line in lines)
    assert "  GiB cache, 4.0 GiB working memory" in lines or "8.0" in " ".join(lines)


def test_names_in_a_plan_never_steer_the_terminal() -> None:
    found = sample(Machine(1 << 30), [1, 1, 1, 1], name="m\x1b[2J\n.gguf")
    assert "\x1b[2J" not in "".join(drawn(found, 80))


def test_changes_in_vain_are_counted_from_some_on() -> None:
    vain = sample(Machine(1), [1 << 30, 0, 0, 0])
    found = MemoryPlan(
        vain.model, vain.backend, "f16", 8, 1, vain.devices, tried=tuple(Change(f"{n}", vain) for n in range(9))
    )
    assert "  · and 3 more in vain" in list(drawn(found, 80))


# --- check and doctor ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_a_model_that_will_not_fit_is_warned_of(
    capsys: pytest.CaptureFixture[str], install: Install, tmp_path: Path, command: str
) -> None:
    acme(install, body=GOOD.replace("3 << 30", "1 << 60"))
    config = tmp_path / "bots.yaml"
    config.write_text("models: {big: {backend: acme, path: m}}\n", encoding="utf-8")
    (tmp_path / "m").touch()
    with pytest.raises(SystemExit):
        main((command, "-c", str(config)))
    printed = capsys.readouterr()
    told = printed.out + printed.err
    assert "big will not fit: it needs 1073741824.0 GiB of main memory, and " in told
    assert "take a smaller model, or free memory" in told
    if command == "check":
        assert "good; 1 model" in printed.out


def test_check_leaves_what_can_not_be_planned_to_the_load(
    capsys: pytest.CaptureFixture[str], install: Install, tmp_path: Path
) -> None:
    acme(install, body="raise ZeroDivisionError('no bytes')")
    config = tmp_path / "bots.yaml"
    config.write_text("models: {a: {backend: acme, path: m}, b: {backend: numpy, path: b.gguf}}\n", encoding="utf-8")
    (tmp_path / "m").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(SystemExit) as ended:
        main(("check", "-c", str(config)))
    assert ended.value.code == 0
    printed = capsys.readouterr()
    told = "a bot is written under `bots`, and `chatbridge repl` talks without one"
    assert (printed.err, printed.out) == ("", f"{config}: good; 2 models, 0 bots; {told}\n")


def test_check_tells_of_models_that_are_not_there(
    capsys: pytest.CaptureFixture[str], install: Install, tmp_path: Path
) -> None:
    config = tmp_path / "bots.yaml"
    (tmp_path / "here.gguf").touch()
    models = "a: {backend: numpy, path: here.gguf}, b: {backend: numpy, path: gone.gguf}, c: {backend: numpy}"
    config.write_text(f"models: {{{models}}}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(("check", "-c", str(config)))
    assert ended.value.code == 1
    printed = capsys.readouterr()
    told = f"{config}: there is nothing at `models.b.path`, {tmp_path / 'gone.gguf'}; put the model there, or name"
    assert (printed.out, printed.err) == (f"{told} another place\n", f"1 mistake in {config}\n")
