"""`chatbridge doctor`: what it sees, what it advises, and what it is not put off by."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli import main
from chatbridge.operations import hardware

from .engines import leave_out_engines

Run = Callable[..., subprocess.CompletedProcess[str]]
Install = Callable[..., Path]
Look = Callable[..., tuple[int, list[dict[str, str]]]]

ABOUT = {
    *("chatbridge", "python", "system", "processor", "threads", "instructions", "memory", "gpu", "plugin", "settings"),
    "store",
}


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Look:
    """How `doctor --json` ends in an empty home folder, and its findings; in this process, which loads engines once."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USERPROFILE", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path))

    def look(*arguments: str, **variables: str) -> tuple[int, list[dict[str, str]]]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(("doctor", "--json", *arguments))
        printed = capsys.readouterr()
        assert printed.err == ""
        assert isinstance(ended.value.code, int)
        return ended.value.code, json.loads(printed.out)

    return look


def about(checks: list[dict[str, str]], what: str) -> list[dict[str, str]]:
    return [check for check in checks if check["about"] == what]


def test_an_empty_home_is_well(chatbridge: Run, tmp_path: Path) -> None:
    done = chatbridge("doctor", "--json")
    checks = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert {check["about"] for check in checks} - {"engine"} == ABOUT
    assert not [check for check in checks if check["state"] == "error"]
    assert all(check["remedy"] for check in checks if check["state"] != "good")
    assert about(checks, "settings")[0]["what"] == "no bots.yaml here: the bundled guide model is used"
    assert about(checks, "store")[0]["what"].startswith(str(tmp_path))
    assert not list(tmp_path.iterdir()), "looking changes nothing"


def test_people_get_a_line_each_and_the_advice_below(chatbridge: Run, tmp_path: Path) -> None:
    leave_out_engines(tmp_path / "site")
    (tmp_path / "bots.yaml").write_text("stor: x\nmodel: y\n", encoding="utf-8")
    done = chatbridge("doctor")
    assert done.returncode == 1
    assert re.search(r"(?m)^✓ python +3\.", done.stdout)
    assert (
        "✗ settings      bots.yaml:1:1: there is no key 'stor' at the top of the file; did you mean 'store'?\n"
        "bots.yaml:2:1: there is no key 'model' at the top of the file; did you mean 'models'?\n"
        "    → mend the lines above; `chatbridge check` looks again\n"
    ) in done.stdout


def test_each_model_says_what_is_in_use_once_it_is_loaded(look: Look, tmp_path: Path) -> None:
    text = "models: {g: {backend: numpy}, absent: {backend: numpy, path: absent.gguf}}\n"
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    assert not about(look()[1], "model")
    code, checks = look("--load")
    good, bad = about(checks, "model")
    assert code == 1
    assert good["what"].startswith("g (llama)\n    context: 512 tokens\n    chat template: its own; ")
    assert "\n    quantisation: q8_0" in good["what"]
    assert bad["state"] == "error"
    assert "absent.gguf: there is no such file" in bad["what"]
    assert bad["remedy"] == "mend the entry of absent in `models`"


def test_what_becomes_of_a_model_that_nobody_asks_is_told(look: Look, tmp_path: Path) -> None:
    text = "models: {g: {backend: numpy}, idle: {backend: numpy, idle_minutes: 45}}\n"
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    [told] = about(look()[1], "model")
    assert told["state"] == "good"
    assert told["what"].startswith("idle: unloaded after 45 min in which nobody asks; what it has read")


