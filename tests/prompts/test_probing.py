"""How answers are marked, found from what templates write: small templates of our own, each with one trait."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.prompts import presets, render
from chatbridge.prompts.answer_format import COMMON, AnswerFormat, ThinkingMarks, bare, first_mark, opens_unseen
from chatbridge.prompts.jinja import probed
from chatbridge.prompts.probing import Probed
from chatbridge.types import ModelInfo, Turn

THINK = ThinkingMarks("<think>", "</think>")


def template(assistant: str, generation: str = "<|assistant|>\n") -> str:
    return (
        "{% for m in messages %}{% set old = not loop.last %}{% if m.role == 'assistant' %}"
        + assistant
        + "{% else %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '"
        + generation.replace("\n", "\\n")
        + "' }}{% endif %}"
    )


def found(source: str, **options: Any) -> Probed:
    specials = {"<|end|>": 1, "<|user|>": 2, "<|assistant|>": 3}
    return probed(source, ModelInfo("toy", "x", 99, 99, "f", "v", (1,), specials=specials, **options))


PLAIN_TURN = "{{ '<|assistant|>\\n' + m.content + '<|end|>\\n' }}"
KEEPS = (
    "{{ '<|assistant|>\\n' }}{% if m.reasoning_content %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}"
    "{% endif %}{{ m.content + '<|end|>\\n' }}"
)
DROPS = KEEPS.replace("if m.reasoning_content", "if m.reasoning_content and not old")
EMPTY_MARKS = (
    "{{ '<|assistant|>' }}{% if m.reasoning_content and not old %}{{ '<think>' + m.reasoning_content + '</think>' }}"
    "{% else %}</think>{% endif %}{{ m.content + '<|end|>\\n' }}"
)
SPLITS = "{{ '<|assistant|>\\n' + m.content.split('</think>')[-1] + '<|end|>\\n' }}"
CHANNELS = (
    "{% if m.thinking and not old %}{{ '<|assistant|><|channel|>self<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|assistant|><|channel|>people<|message|>' + m.content + '<|end|>' }}"
)
RECIPIENT = "{{ '<|assistant|>\\nall\\n' + m.content + '<|end|>\\n' }}"
IN_WORDS = (
    "{{ '<|assistant|>\\n' }}{% if m.reasoning and not old %}{{ m.reasoning + '\\n[ANSWER]\\n' }}{% endif %}"
    "{{ m.content + '<|end|>' }}"
)


def test_a_template_that_says_nothing_of_thoughts_has_the_marks_that_any_model_may_write() -> None:
    one = found(template(PLAIN_TURN))
    assert (one.answer, one.key, one.opens, one.extends) == (AnswerFormat(COMMON), "", False, True)
    assert one.generation_prompt == "<|end|>\n<|assistant|>\n"
    assert one.turn_end == "<|end|>\n<|user|>\n"


@pytest.mark.parametrize(("turn", "keeps"), [(KEEPS, True), (DROPS, False)])
def test_marks_are_what_a_thought_adds_and_whether_older_ones_stay_is_seen(turn: str, keeps: bool) -> None:
    one = found(template(turn))
    assert (one.answer.thinking[0], one.key, one.keeps, one.opens) == (THINK, "reasoning_content", keeps, False)
    assert one.extends
    assert one.extends_thinking == keeps


@pytest.mark.parametrize("name", ["seed:think", "reflection", "think:v2"])
def test_marks_of_any_name_are_found(name: str) -> None:
    source = template(KEEPS.replace("think>", f"{name}>"))
    assert found(source).answer.thinking[0] == ThinkingMarks(f"<{name}>", f"</{name}>")


def test_a_generation_prompt_that_opens_the_thought_is_seen_though_history_has_no_marks() -> None:
    one = found(template(DROPS, "<|assistant|>\n<think>\n"))
    assert (one.answer.thinking[0], one.opens) == (THINK, True)
    assert not one.extends


def test_an_empty_thought_before_older_answers_is_not_taken_for_their_beginning() -> None:
    one = found(template(EMPTY_MARKS, "<|assistant|><think>"))
    assert (one.answer.thinking[0], one.answer.lead, one.opens) == (THINK, "", True)


def test_a_thought_that_is_cut_out_of_the_content_is_told_inside_of_it() -> None:
    one = found(template(SPLITS))
    assert (one.answer.thinking[0], one.key, one.keeps) == (THINK, "", False)


def test_channels_are_found_with_what_begins_each_of_them() -> None:
    one = found(template(CHANNELS, "<|assistant|>"))
    assert one.key == "thinking"
    assert one.answer.thinking[0] == ThinkingMarks("<|channel|>self<|message|>", "<|end|>")
    assert one.answer.lead == "<|channel|>people<|message|>"
    assert one.answer.between == "<|assistant|><|channel|>people<|message|>"
    assert one.answer.block_head == "<|assistant|>"


def test_what_an_answer_begins_with_is_found_without_thoughts() -> None:
    assert found(template(RECIPIENT)).answer.lead == "all\n"


def test_a_thought_that_ends_in_words_is_found_with_the_line_that_opens_it() -> None:
    one = found(template(IN_WORDS, "<|assistant|>\nMy steps:\n"))
    assert one.answer.thinking[0] == ThinkingMarks("My steps:", "[ANSWER]")
    assert one.opens


def test_a_template_that_names_the_key_but_writes_it_for_tools_alone_is_given_the_thought_by_the_key() -> None:
    turn = PLAIN_TURN.replace("m.content", "(m.reasoning_content + '</think>' if m.tools else '') + m.content")
    one = found(template(turn))
    assert (one.key, one.keeps, one.answer.thinking[0]) == ("reasoning_content", False, THINK)


@pytest.mark.parametrize(
    ("words", "marks", "end"),
    [
        ("<think></think> and <response></response>", "<response>", "</response>"),
        ("End with [BEGIN FINAL RESPONSE]", "[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
        ("<|start|>assistant<|channel|>final<|message|>", "<|start|>assistant<|channel|>final<|message|>", ""),
    ],
)
def test_what_a_template_asks_for_in_words_is_in_the_table(words: str, marks: str, end: str) -> None:
    one = found("{{ '" + words + "' }}" + template(PLAIN_TURN))
    assert (one.answer.between, one.answer.end) == (marks, end)


def test_a_template_that_fails_on_every_sample_is_as_one_of_which_nothing_is_known() -> None:
    assert found("{{ raise_exception('never') }}") == Probed()


@pytest.mark.parametrize(
    ("generation", "unsure"), [("<bot>\n<think>\n", True), ("<bot>\n<think></think>", False), ("<bot>", False)]
)
def test_another_template_than_the_model_s_may_have_answers_that_begin_within_a_thought(
    generation: str, unsure: bool
) -> None:
    own = template(PLAIN_TURN, generation)
    assert opens_unseen(own) == unsure
    info = ModelInfo("toy", "x", 99, 99, "f", "v", (1,), chat_template=own)
    turns = (Turn("user", "hi"),)
    assert render(presets()["alpaca"], turns, info=info).answer.unsure == unsure
    assert not render(presets()["model"], turns, info=info).answer.unsure


def test_marks_are_bare_of_blanks_but_for_the_one_that_ends_a_word() -> None:
    assert [bare(text) for text in ("\n<think>\n", " all\n\n", "", "\n")] == ["<think>", "all\n", "", ""]
    assert [first_mark(text) for text in ("</think>\n", "[/THINK]a", "<|end|><|start|>b", "so it is")] == [
        "</think>", "[/THINK]", "<|end|>", "so",
    ]  # fmt: skip


def test_a_part_of_a_content_that_is_called_thinking_is_no_key_of_a_message() -> None:
    turn = (
        "{% if m.content is string %}{{ '<|assistant|>\\n' + m.content + '<|end|>\\n' }}{% else %}"
        "{{ '[THINK]' + m.content[0]['thinking'] + '[/THINK]' }}{% endif %}"
    )
    one = found(template(turn))
    assert (one.key, one.keeps, one.answer.thinking[0]) == ("", True, ThinkingMarks("[THINK]", "[/THINK]"))


def test_the_token_that_ends_an_answer_may_stand_on_the_next_line() -> None:
    source = template("{{ '<|assistant|>\\n' + m.content + '\\n<|end|>\\n' }}")
    info = ModelInfo("toy", "x", 99, 99, "f", "v", (9,), specials={"<|end|>": 1, "</s>": 9}, chat_template=source)
    assert render(presets()["model"], (Turn("user", "hi"),), info=info).stop_tokens == ("<|end|>",)
