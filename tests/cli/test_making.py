"""What commands that make a model share, and what `chatbridge model quantize` asks for before it begins."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

from chatbridge.cli import main
from chatbridge.cli.model.making import command_line, stoppable, word
from chatbridge.cli.model.plan import _has_blocks, _wrapped
from chatbridge.model_tools.output import partial_name


def test_a_command_is_written_down_as_it_can_be_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/chatbridge", "model", "merge", "my model"])
    assert command_line() == "chatbridge model merge 'my model'"
    assert [word(Path(name)) for name in ("a", "a b", "-a", "x/-a")] == ["a", "'a b'", "./-a", "x/-a"]


def test_whoever_stops_it_is_told_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stoppable(tmp_path / "m"):
        pass
    partial = partial_name(tmp_path / "m")
    for left in ("nothing is left of it", f"what is done is in {partial}: the same command goes on with it; delete"):
        with pytest.raises(SystemExit) as ended, stoppable(tmp_path / "m"):
            raise KeyboardInterrupt
        assert ended.value.code == 130
        assert capsys.readouterr().err.startswith(f"stopped; {left}")
        partial.write_text("")


def test_quantising_wants_a_file_to_make_or_none_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, code, words in (((), 2, "Missing option '-o'"), (("--dry-run",), 1, "m.gguf")):
        with pytest.raises(SystemExit) as ended:
            main(("model", "quantize", str(tmp_path / "m.gguf"), "q8_0", *more))
        assert ended.value.code == code
        said = capsys.readouterr().err
        assert words in said or "llama" in said
        assert ("Missing option" in said) is (code == 2)


@pytest.mark.parametrize(("encoding", "blocks"), [("utf-8", True), ("ascii", False), ("odd", False)])
def test_bars_have_signs_where_the_output_can_show_them(
    monkeypatch: pytest.MonkeyPatch, encoding: str, blocks: bool
) -> None:
    class Output:
        def __init__(self) -> None:
            self.encoding = encoding

    monkeypatch.setattr(sys, "stdout", Output())
    assert _has_blocks() is blocks


def test_long_lines_go_on_further_in() -> None:
    def wrapped(text: str, width: int) -> list[str]:
        return [click.unstyle(line) for line in _wrapped(text, width)]

    assert wrapped("one two", 5) == ["one", "  two"]
    assert wrapped("  one two", 7) == ["  one", "    two"]
    assert wrapped("", 5) == [""]
    assert [str(line) for line in _wrapped("one", 5, bold=True)] == ["\x1b[1mone\x1b[0m"]
