"""Which tokens are marks of templates, by their form or by what the template writes."""

from __future__ import annotations

import pytest

from chatbridge import is_mark


@pytest.mark.parametrize(
    "text",
    [
        "<|start|>", "<|message|>", "<|channel|>", "<|im_start|>", "<｜User｜>", "<|turn>", "<turn|>", "<s>", "</s>",
        "<start_of_turn>", "<BOS_TOKEN>", "<user>", "[INST]", "[/INST]", "[gMASK]", "[MASK]", "<sop>",
        "]~!b[", "]~b]", "[e~[",
    ],
)  # fmt: skip
def test_marks_by_their_form(text: str) -> None:
    assert is_mark(text)


@pytest.mark.parametrize(
    "text",
    ["   ", "\n\n", "😀", "<think>", "</think>", "<tool_call>", "<h1>", "</table>", "hello", "<", "<|blank_4|>", "[x]"],
)
def test_honest_text_is_no_mark(text: str) -> None:
    assert not is_mark(text, "<think> </think> <tool_call> hello   😀")


def test_what_the_template_writes_in_brackets_is_a_mark() -> None:
    assert is_mark("<customer>", "{{ '<customer>' + m.content }}")
    assert not is_mark("<customer>", "{{ m.content }}")
    assert not is_mark("customer", "{{ 'customer' + m.content }}")
