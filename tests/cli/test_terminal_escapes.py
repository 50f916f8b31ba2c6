"""What strangers wrote, on a terminal: every command is driven on one, with hostile data wherever data can be."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals here", allow_module_level=True)
import pty

from chatbridge import Author, Channel, Message
from chatbridge.store import Inbox, Store

from .engines import leave_out_engines

Install = Callable[..., Path]

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b]52;c;cm0gLXJmIH4K\x07\x1b[8mhidden\x9b2J\r\x08\u202eevil"
IN_YAML = '"' + "".join(f"\\u{ord(char):04x}" for char in EVIL) + '"'
BOTS = f"""
models:
  mean: {{backend: mean, template: spoilt}}
  {IN_YAML}: {{backend: mean}}
templates:
  spoilt: {{extends: alpaca, summary: {IN_YAML}, system: {IN_YAML}}}
bots:
  {IN_YAML}: {{frontend: repl, defaults: {{model: mean}}}}
store: store
"""
PLUGIN = f"""
from chatbridge import BackendType, Chunk, Finish, ModelInfo, Options, Reply, Usage, hookimpl
EVIL = {EVIL!r}

class Mean:
    info = ModelInfo(EVIL, EVIL, 4096, 10, "f", "v", eos=(0,), details={{EVIL: EVIL, "name": EVIL}}, chat_template=EVIL)
    async def generate(self, request):
        yield Chunk("it said " + EVIL)
        yield Chunk(finish=Finish("end", Reply(EVIL), Usage()))
    def cancel(self, id): ...
    async def count_tokens(self, prompt): return 1
    async def aclose(self): ...

async def connect(options): return Mean()

@hookimpl
def register_backends():
    return [BackendType("mean", Options, EVIL, connect=connect, build_info=lambda: {{EVIL: EVIL}})]
"""


def on_a_terminal(python: str, folder: Path, *arguments: str) -> str:
    """All that a command writes to a terminal."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR")}
    environment = {**kept, "HOME": str(folder), "PYTHONPATH": str(folder / "site"), "TERM": "xterm", "LANG": "C.UTF-8"}
    command = [python, "-m", "chatbridge", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment):
        os.close(theirs)
        written = b""
        try:
            while data := os.read(ours, 1 << 16):
                written += data
        except OSError:  # how a terminal ends
            pass
        finally:
            os.close(ours)
    return written.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def foreign(text: str) -> str:
    """What is neither text nor one of our colours."""
    text = re.sub(r"\x1b\[(?:0|1|2|3[1-6])?m", "", text)
    return "".join(re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text))


@pytest.fixture
def hostile(tmp_path: Path, install: Install) -> Path:
    """A folder in which everything that can hold text holds commands to the terminal."""
    install("mean", PLUGIN)
    leave_out_engines(install("spoilt", f"raise ValueError({EVIL!r})"))
    (tmp_path / "bots.yaml").write_text(BOTS, "utf-8")
    (tmp_path / "bad.yaml").write_text(f"{IN_YAML}: {IN_YAML}\nmodels: {{a: {{backend: {IN_YAML}}}}}\n", "utf-8")
    (tmp_path / "raw.yaml").write_text(f"models: {EVIL}\n", "utf-8")

    (tmp_path / "adapter").mkdir()
    about = {"base_model_name_or_path": EVIL, "peft_type": EVIL, "target_modules": [EVIL]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(about))
    named = json.dumps({EVIL: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}, "__metadata__": {EVIL: EVIL}})
    weights = len(named).to_bytes(8, "little") + named.encode() + bytes(2)
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(
        b"\x80\x02c" + EVIL.encode() + b"\n" + EVIL.encode() + b"\n."
    )

    async def fill() -> None:
        store = await Store.open(tmp_path / "store")
        for name in (EVIL, "bot"):
            message = Message(EVIL, Channel(EVIL, EVIL, kind="group"), Author("a", EVIL), EVIL)
            item = await Inbox(store).add(name, message)
            assert item is not None
            await Inbox(store).dead_letter(item.id, EVIL)
        await store.aclose()

    asyncio.run(fill())
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "check",
        "check bad.yaml",
        "check raw.yaml",
        "doctor --load",
        "doctor -c bad.yaml",
        "doctor --json",
        "model inspect adapter",
        "model inspect adapter --json",
        "model inspect adapter/adapter_model.bin",
        "model inspect nothing",
        "plugins",
        "plugins --json",
        "queue",
        "queue --json",
        "queue retry --all",
        "run --dry-run",
        "run -c bad.yaml",
        "schema",
        "templates",
        "templates show spoilt",
        "templates show spoilt -m mean",
        "templates show spoilt --color never",
    ],
)
def test_no_command_passes_on_what_steers_a_terminal(hostile: Path, warm_python: str, command: str) -> None:
    told = on_a_terminal(warm_python, hostile, *command.split())
    assert told
    assert foreign(told) == "", told


def test_the_talk_passes_nothing_on_either(hostile: Path, warm_python: str) -> None:
    told = on_a_terminal(warm_python, hostile, "repl", "-p", EVIL.replace("\r", ""), "-m", "mean")
    assert "it said" in told
    for mine in ("\x1b]", "\x07", "\x1b[2J", "\x1b[8m", "\x9b", "\x08", "\u202e"):
        assert mine not in told