def test_settings_are_summed_up(look: Look, tmp_path: Path) -> None:
    text = "models: {g: {backend: numpy}}\nbots: {t: {frontend: repl}}\n"
    (tmp_path / "other.yaml").write_text(text, encoding="utf-8")
    code, checks = look("-c", "other.yaml")
    assert code == 0
    assert about(checks, "settings")[0]["what"] == "other.yaml: models g; bots t"
    assert about(checks, "store")[0]["what"].startswith(str(tmp_path / "chatbridge.sqlite3"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("stor: x", "bots.yaml:1:1: there is no key 'stor'"),
        ("\tx", "bots.yaml:1:1: indent by blanks"),
    ],
)
def test_a_broken_bots_yaml_is_an_error(look: Look, tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    code, checks = look()
    assert code == 1
    assert about(checks, "settings")[0]["state"] == "error"
    assert about(checks, "settings")[0]["what"].startswith(what)


def test_a_file_that_is_not_there_is_an_error(look: Look) -> None:
    code, checks = look("-c", "nowhere.yaml")
    assert code == 1
    assert about(checks, "settings")[0]["what"].startswith("nowhere.yaml:1:1: this file can't be read")


def test_a_store_that_cannot_be_written_is_an_error(look: Look, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for store, why in ((".", f"{tmp_path} is a folder"), ("file/db", f"nothing can be made in {tmp_path / 'file'}")):
        (tmp_path / "bots.yaml").write_text(f"store: {store}\n", encoding="utf-8")
        code, checks = look()
        assert code == 1
        assert about(checks, "store")[0]["remedy"].startswith(f"{why}; set `store` in bots.yaml")


def test_a_broken_plugin_is_a_warning(look: Look, install: Install) -> None:
    install("lost", "import llama_of_the_future")
    code, checks = look()
    assert code == 0
    (found,) = [check for check in about(checks, "plugin") if "lost" in check["what"]]
    assert found["state"] == "warning"
    assert found["what"].startswith("lost 1.2 is broken: ModuleNotFoundError")
    assert found["remedy"] == "pip install the library that provides 'llama_of_the_future'"


ENGINES = """
    from chatbridge import hookimpl

    class Panic(BaseException): ...

    def build_info():
        return {"version": "1.2", "threads": "4"}

    def broken():
        raise Panic("libcudart.so.12: cannot open shared object file")

    async def connect(options): ...

    @hookimpl
    def register_backends():
        from chatbridge import BackendType, Options
        yield BackendType("sound", Options, "", connect=connect, build_info=build_info)
        yield BackendType("broken", Options, "", connect=connect, build_info=broken)
        yield BackendType("silent", Options, "", connect=connect)
"""


def test_engines_tell_of_themselves(look: Look, install: Install) -> None:
    install("engines", ENGINES)
    code, checks = look()
    assert code == 0
    told = {check["what"]: check for check in about(checks, "engine")}
    assert told["sound: version 1.2, threads 4"]["state"] == "good"
    bad = told["broken: Panic: libcudart.so.12: cannot open shared object file"]
    assert (bad["state"], bad["remedy"]) == ("warning", "reinstall the package of backend broken")
    assert not [what for what in told if what.startswith("silent")]


# --- the machine ---------------------------------------------------------------------------------------------------

needs_scripts = pytest.mark.skipif(sys.platform == "win32", reason="the tools are shell scripts here")


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@needs_scripts
@pytest.mark.parametrize(
    ("tools", "found"),
    [
        (
            {"nvidia-smi": "echo 'NVIDIA H200, 143771, 570.1'; echo 'Tesla, the old one, 512, 390.1'"},
            ["NVIDIA H200, 140.4 GiB, driver 570.1", "Tesla, the old one, 512 MiB, driver 390.1"],
        ),
        ({"nvidia-smi": "echo 'GB10, [N/A], 580.1'"}, ["GB10, driver 580.1"]),
        ({"nvidia-smi": "echo 'No devices were found'"}, ["none seen; models run on the processor"]),
        ({"nvidia-smi": "echo broken; exit 9"}, ["none seen; models run on the processor"]),
        ({"nvidia-smi": "printf '\\377, 1024, 5\\n'"}, ["\ufffd, 1.0 GiB, driver 5"]),
        (
            {"rocm-smi": "echo device,series; echo card0,MI300X,x; echo card1,MI210; echo"},
            ["MI300X, ROCm", "MI210, ROCm"],
        ),
        ({}, ["none seen; models run on the processor"]),
    ],
)
def test_graphics_cards_are_seen_by_their_makers_tools(
    look: Look, tmp_path: Path, tools: dict[str, str], found: list[str]
) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, script in tools.items():
        tool(folder, name, script)
    _, checks = look(PATH=f"{folder}{os.pathsep}/bin")
    assert [check["what"] for check in about(checks, "gpu")] == found


def test_the_machine_is_told_as_it_is() -> None:
    total, free = hardware.memory()
    assert total > free > 0
    assert 1 <= hardware.usable_cores() <= (os.cpu_count() or 1)
    assert re.search(rf", {hardware.usable_cores()} threads$", hardware.processor())


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 MiB"), (5 * 2**20, "5 MiB"), (2**30, "1.0 GiB"), (15 * 2**29, "7.5 GiB")]
)
def test_sizes_are_for_people(count: int, words: str) -> None:
    assert hardware.size(count) == words


def test_room_is_looked_for_where_the_file_will_be(tmp_path: Path) -> None:
    assert hardware.disk_free(tmp_path / "not/yet/there.db") > 0
    assert hardware.why_not_writable(tmp_path / "not/yet/there.db") == ""
    assert hardware.why_not_writable(Path("/" + "x" * 5000) / "y") in ("", "nothing can be made in /")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_folders_that_may_not_be_looked_into(tmp_path: Path, request: Any) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0)
    request.addfinalizer(lambda: shut.chmod(0o700))
    assert hardware.why_not_writable(shut / "deep/db") == f"nothing can be made in {shut}"
    assert hardware.disk_free(shut / "deep/db") > 0
