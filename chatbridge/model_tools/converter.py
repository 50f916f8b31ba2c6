"""What `register_converters` returns: a way from one form of a model to another, and what it is given to work with.

A value; knows no form. `chatbridge model convert` and `quantize` find the converter by what lies at the path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from chatbridge.model_files.description import ModelDescription
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.model_tools.report import Report


@dataclass(frozen=True, slots=True)
class Conversion:
    """One piece of work for a converter.

    `source`: what `inspect_model` told, without errors. `target`: one of the converter's words, as it was typed.
    `output`: the file or folder to make; it is not there yet, or is what a run that was killed has left.
    `options`: what was given besides, by name. `progress` and `report` are to be told.
    """

    source: ModelDescription
    target: str
    output: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: WorkProgress = field(default_factory=Silent)
    report: Report = field(default_factory=lambda: Report(""))


@dataclass(frozen=True, slots=True)
class Converter:
    """A way from one form of models to others.

    `takes`: forms that it reads, as `BackendType.runs` says them: a layout ("meta"), or layout and architecture
    ("huggingface/llama"). `makes`: the words that name its targets ("f16"), in small letters; `*` in one stands for
    any characters ("tp*"). `folder`: whether it makes a folder, and not one file.
    `convert`: does the work, in the main process. It finishes under a temporary name, so that what bears the name of
    the output is whole; a second run goes on where a killed one ended. It raises ModelLoadError in words.
    `check`: complains of a conversion that can't work before anything is written; by ModelLoadError, too.
    `options`: names of what may be given to it besides; another name is refused before it is called.
    `spoken`: `makes` in plain words, for people; needed where a `*` is in them.
    """

    name: str
    summary: str
    takes: tuple[str, ...]
    makes: tuple[str, ...]
    convert: Callable[[Conversion], None]
    folder: bool = False
    check: Callable[[Conversion], None] | None = None
    options: tuple[str, ...] = ()
    spoken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wordless = not self.takes or not self.makes
        if wordless or any(isinstance(words, str) for words in (self.takes, self.makes, self.options, self.spoken)):
            raise TypeError(f"Converter {self.name!r}: takes, makes and options are tuples of words, as ('gguf',)")

    def reads(self, source: ModelDescription) -> bool:
        """Whether it takes what was found."""
        return not {source.layout, f"{source.layout}/{source.architecture}"}.isdisjoint(self.takes)

    def writes(self, target: str) -> bool:
        """Whether it makes what a word names."""
        return any(fnmatch(target.lower(), word) for word in self.makes)


def converters_for(source: ModelDescription, known: Sequence[Converter]) -> list[Converter]:
    """Those that read it, in the order in which they are known."""
    return [converter for converter in known if converter.reads(source)]
