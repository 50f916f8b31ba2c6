"""A description while it is being made: facts and faults are added one by one, and neither ends the other.

What several forms of publication have in common is looked at here: files of weights, shapes against a configuration,
a vocabulary against a tokenizer. Knows no form by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.description import ModelDescription, Problem, Severity, disagreement, within
from chatbridge.model_files.families import Family
from chatbridge.model_files.reading import read_json_object, read_tensors
from chatbridge.model_files.shapes import Sizes, Tensors, types_in
from chatbridge.model_files.tensors import TensorFile
from chatbridge.model_files.tokenizer_files import chat_template_in, tokenizer_in

_COMPARED = {
    "layers": "layers", "width": "width", "heads": "heads", "inner": "inner width", "vocabulary": "vocabulary",
}  # fmt: skip
"""Sizes that a configuration and the shapes both tell, and the words for them."""

AGAIN = "download all files of the model again, from one place"
MAX_PROBLEMS = 20
"""Faults that are told; where there are more, the first are enough to act on."""

T = TypeVar("T")


@dataclass(slots=True)
class Draft:
    """`facts`: fields of the description. `whole`: all files of weights are there and can be read.

    `template`: the chat template that it brings; `noted`: the preset that its metadata name; `aliases`: what it is
    called besides its path.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    whole: bool = True
    specials: Mapping[str, int] = field(default_factory=dict)
    template: str = ""
    noted: str = ""
    aliases: list[str] = field(default_factory=list)

    def say(self, severity: Severity, message: str, remedy: str = "") -> None:
        problem = Problem(severity, within(self.path, message), remedy)
        if len(self.problems) < MAX_PROBLEMS and problem not in self.problems:
            self.problems.append(problem)

    def attempt(self, read: Callable[..., T], *arguments: Any) -> T | None:
        """What a function reads; None where it can't, and its error is a fault of the model."""
        try:
            return read(*arguments)
        except ModelLoadError as error:
            message, _, remedy = str(error).partition("; ")
            self.say("error", message, remedy)
            return None

    def done(self) -> ModelDescription:
        """The description; errors stand first."""
        problems = sorted(self.problems, key=lambda problem: ("error", "warning", "note").index(problem.severity))
        return ModelDescription(self.path, **self.facts, details=self.details, problems=tuple(problems))

    # --- what forms have in common -------------------------------------------------------------------------------

    def json(self, name: str) -> dict[str, Any]:
        """A file of JSON in the folder; empty where it is damaged or not there."""
        file = self.path / name
        return (self.attempt(read_json_object, file) if file.exists() else None) or {}

    def read(self, files: Sequence[Path]) -> list[TensorFile]:
        """The headers of those files that are there and sound."""
        found: list[TensorFile] = []
        for file in files:
            header = self.attempt(_any_tensors, file) if file.exists() or file.is_symlink() else None
            if header is None:
                self.whole = False
                continue
            found.append(header)
            if header.foreign:
                self.say(
                    "error",
                    f"{file}: this file wants to run code ({header.foreign[0]:.200}) and not only to hold weights; "
                    f"nothing of it was run, and no backend reads it",
                    "take the model as safetensors, from somebody whom you trust",
                )
        kinds = sorted({file.format for file in found})
        self.facts |= {
            "format": f"{' and '.join(kinds) or 'no readable file'}, {len(files)} file{'s' * (len(files) != 1)}",
            "files": len(files),
            "nbytes": sum(file.size for file in found),
        }
        if "torch before 1.6" in kinds:
            self.say("warning", "it was written by a torch before 1.6", "torch.load and torch.save it once")
        return found

    def measured(self, family: Family, sizes: Sizes) -> None:
        """What the shapes say."""
        self.facts |= {
            "family": family.name or self.facts.get("family", ""),
            "architecture": family.architecture or self.facts.get("architecture", ""),
            "variant": family.rows.get(sizes.vocabulary, ""),
            "parameters": sizes.parameters,
            "layers": sizes.layers,
            "width": sizes.width,
            "heads": sizes.heads,
            "inner": sizes.inner,
            "vocabulary": sizes.vocabulary,
        }
        if sizes.head and sizes.vocabulary and sizes.head != sizes.vocabulary:
            told = disagreement("rows of the vocabulary", ("the embedding", sizes.vocabulary), ("the head", sizes.head))
            self.say("error", told, AGAIN)

    def quantized(self, sizes: Sizes, parts: Iterable[Tensors], config: Mapping[str, Any]) -> None:
        """In what the weights are packed, or their types."""
        if sizes.packed and not sizes.bits:
            told = disagreement("columns of packed weights", ("the width", sizes.width), ("the weights", sizes.packed))
            self.say("error", f"{told}: neither 8 bits nor 4", AGAIN)
        given = config.get("quantization_config")
        if sizes.bits:
            also = ", embedding and head, too" if sizes.embedding_bits else ""
            self.facts["quantization"] = f"int{sizes.bits}{also}"
        elif isinstance(given, dict) and isinstance(method := given.get("quant_method"), str):
            bits = given.get("bits")
            self.facts["quantization"] = f"{method:.50}{f', {bits} bits' if isinstance(bits, int) else ''}"
        else:
            kinds = [kind for kind, _ in types_in(parts).most_common(3)]
            self.facts["quantization"] = f"none ({', '.join(kinds)})" if kinds else ""

    def against(self, source: str, said: Mapping[str, int], sizes: Sizes, *, vocabulary: Severity = "error") -> None:
        """Hold what a configuration says against the shapes; what shapes don't tell is taken from it."""
        for key, words in _COMPARED.items():
            ours, theirs = getattr(sizes, key), said.get(key, 0)
            if ours and theirs and ours != theirs and (self.whole or key not in ("layers", "vocabulary")):
                severity = vocabulary if key == "vocabulary" else "error"
                remedy = AGAIN if severity == "error" else ""
                self.say(severity, disagreement(words, (source, theirs), ("the weights", ours)), remedy)
            elif not self.facts.get(key) and key != "vocabulary":  # whose rows only the weights have
                self.facts[key] = theirs
        if said and not sizes.width:
            self.details["sizes"] = f"as {source} says; the weights don't tell"
        if said.get("context"):
            self.facts["context"] = said["context"]
        if sizes.layers and not self.whole:
            self.facts["layers"] = max(sizes.layers, said.get("layers", 0))

    def tokenized(self, *folders: Path, needed: bool = True) -> None:
        """The tokenizer in the first folder that has one, held against the vocabulary's rows."""
        for folder in folders:
            found = self.attempt(tokenizer_in, folder)
            if found is not None:
                self.facts |= {"tokens": found.size, "tokenizer": found.file}
                self.specials = found.specials
                break
        else:
            if needed and not any("tokenizer" in problem.message for problem in self.problems):
                self.say("warning", "there is no tokenizer beside it", "download the tokenizer's files, too")
        self.template = self.attempt(chat_template_in, folders[0]) or ""
        self.facts["chat_template"] = bool(self.template)
        rows, tokens = self.facts.get("vocabulary", 0), self.facts.get("tokens", 0)
        if rows and tokens > rows:
            whose = f"the tokenizer ({self.facts['tokenizer']})"
            told = disagreement("vocabulary", (whose, tokens), ("the weights", rows))
            self.say("error", told, "take the tokenizer that was published with these weights")


def _any_tensors(file: Path) -> TensorFile:
    return read_tensors(file, only_weights=False)
