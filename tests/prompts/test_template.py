"""Templates as people write them: what is accepted, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from chatbridge.errors import TemplateError
from chatbridge.prompts import Special, Template, Text, presets, render, resolve
from chatbridge.types import ModelInfo, Turn

INFO = ModelInfo("toy", "toy", 99, 99, "f", "v", (2,))
SOUND = {"user": "U: {text}\n", "assistant": "B: {text}\n"}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"user": "{txt}"}, "user", r"\{txt\} means nothing here; did you mean 'text'\?"),
        ({"user": "hi"}, "user", r"\{text\} has to be in it exactly once, and is there 0 times"),
        ({"assistant": "{text}{text}"}, "assistant", "is there 2 times"),
        ({"user": "{text} {"}, "user", r"a lone '\{'; write '\{\{'"),
        ({"user": "{text} }"}, "user", r"a lone '\}'"),
        ({"user": "{}{text}"}, "user", "a lone"),
        ({"begin": "{text}"}, "begin", "means nothing here"),
        ({"assistant": "{system}{text}"}, "assistant", r"\{system\} means nothing here"),
        ({"name_format": "{text}"}, "name_format", r"\{name\} has to be in it exactly once"),
        ({"name_format": "{bos}{name}{text}"}, "name_format", "can't stand beside a speaker's name"),
        ({"stop": ["a", ""]}, "stop", "would match everywhere"),
        ({"sytem": "x"}, "sytem", "Extra inputs"),
        ({"blanks": "all"}, "blanks", "'keep', 'strip' or 'collapse'"),
    ],
)
def test_mistakes_are_told_where_they_are(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        Template.model_validate(SOUND | fields)
    assert [error["loc"][0] for error in caught.value.errors()] == [field]


def test_a_template_has_to_be_whole() -> None:
    with pytest.raises(ValidationError, match="`assistant` is missing"):
        Template(user="{text}")
    with pytest.raises(ValidationError, match="`jinja` takes the place of user"):
        Template(user="{text}", jinja="model")
    assert Template(extends="alpaca").user == ""


def test_braces_and_tokens() -> None:
    template = Template(begin="", user="{{{text}}}{token:<|x|>}", assistant="{cut}{text}")
    assert render(template, [Turn("user", "a")], info=INFO).prompt == (
        Text("{"), Text("a", "person"), Text("}"), Special("<|x|>"), Special(""),
    )  # fmt: skip


def test_extends() -> None:
    known = presets() | {"mine": Template(extends="alpaca", system="S", stop=["x"])}
    mine = resolve("child", Template(extends="mine", lead="-"), known)
    assert (mine.name, mine.extends, mine.system, mine.stop, mine.lead) == ("child", None, "S", ("x",), "-")
    assert mine.user == presets()["alpaca"].user
    # One's own template may take a preset's name and change just that preset.
    assert resolve("alpaca", Template(extends="alpaca", system="S"), presets()).system == "S"


def test_formats_and_jinja_replace_each_other() -> None:
    known = presets()
    own = resolve("a", Template(extends="alpaca", jinja="model"), known)
    assert (own.jinja, own.user, own.system) == ("model", "", known["alpaca"].system)
    assert resolve("b", Template(extends="model", **SOUND), known).jinja is None


def test_extending_in_vain() -> None:
    with pytest.raises(TemplateError, match=r"extends 'alpacca', which does not exist; did you mean 'alpaca'\?"):
        resolve("mine", Template(extends="alpacca"), presets())
    circle = {"a": Template(extends="b"), "b": Template(extends="a")}
    with pytest.raises(TemplateError, match="template 'b' extends itself: a > b > a"):
        resolve("a", circle["a"], circle)
    with pytest.raises(TemplateError, match="extends itself"):
        resolve("c", Template(extends="a"), circle)


def test_continuing_needs_an_answer() -> None:
    with pytest.raises(TemplateError, match="only an answer can be continued"):
        render(Template(**SOUND), [Turn("user", "a")], info=INFO, continue_last=True)


def test_an_unfinished_first_answer_goes_on_in_the_single_form() -> None:
    glm = presets()["chatglm-6b"]
    asked, answer = Turn("user", "你好"), Turn("assistant", "你")
    before = render(glm, [asked], info=INFO).prompt
    assert render(glm, [asked, answer], info=INFO, continue_last=True).prompt == (*before, Text("你", "person"))


def test_blanks() -> None:
    def said(blanks: str, text: str) -> str:
        template = Template.model_validate({**SOUND, "begin": "", "blanks": blanks})
        part = render(template, [Turn("user", text)], info=INFO).prompt[1]
        assert isinstance(part, Text)
        return part.text

    text = " a\r\n\r\n\n b\u2028c "
    assert said("keep", text) == text
    assert said("strip", text) == text.strip()
    assert said("collapse", text) == "a\n b\nc"
