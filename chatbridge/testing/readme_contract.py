"""The contract of a frontend's two READMEs: excerpts are accepted, options and files are told, both say the same."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from chatbridge.config.options import Options
from chatbridge.plugins.manager import Plugins
from chatbridge.testing.documents import Document, readmes


class ReadmeContract:
    """Subclass it in the tests of a frontend that takes a token: README.md and README.zh.md are held to its code."""

    folder: ClassVar[Path]
    """Where the READMEs lie."""
    package: ClassVar[str]
    """The folder beside them whose files their tree has."""
    options: ClassVar[type[Options]]
    secret: ClassVar[tuple[str, str]]
    """The file's name under `secrets/` in their excerpts, and a token that is well formed."""
    excerpts: ClassVar[int]
    """How many of bots.yaml there are."""

    @pytest.fixture(params=["README.md", "README.zh.md"])
    def readme(self, request: pytest.FixtureRequest) -> Document:
        """Each of the two."""
        return Document(self.folder / request.param)

    def test_every_excerpt_is_accepted(self, readme: Document, tmp_path: Path) -> None:
        name, token = self.secret
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / name).write_text(f"{token}\n")
        found = list(readme.settings(tmp_path, Plugins()))
        assert len(found) == self.excerpts
        for settings in found:
            (bot,) = settings.bots.values()
            assert isinstance(bot.options, self.options)

    def test_every_option_is_told_with_its_default(self, readme: Document) -> None:
        told = readme.options()
        assert set(told) - {"token_file"} == set(self.options.model_fields)
        for name, field in self.options.model_fields.items():
            if not field.is_required() and field.default not in (None, frozenset()) and not name.endswith("_url"):
                assert told[name][0] == str(field.default).lower(), name

    def test_both_languages_say_the_same(self) -> None:
        english, chinese = readmes(self.folder)
        assert english.shape() == chinese.shape()

    def test_the_tree_has_every_file(self, readme: Document) -> None:
        tree = readme.tree()
        assert {path for path in tree if path.suffix == ".py"} == set((self.folder / self.package).glob("*.py"))
        assert all(path.exists() and caption for path, caption in tree.items())
