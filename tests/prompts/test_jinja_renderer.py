"""Models' own chat templates in their process: what is endless ends, what is large stays out, and others go on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from chatbridge.errors import TemplateError
from chatbridge.prompts import Template, jinja_renderer, presets, render
from chatbridge.prompts.jinja_renderer import MAX_OUTPUT, JinjaLimits, JinjaRenderer, TemplateLimitError
from chatbridge.prompts.segments import Text
from chatbridge.types import ModelInfo, Turn

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of memory for a process")
GOOD = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}### assistant:\n"


@pytest.fixture
def renderer() -> Iterator[JinjaRenderer]:
    made = JinjaRenderer(lambda: JinjaLimits(seconds=1.0, mebibytes=256))
    yield made
    made.close()


def info(source: str) -> ModelInfo:
    return ModelInfo("toy", "llama", 99, 99, "f", "v", (2,), 1, chat_template=source)


def test_a_template_without_end_is_stopped_and_rests(renderer: JinjaRenderer) -> None:
    with pytest.raises(TemplateLimitError, match="it takes longer than 1 s"):
        renderer.output(ENDLESS, {})
    (child,) = renderer._children.values()
    assert child._process is None, "it has ended"
    with pytest.raises(TemplateLimitError, match="it takes longer than 1 s"):
        renderer.output(ENDLESS, {"another": "job"})
    assert child._process is None, "it was not even begun"
    assert renderer.output("{{ 1 + 1 }}", {}) == "2", "others go on"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param("{% set x = 'a' * 2000000000 %}", "it takes more than 256 MiB of memory", marks=LINUX),
        ("{% for i in range(90000) %}{{ 'a' * 100 }}{% endfor %}", "it writes more than 26[0-9]{4} characters"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{{ raise_exception('no' * 1000) }}", r"refuses this conversation: (no){150}$"),
        ("{% for %}", "can't be read: line 1"),
    ],
)
def test_what_a_template_may_not_is_an_error_in_words(renderer: JinjaRenderer, source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        renderer.output(source, {"x": source})
    assert renderer.output("{{ 1 + 1 }}", {}) == "2"


def test_a_process_that_died_is_replaced(renderer: JinjaRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_renderer, "_REST_SECONDS", 0.0)
    assert renderer.output("{{ a }}", {"a": 1}) == "1"
    (child,) = renderer._children.values()
    assert child._process is not None
    child._process.kill()
    child._process.wait()
    assert renderer.output("{{ a }}", {"a": 2}) == "2"


def test_a_prompt_that_goes_on_is_rendered_once(renderer: JinjaRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    ask = jinja_renderer._Child.render
    monkeypatch.setattr(jinja_renderer._Child, "render", lambda child, job: asked.append(job) or ask(child, job))
    turns = [Turn("user", "a")]
    for text in ("b", "c"):
        render(presets()["model"], turns, info=info(GOOD), renderer=renderer)
        asked.clear()
        turns += [Turn("assistant", text), Turn("user", text)]
        render(presets()["model"], turns, info=info(GOOD), renderer=renderer)
        render(presets()["model"], [*turns[:-1], Turn("user", "other words")], info=info(GOOD), renderer=renderer)
        assert len(asked) <= 1, "other words in the same places are the same to a template"


def test_the_process_sees_no_variable_of_ours(renderer: JinjaRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    assert "secret" not in jinja_renderer._environment().values()
    assert renderer.output("{{ 1 }}", {}) == "1"


async def test_the_loop_goes_on_while_a_template_is_stopped(renderer: JinjaRenderer) -> None:
    work = asyncio.ensure_future(renderer.off_loop(renderer.output, ENDLESS, {}))
    turns = 0
    while not work.done():
        turns += 1
        await asyncio.wait({work}, timeout=0.01)
    with pytest.raises(TemplateLimitError):
        await work
    assert turns > 5


def test_what_is_remembered_is_bounded() -> None:
    renderer = JinjaRenderer(cache_size=8000)
    try:
        for number in range(60):
            renderer.output("{{ n }}{{ 'a' * 200 }}", {"n": number})
        assert renderer._outputs.used <= 8000
        assert 20 <= len(renderer._outputs) < 40
    finally:
        renderer.close()


def test_a_long_conversation_may_be_written_at_length(renderer: JinjaRenderer) -> None:
    source = "{% for m in messages %}{{ m.content }}{{ 'a' * 500 }}{% endfor %}"
    turns = [Turn("assistant" if at % 2 else "user", "ok") for at in range(801)]
    written = render(Template(jinja=source), turns, info=info(""), renderer=renderer).prompt
    assert sum(len(part.text) for part in written if isinstance(part, Text)) > MAX_OUTPUT


def test_few_processes_are_kept(renderer: JinjaRenderer) -> None:
    for number in range(6):
        assert renderer.output("{{ 1 }}" + "x" * number, {}) == "1" + "x" * number
    assert len(renderer._children) <= 4


def test_templates_have_what_they_are_promised(renderer: JinjaRenderer) -> None:
    source = (
        "{% for one in x %}\n  {% if one == 3 %}{% break %}{% endif %}\n{{ one }}\n{% endfor %}\n"
        "{{ {'a': '<é>'} | tojson }} {{ [1] | tojson(indent=1) }} {{ strftime_now('%Y') | length }}"
    )
    assert renderer.output(source, {"x": [1, 2, 3, 4]}) == '1\n2\n{"a": "<é>"} [\n 1\n] 4'


def test_the_processes_of_templates_that_were_used_last_are_kept(renderer: JinjaRenderer) -> None:
    for name in "abcdaefa":
        renderer._child(name)
    assert list(renderer._children) == ["d", "e", "f", "a"]


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("a{% generation %}{{ x[0] }}{% endgeneration %}b", "a1b"),
        ("{% for i in x %}{% generation %}{{ i }}{% if i == 2 %}{% break %}{% endif %}{% endgeneration %}{% endfor %}",
         "12"),
        ("{%- generation -%} {% set y = 1 %}{{ y }}{%- endgeneration -%} {{ y }}", "1"),
    ],
)  # fmt: skip
def test_what_trainers_are_told_by_the_tag_generation_is_written_as_it_stands(
    renderer: JinjaRenderer, source: str, written: str
) -> None:
    assert renderer.output(source, {"x": [1, 2, 3]}) == written


def test_tojson_takes_all_that_the_function_behind_it_takes(renderer: JinjaRenderer) -> None:
    source = "{{ x | tojson(ensure_ascii=%s, separators=(',', ':'), sort_keys=True) }}"
    told = {"x": {"b": "é", "a": 1}}
    assert renderer.output(source % "True", told) == '{"a":1,"b":"\\u00e9"}'
    assert renderer.output(source % "False", told) == '{"a":1,"b":"é"}'


def test_the_clock_of_a_template_stands_at_the_time_that_is_given(renderer: JinjaRenderer) -> None:
    source = "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}"
    assert renderer.output(source, {}, now="2024-02-29T12:34") == "2024-02-29 12:34:00"
    assert renderer.output(source, {}, now="2024-03-01T00:01") == "2024-03-01 00:01:00"
    assert renderer.output(source, {})[-5:] == "00:00", "else each prompt would begin otherwise"


def test_the_variables_of_a_template_are_those_that_it_does_not_make_itself(renderer: JinjaRenderer) -> None:
    source = (
        "{% if not effort is defined %}{% set effort = 'low' %}{% endif %}{% set mine = 1 %}{{ effort }}{{ mine }}"
        "{% macro f(given) %}{{ given }}{{ inside | default('') }}{% endmacro %}{% for m in messages %}{{ f(m) }}"
        "{% endfor %}{{ strftime_now('%Y') }}{{ range(3) }}{{ raise_exception('x') if thinking is true }}"
    )
    assert renderer.variables(source) == {"effort", "inside", "messages", "thinking"}
    with pytest.raises(TemplateError, match="can't be read: line 1"):
        renderer.variables("{% for %}")


def test_a_variable_that_a_template_needs_is_named(renderer: JinjaRenderer) -> None:
    with pytest.raises(TemplateError, match="without its variable 'functions'; give it by `template_options`"):
        renderer.output("{{ functions.x }}", {})
    with pytest.raises(TemplateError, match=r"fails: UndefinedError: .* no attribute 'foo'"):
        renderer.output("{{ x.foo.bar }}", {"x": []})
