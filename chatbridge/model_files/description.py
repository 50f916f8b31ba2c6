"""What is told about a model that was inspected: its family, sizes, form and faults. Values only; reads nothing.

Numbers are 0 where they can't be told. Where two sources give a number, `disagreement` prints both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a model. With an `error` it can't be used as it is; `remedy`: what to do, "" for nothing."""

    severity: Severity
    message: str
    remedy: str = ""

    @property
    def words(self) -> str:
        """What it is and what to do, as one sentence."""
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True, slots=True)
class AdapterDescription:
    """A PEFT adapter. `rank`: of its matrices, each rank once. `targets`: the layers that it changes, by their ends.

    `width`, `layers`: of the model that it was trained on, told from shapes. `vocabulary`: rows of an embedding or head
    that it brings along, which take the place of the model's. `tensors`: how many it has.
    """

    kind: str
    rank: tuple[int, ...]
    alpha: float
    targets: tuple[str, ...]
    tensors: int
    layers: int
    width: int
    vocabulary: int
    base: str


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What lies at a path.

    `layout`: in which form it is published, by a word that backends name in `BackendType.runs`: "gguf", "huggingface",
    "meta", "chatglm", "glm-130b", "rwkv", "peft", "ptuning", "gguf-adapter", "ggml", "xor"; "" for no model.
    `architecture`: as the files call it, in small letters ("llama"); `family`: as people do; `variant`: what its
    vocabulary tells besides.
    `nbytes`: of its files of weights. `vocabulary`: rows of the embedding; `tokens`: what the tokenizer has.
    `chat_template`: whether it brings one; `preset`: the template of ours that fits; `preset_source`: from where that
    is known, in words. `backends`: what runs it, best first; `example`: how bots.yaml says so.
    """

    path: Path
    layout: str
    family: str = ""
    architecture: str = ""
    variant: str = ""
    format: str = ""
    files: int = 0
    nbytes: int = 0
    parameters: int = 0
    layers: int = 0
    width: int = 0
    heads: int = 0
    inner: int = 0
    context: int = 0
    vocabulary: int = 0
    tokens: int = 0
    tokenizer: str = ""
    quantization: str = ""
    chat_template: bool = False
    preset: str = ""
    preset_source: str = ""
    adapter: AdapterDescription | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    backends: Sequence[str] = ()
    example: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with it."""
        return not any(problem.severity == "error" for problem in self.problems)


def at(path: Path, message: str) -> str:
    """What is wrong with what lies at a path, which is named once, whatever the message has named already."""
    return message if str(path) in message else f"{path}: {message}"


def within(path: Path, message: str) -> str:
    """The same where the path is known: its files by their names alone."""
    for separator in ("/", "\\"):
        message = message.replace(f"{path}{separator}", "")
    return message.removeprefix(f"{path}: ")


def disagreement(what: str, first: tuple[str, int], second: tuple[str, int]) -> str:
    """One number from two sources, as "width: config.json says 4,096, and the weights say 5,120"."""
    return f"{what}: {first[0]} says {first[1]:,}, and {second[0]} {second[1]:,}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in a row; of many, the first, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
