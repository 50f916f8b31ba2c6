"""What the kit reads out of a README, and that a translation which leaves something out is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge import ConfigError, Plugins
from chatbridge.testing import Document, readmes, start_program

TEXT = """# A plugin

1. Install it:
   ```sh
   pip install it  # 2 packages
   ```
2. Say what it is to do, for 2,048 tokens or 1.5 seconds:
   ```yaml
   models: {m: {backend: numpy}}
   bots: {b: {frontend: repl}}
   ```

| option | default | what |
|---|---|---|
| `size`, `length` | `3` | how much, as `a | b` |
| `word` | | what to say |

## Beside it

```yaml
bots: {c: {frontend: repl}}
```

```
plugin/         all of it
    core/       the middle
        a.py    one thing
    b.py        another
```
"""


@pytest.fixture
def document(tmp_path: Path) -> Document:
    path = tmp_path / "README.md"
    path.write_text(TEXT, encoding="utf-8")
    return Document(path)


def test_blocks_come_without_the_indent_of_their_list(document: Document) -> None:
    assert document.blocks("sh") == ["pip install it  # 2 packages\n"]
    assert [block.partition(":")[0] for block in document.blocks("yaml")] == ["models", "bots"]
    assert document.blocks("")[0].splitlines()[1] == "    core/       the middle"
    assert len(document.blocks()) == 4


def test_options_are_told_alone_or_in_twos(document: Document) -> None:
    amount = ("3", "how much, as `a | b`")
    assert document.options() == {"size": amount, "length": amount, "word": ("", "what to say")}
    assert document.rows(3)[0] == ["option", "default", "what"]


def test_a_tree_has_paths_and_captions(document: Document) -> None:
    root = document.path.parent / "plugin"
    assert document.tree() == {
        root: "all of it",
        root / "core": "the middle",
        root / "core" / "a.py": "one thing",
        root / "b.py": "another",
    }


def test_excerpts_are_loaded_with_the_models_of_the_first(document: Document) -> None:
    first, second = document.settings(document.path.parent, Plugins())
    assert (list(first.bots), list(second.bots)) == (["b"], ["c"])
    assert list(first.models) == list(second.models) == ["m"]


def test_an_excerpt_that_is_no_good_is_refused(document: Document) -> None:
    document.path.write_text(TEXT.replace("bots: {c:", "bots: {c: {nonsense: 1}, d:"), encoding="utf-8")
    with pytest.raises(ConfigError):
        list(document.settings(document.path.parent, Plugins()))


@pytest.mark.parametrize(
    ("said", "translated", "same"),
    [
        ("A plugin", "一个插件", True),
        ("all of it", "全部", True),
        ("2,048 tokens or 1.5 seconds", "1.5 秒或 2,048 个词元", True),
        ("## Beside it", "### 此外", False),
        ("| `word` | | what to say |\n", "", False),
        ("| `word` | | what to say |", "| `word` | 要说的 |", False),
        ("2. Say", "Say", False),
        ("1.5 seconds", "15 秒", False),
        ("pip install it", "pip install them", False),
        ("```yaml\nbots: {c: {frontend: repl}}\n```", "", False),
    ],
)
def test_a_translation_has_the_same_shape(document: Document, said: str, translated: str, same: bool) -> None:
    english, chinese = readmes(document.path.parent)
    assert said in TEXT
    chinese.path.write_text(TEXT.replace(said, translated), encoding="utf-8")
    assert (english.shape() == chinese.shape()) is same
    assert [str(english), str(chinese)] == ["README.md", "README.zh.md"]


async def test_the_program_is_started_where_the_reader_is(tmp_path: Path) -> None:
    (tmp_path / "bots.yaml").write_text("models: {m: {backend: numpy}}\nnonsense: 1\n")
    program = await start_program(tmp_path, "check")
    output, _ = await program.communicate()
    assert program.returncode == 1
    assert "nonsense" in output.decode()
