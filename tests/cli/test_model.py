"""`chatbridge model inspect`: what it prints of models good and bad, how it ends, and that nothing breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbridge import Plugins, guide_path
from chatbridge.cli import main
from chatbridge.cli.model.inspect import columns
from chatbridge.plugins.packages import install_command
from chatbridge.testing import fixtures

Install = Callable[..., Path]
Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    """How `model inspect` ends, what it prints, and what it says of errors."""

    def inspect(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(("model", "inspect", *map(str, arguments)))
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return inspect


def test_a_sound_model_is_told_line_by_line(inspect: Inspect) -> None:
    folder = fixtures() / "chatglm" / "chatglm-6b-tiny"
    code, told, errors = inspect(folder)
    assert (code, errors) == (0, "")
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines[0] == str(folder)
    for line in (
        "family ChatGLM-6B (chatglm)",
        "form torch, 4 files, 516,435 bytes",
        "parameters 199,232",
        "sizes 3 layers, width 64, 4 heads, inner width 256, context 128 tokens",
        "vocabulary 768 rows in the weights, 764 ids in the tokenizer (ice_text.model)",
        "quantisation none (float16)",
        "chat template none of its own; fitting preset: chatglm-6b, by its name and tokens",
        "in bots.yaml:" if "glm" in Plugins().backends else f"in bots.yaml, after {install_command('backend', 'glm')}:",
        "backend: glm",
    ):
        assert line in lines
    assert any(line.startswith("backend glm") for line in lines)


def test_json_has_everything(inspect: Inspect) -> None:
    code, told, _ = inspect(guide_path(), "--json")
    found = json.loads(told)
    assert (code, found["sound"], found["layout"], found["backends"]) == (0, True, "gguf", ["llama_cpp", "numpy"])
    assert (found["path"], found["vocabulary"], found["preset"]) == (str(guide_path()), 3072, "model")
    code, told, _ = inspect(fixtures() / "llama" / "alpaca-lora", "--json")
    assert json.loads(told)["adapter"]["rank"] == [8]


def test_what_is_wrong_is_told_with_the_remedy_and_ends_with_1(inspect: Inspect, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    code, told, errors = inspect(tmp_path)
    assert (code, errors) == (1, "")
    assert "✗ there are no weights here\n    → download model.safetensors" in told
    assert "in bots.yaml" not in told
    code, told, _ = inspect(tmp_path, "--json")
    found = json.loads(told)
    assert (code, found["sound"], found["problems"][0]["severity"]) == (1, False, "error")


def test_what_is_no_model_is_one_line_and_ends_with_1(inspect: Inspect, tmp_path: Path) -> None:
    code, told, errors = inspect(tmp_path / "nothing")
    assert (code, told) == (1, "")
    assert errors == f"chatbridge: {tmp_path / 'nothing'}: there is no such file or folder\n"


def test_a_backend_of_somebody_elses_is_named(inspect: Inspect, install: Install) -> None:
    install(
        "acme",
        """
        from chatbridge import BackendType, Options, hookimpl

        async def connect(options): ...

        @hookimpl
        def register_backends():
            return [BackendType("acme", Options, "", connect=connect, runs=("meta", "gguf/llama"))]
        """,
    )
    assert "numpy, acme\n" in inspect(guide_path())[1]
    code, told, _ = inspect(fixtures() / "llama" / "meta-1shard")
    assert code == 0
    assert "backend: acme" in told
    assert "no backend runs" not in told


BEGINS = (
    b"GGUF\3\0\0\0", b"tjgg\3\0\0\0", b"lmgg", b"PK\3\4", b"\x80\x02}", b"\x20\0\0\0\0\0\0\0{", b"{", b"\n\3",
    b"<html>", b"",
)  # fmt: skip


def test_garbage_never_shows_a_traceback(inspect: Inspect, tmp_path: Path) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(BEGINS),
        st.binary(max_size=200),
        st.sampled_from(["m.gguf", "m.bin", "m.pth", "m.safetensors", "x.enc", "config.json", "latest"]),
    )
    def garbage(begin: bytes, rest: bytes, name: str) -> None:
        folder = tmp_path / "m"
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        (folder / name).write_bytes(begin + rest)
        for path in (folder, folder / name):
            code, told, errors = inspect(path)
            assert code in (0, 1)
            assert "Traceback" not in errors
            assert told or str(path) in errors

    garbage()


def test_a_folder_of_models_names_them_all(inspect: Inspect, tmp_path: Path) -> None:
    for number in range(15):
        (tmp_path / f"m{number:02}").mkdir()
    assert inspect(tmp_path)[2].rstrip().endswith("m10, m11 and 3 more")


def test_columns_stay_columns_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    lines = list(columns([("family", "LLaMA"), ("tensor-parallel parts", "word " * 30)], 80))
    assert all(len(line) <= 80 for line in lines)
    assert [line[:24].strip() for line in lines] == ["family", "tensor-parallel parts", *[""] * (len(lines) - 2)]
    assert len(lines) > 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("model", "inspect", "nowhere"), 1),
        (("model", "plan", "nowhere/at/all"), 1),
        (("model", "plan", "llama-7b", "--devices", "x"), 2),
        (("model", "inspect"), 2),
        (("queue", "-c", "nowhere.yaml"), 1),
        (("forget", "somebody", "-c", "nowhere.yaml"), 1),
    ],
)
def test_an_error_is_json_where_json_was_asked_for(
    arguments: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main((*arguments, "--json"))
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (code, "")
    assert list(json.loads(printed.out)) == ["error"]


def test_the_list_is_told_in_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(("model", "list", "--language", "zh"))
    told = capsys.readouterr().out
    assert "约 0.3 GiB" in told
    assert not any(word in told for word in ("about", "fetched", "by request", "template"))
