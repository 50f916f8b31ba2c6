"""What the guide is taught and how it is judged: its answers are true to chatbridge, its evaluation is held out."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

import pytest
import yaml
from dialogue import LANGUAGES, Writer, bare, load_answers, load_cases, load_needs

from chatbridge import Sampling
from chatbridge.bots.commands import BUILTIN
from chatbridge.cli import COMMANDS
from chatbridge.config.keys import BotKeys, ModelKeys, TopKeys
from chatbridge.config.settings import Access, ChannelSettings
from chatbridge.plugins.packages import FIRST_PARTY
from chatbridge.prompts import Template, presets

ANSWERS = load_answers()
SETS = ("dev", "validation", "blind")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_an_answer_is_judged_by_stands_in_no_other_answer(language: str) -> None:
    for intent, need in load_needs().items():
        right = [name for name, texts in ANSWERS.items() if all(fact in texts[language] for fact in need[language])]
        assert right == [intent], f"{intent} {language}"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", SETS)
def test_each_set_asks_about_everything(name: str, language: str) -> None:
    cases = [case for case in load_cases((name,)) if case["language"] == language]
    assert len(cases) >= 200
    assert {case["intent"] for case in cases} == set(ANSWERS)
    assert {other for case in cases for other in case.get("also", ())} <= set(ANSWERS)
    assert Counter(case["intent"] for case in cases)["decline"] >= 20


def test_no_question_stands_in_two_sets() -> None:
    seen = Counter(bare(case["text"]) for case in load_cases(SETS))
    assert not [text for text, times in seen.items() if times > 1]


def test_no_evaluation_question_is_ever_written_for_training() -> None:
    held_out = {bare(case["text"]) for case in load_cases(SETS)}
    writer, count = Writer(seed=20), 200_000 if os.environ.get("CHATBRIDGE_FULL") else 60_000
    assert held_out.isdisjoint(bare(writer.exchange().question) for _ in range(count))


def test_bare_sees_through_case_blanks_and_punctuation() -> None:
    assert bare("How do I  install it?!") == bare("how do i install it")
    assert bare("怎么 安装？") == bare("怎么安装")


def test_equal_seeds_write_equal_dialogue() -> None:
    first, second = Writer(seed=5), Writer(seed=5)
    assert [first.dialogue() for _ in range(50)] == [second.dialogue() for _ in range(50)]


# --- the answers, held against chatbridge itself ---------------------------------------------------------------

PLUGIN_OPTIONS = {"path", "lora", "context_length", "gpu_layers", "quantize", "strategy", "token", "token_file"}
"""Options of backends and frontends that the answers may name."""
NAMED_BY_PEOPLE = {"mine", "guild", "family", "librarian", "guide", "1122334455"}
FIELDS = {
    key
    for model in (TopKeys, ModelKeys, BotKeys, ChannelSettings, Access, Sampling, Template)
    for key in model.model_fields
} | PLUGIN_OPTIONS
BACKENDS = {"numpy", *FIRST_PARTY["backend"]}
VALUES: dict[str, set[Any]] = {
    "backend": BACKENDS,
    "frontend": {"repl", *FIRST_PARTY["frontend"]},
    "template": {*presets(), "librarian"},
    "extends": set(presets()),
}
SNIPPETS = [
    (f"{intent}.{language}", snippet)
    for intent, texts in ANSWERS.items()
    for language, text in texts.items()
    for snippet in re.findall(r"`([^`]+)`", text)
]


def test_answers_quote_in_pairs() -> None:
    assert not [name for name, texts in ANSWERS.items() for text in texts.values() if text.count("`") % 2]


def test_settings_in_answers_are_real() -> None:
    for where, snippet in SNIPPETS:
        if re.match(r"[{\w]+:( |$)", snippet):
            check_settings(yaml.safe_load(snippet), where)


def check_settings(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            assert key in FIELDS | NAMED_BY_PEOPLE, f"{where}: there is no setting {key!r}"
            if isinstance(inner, str) and key in VALUES:
                assert inner in VALUES[key], f"{where}: {key} can't be {inner!r}"
            check_settings(inner, where)


def test_commands_in_answers_are_real() -> None:
    chat = {f"/{command.name}" for command in BUILTIN}
    for where, snippet in SNIPPETS:
        if snippet.startswith("chatbridge "):
            assert snippet.split()[1] in COMMANDS, f"{where}: {snippet}"
        elif snippet.startswith("/"):
            assert snippet.split()[0] in chat, f"{where}: {snippet}"


def test_options_of_the_terminal_chat_are_real() -> None:
    from chatbridge.cli.repl import command

    real = {option for parameter in command.params for option in parameter.opts}
    named = {
        (where, flag)
        for where, snippet in SNIPPETS
        if where.startswith(("cmd_repl", "one_shot", "resume"))
        for flag in re.findall(r"(?<!\S)--?\w+", snippet)
    }
    assert len(named) >= 7
    assert {flag for _, flag in named} <= real


def test_bare_names_in_answers_are_real() -> None:
    from chatbridge import hookspecs

    words = FIELDS | BACKENDS | set(presets()) | set(FIRST_PARTY["frontend"]) | {"mentions", "always", "never"}
    hooks = {name for name in vars(hookspecs) if name.startswith(("register_", "should_", "turn_"))}
    other = {"chatbridge"}  # the name of the entry-point group
    for where, snippet in SNIPPETS:
        if re.fullmatch(r"[a-z][a-z0-9_-]*:?", snippet):
            assert snippet.rstrip(":") in words | hooks | other, f"{where}: {snippet}"


NEWER = {"register_converters"}
"""Hooks that came after the guide was trained; its next training has them in its answers."""


def test_the_hooks_are_all_named() -> None:
    from chatbridge import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith(("register_", "should_", "turn_"))}
    for language in LANGUAGES:
        assert set(re.findall(r"`(\w+)`", ANSWERS["hooks_list"][language])) == hooks - NEWER


def test_the_chat_commands_that_everybody_may_give_are_all_named() -> None:
    for language in LANGUAGES:
        named = re.findall(r"`/(\w+)`", ANSWERS["chat_commands"][language])
        assert set(named) == {command.name for command in BUILTIN if not command.admin}
