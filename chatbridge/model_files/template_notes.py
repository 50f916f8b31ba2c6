"""Which template a model's files name: a key of a GGUF file, or the report that lies in or beside what was made.

Written where a model is made, read where it is inspected. A name alone: what stands in it is not looked at here.
"""

from __future__ import annotations

from pathlib import Path

from chatbridge.model_files.reading import read_json_object

KEY = "chatbridge.template"
"""Of a GGUF file's metadata; llama.cpp's quantiser takes it along."""

REPORT = "chatbridge-report.json"
"""What the report of a folder is called; that of a file has the file's name before it: `NAME.report.json`."""

OWN = "its own chat template"
GUESSED = "by its name and tokens"
"""From where a preset is known that no file names."""


def report_of(output: Path) -> Path:
    """Where the report of a folder or of a file lies."""
    return output / REPORT if output.is_dir() else output.with_name(f"{output.name}.report.json")


def noted_template(path: Path) -> tuple[str, str]:
    """What the report says, of the file or of its folder, and the name of the report; "" where there is none.

    Raises ModelLoadError for a report that is damaged.
    """
    for report in (report_of(path), path.parent / REPORT):
        if report.is_file():
            told = read_json_object(report).get("template")
            return (told, report.name) if isinstance(told, str) else ("", report.name)
        if path.is_dir():
            break
    return "", ""
