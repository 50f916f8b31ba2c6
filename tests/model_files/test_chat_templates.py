"""Of several chat templates in one file the one for chats is used, and the others are named."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge import chat_template_from, chat_template_of

KEY = "tokenizer.chat_template"


def entries(**templates: object) -> list[dict[str, object]]:
    return [{"name": name, "template": source} for name, source in templates.items()]


@pytest.mark.parametrize(
    ("value", "source", "name", "others"),
    [
        ("{{ x }}", "{{ x }}", "default", ()),
        (entries(tool_use="t", default="d", rag="r"), "d", "default", ("tool_use", "rag")),
        (entries(tool_use="t", rag="r", plain="p"), "p", "plain", ("tool_use", "rag")),
        (entries(rag="r", tool_use="t"), "r", "rag", ("tool_use",)),
        (entries(default="", rag="r"), "r", "rag", ()),
        ([{"name": [], "template": "x"}, 5, {"name": "y"}, {"template": "z"}], "", "", ()),
        (5, "", "", ()),
        (None, "", "", ()),
    ],
)
def test_a_list_of_templates_gives_the_one_for_chats(
    value: Any, source: str, name: str, others: tuple[str, ...]
) -> None:
    found = chat_template_from(value)
    assert (found.source, found.name, found.others) == (source, name, others)


def test_a_gguf_file_has_them_under_keys_of_their_own() -> None:
    found = chat_template_of({KEY: "d", f"{KEY}.tool_use": "t", f"{KEY}s": ["tool_use"], "general.name": "x"})
    assert (found.source, found.details) == ("d", {"chat templates": "default is used, and not tool_use"})
    assert chat_template_of({f"{KEY}.tool_use": "t", f"{KEY}.plain": "p"}).source == "p"
    assert chat_template_of({KEY: 5}).source == ""
    assert chat_template_of({KEY: "d"}).details == {}
