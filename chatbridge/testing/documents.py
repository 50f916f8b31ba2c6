"""What a README says, as values to compare with the code: excerpts, options, trees, its shape.

It does not know what is right and asserts nothing: a test does, and so shows what it compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatbridge.config.settings import Settings
    from chatbridge.plugins.manager import Plugins

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_OPTION = re.compile(r"^\| (`\w+`(?:[,、] ?`\w+`)*) \| ([^|]*)\| (.*) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Shape:
    """What a document has in common with its translation."""

    headings: tuple[str, ...]
    columns: tuple[int, ...]
    """Of each line of each table, counted by the bars."""
    steps: int
    code: tuple[str, ...]
    """The languages of the code blocks."""
    commands: tuple[str, ...]
    """The code blocks for a shell."""
    numbers: tuple[str, ...]
    """Those outside code, sorted: a translation may turn a sentence round."""


@dataclass(frozen=True)
class Document:
    """A Markdown file."""

    path: Path

    def __str__(self) -> str:
        return self.path.name

    @property
    def text(self) -> str:
        """The whole text."""
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str | None = None) -> list[str]:
        """The code blocks of a language, "" for those of none, without the indent of a list around them."""
        return [
            re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)
            for indent, named, block in _BLOCK.findall(self.text)
            if language in (None, named)
        ]

    def rows(self, columns: int) -> list[list[str]]:
        """The rows of all tables with so many columns, headers and rules among them."""
        lines = [line for line in self.text.splitlines() if line.startswith("| ")]
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        return [row for row in rows if len(row) == columns]

    def options(self) -> dict[str, tuple[str, str]]:
        """The default and the description of each option: from tables `| name | default | description |`."""
        return {
            name: (default.strip("` "), description)
            for names, default, description in _OPTION.findall(self.text)
            for name in re.findall(r"\w+", names)
        }

    def tree(self) -> dict[Path, str]:
        """The files of the captioned tree, by the indents of its lines; their paths begin where the document lies."""
        captions: dict[Path, str] = {}
        above: list[tuple[int, Path]] = []
        for line in next(block for block in self.blocks("") if re.match(r"\w+/ ", block)).splitlines():
            indent = len(line) - len(line.lstrip())
            name, _, caption = line.strip().partition(" ")
            while above and above[-1][0] >= indent:
                above.pop()
            path = (above[-1][1] if above else self.path.parent) / name
            above.append((indent, path))
            captions[path] = caption.strip()
        return captions

    def shape(self) -> Shape:
        """To compare with that of the same document in another language."""
        bare = _BLOCK.sub("", self.text)
        return Shape(
            headings=tuple(re.findall(r"^(#+) ", bare, re.MULTILINE)),
            columns=tuple(line.count("|") for line in self.text.splitlines() if line.startswith("|")),
            steps=len(re.findall(r"^\d+\. ", self.text, re.MULTILINE)),
            code=tuple(named for _, named, _ in _BLOCK.findall(self.text)),
            commands=tuple(self.blocks("sh")),
            numbers=tuple(sorted(re.findall(r"\d+(?:[.,]\d+)*", bare))),
        )

    def settings(
        self, folder: Path, plugins: Plugins, environment: Mapping[str, str] | None = None
    ) -> Iterator[Settings]:
        """Each excerpt of bots.yaml, loaded from a file in `folder`; one without models has those of the first.

        Raises: ConfigError for an excerpt that is no good.
        """
        from chatbridge.config.reader import load

        found = self.blocks("yaml")
        for number, block in enumerate(found):
            file = folder / f"{number}.yaml"
            alone = "models:" in block or not re.search("^bots:", block, re.MULTILINE)
            file.write_text(block if alone else found[0].partition("bots:")[0] + block, encoding="utf-8")
            yield load(file, plugins, environment)


def readmes(folder: Path) -> list[Document]:
    """A README in English and in Chinese."""
    return [Document(folder / "README.md"), Document(folder / "README.zh.md")]
