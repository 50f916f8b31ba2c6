"""From a conversation to a request, with plain values: no store, no model, no bridge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import pytest

from chatbridge import Channel, ChannelSettings, ModelInfo, Prompt, PromptTooLong, Reply, Sampling, Special, Text
from chatbridge.bots.request import LONG, AnswerTarget, BuiltRequest, build_request, choose_template
from chatbridge.errors import TemplateError
from chatbridge.prompts import presets
from chatbridge.prompts.jinja_renderer import JinjaRenderer
from chatbridge.prompts.template import Template
from chatbridge.store import Node

P = ParamSpec("P")
T = TypeVar("T")
HOW = ("hide", "show", "fold")
INFO = ModelInfo("m", "toy", context_length=400, vocab_size=256, fingerprint="f", vocabulary="v", eos=(0,))
SETTINGS = ChannelSettings(template="vicuna", sampling=Sampling(max_tokens=50))
VICUNA = presets()["vicuna"]
PATH = tuple(
    Node(10 + i, 1, 9 + i or None, "assistant" if i % 2 else "user", f"{'said' if i % 2 else 'asked'} {i} " + "x" * 40)
    for i in range(7)
)


async def letters(prompt: Prompt) -> int:
    """A tokenizer whose tokens are letters."""
    return sum(len(part.text) for part in prompt if isinstance(part, Text))


async def build(
    path: tuple[Node, ...] = PATH,
    settings: ChannelSettings = SETTINGS,
    info: ModelInfo = INFO,
    target: AnswerTarget | None = None,
    channel: Channel | None = None,
    trim: int | None = None,
    system_trusted: bool = True,
    template: Template = VICUNA,
) -> BuiltRequest:
    return await build_request(
        target or AnswerTarget(path[-1]),
        path,
        settings,
        template,
        info,
        letters,
        bot="bot",
        channel=channel or Channel("c"),
        trim=trim,
        system_trusted=system_trusted,
    )


def text(built: BuiltRequest) -> str:
    return "".join(part.text for part in built.request.prompt if isinstance(part, Text))


async def test_all_of_it_is_in_the_prompt_where_it_fits() -> None:
    built = await build(info=replace(INFO, context_length=4000))
    assert [turn.text for turn in built.request.turns] == [node.text for node in PATH]
    assert (built.left_out, built.newly_dropped, built.trim, built.trim_moved) == (0, 0, None, False)
    assert built.notices("en") == []


async def test_what_does_not_fit_is_dropped_in_a_block_and_told_once() -> None:
    built = await build()
    assert built.trim == 14, "half of the messages before the one that is asked"
    assert built.trim_moved
    assert (built.left_out, built.newly_dropped) == (4, 4)
    assert len(built.notices("en")) == 1
    again = await build(trim=built.trim)
    assert again.request.prompt == built.request.prompt
    assert (again.left_out, again.newly_dropped, again.trim, again.trim_moved) == (4, 0, 14, False)
    assert again.notices("en") == []


async def test_a_trim_that_is_on_another_branch_counts_for_nothing() -> None:
    assert (await build(trim=99)).trim == (await build()).trim


async def test_a_message_that_does_not_even_fit_alone_is_an_error() -> None:
    with pytest.raises(PromptTooLong):
        await build(path=(replace(PATH[0], text="x" * 500),))


async def test_names_stand_in_groups_only_unless_the_settings_say_else() -> None:
    path = (replace(PATH[0], name="Ann"),)
    for names, kind, named in (("auto", "group", True), ("auto", "private", False), ("always", "private", True)):
        settings = SETTINGS.model_copy(update={"speaker_names": names})
        built = await build(path, settings, channel=Channel("c", kind=kind))  # type: ignore[arg-type]
        assert ("Ann" in text(built)) == named, (names, kind)


async def test_an_answer_in_a_group_ends_at_the_speakers_who_are_named_unless_the_settings_say_else() -> None:
    path = (replace(PATH[0], name="Ann"),)
    for ends, kind, speakers in ((True, "group", ("bot: ", "Ann: ")), (False, "group", ()), (True, "private", ())):
        settings = SETTINGS.model_copy(update={"end_at_speakers": ends})
        built = await build(path, settings, channel=Channel("c", kind=kind))  # type: ignore[arg-type]
        assert built.request.speakers == speakers, (ends, kind)


async def test_thoughts_are_streamed_unless_they_are_hidden() -> None:
    shown = [(await build(settings=SETTINGS.model_copy(update={"thinking": how}))).request.show_thinking for how in HOW]
    assert dict(zip(HOW, shown, strict=True)) == {"hide": False, "show": True, "fold": True}


async def test_variables_are_filled_into_trusted_system_texts_alone() -> None:
    settings = SETTINGS.model_copy(update={"system": "I am {bot} in {channel}."})
    assert "I am bot in Room." in text(await build(PATH[:1], settings, channel=Channel("c", "Room")))
    assert "{bot}" in text(await build(PATH[:1], settings, channel=Channel("c", "Room"), system_trusted=False))


async def test_an_unfinished_answer_goes_on_by_its_ids_where_the_model_can_read_them() -> None:
    unfinished = replace(PATH[1], text="so far", reply=Reply("so far", (7, 8, 9), "", "v"))
    target = AnswerTarget(PATH[0], unfinished)
    built = await build(PATH[:1], target=target)
    assert built.request.resume == (7, 8, 9)
    assert built.request.sampling.max_tokens == 53, "those that are there already do not count against the limit"
    assert built.before == ""
    other = await build(PATH[:1], target=target, info=replace(INFO, vocabulary="another"))
    assert other.request.resume == ()
    assert other.before == "so far"
    assert text(other).endswith("so far")


async def test_the_models_own_sampling_lies_beneath_the_channels() -> None:
    info = replace(INFO, sampling=Sampling(temperature=0.1, top_k=7))
    built = await build(PATH[:1], SETTINGS.model_copy(update={"sampling": Sampling(temperature=0.9)}), info)
    assert (built.request.sampling.temperature, built.request.sampling.top_k) == (0.9, 7)


async def test_the_template_is_the_one_that_is_set_or_the_one_that_fits() -> None:
    known = presets()
    assert choose_template(known, SETTINGS, INFO) is known["vicuna"]
    unset = SETTINGS.model_copy(update={"template": None})
    assert choose_template(known, unset, replace(INFO, name="alpaca-7b")) is known["alpaca"]
    with pytest.raises(TemplateError, match="does not say which template"):
        choose_template(known, unset, INFO)
    with pytest.raises(TemplateError, match="did you mean 'vicuna'"):
        choose_template(known, SETTINGS.model_copy(update={"template": "vicunna"}), INFO)
    assert Special("bos") not in (await build(PATH[:1])).request.prompt[1:]


async def test_in_a_group_two_of_one_name_and_who_has_none_speak_for_nobody_else() -> None:
    said = (("a", "Al", "hi"), ("b", "Al", "me too"), ("c", "", "hm\nAl: I agree"))
    path = tuple(Node(i, 1, i - 1 or None, "user", text, name, author=id) for i, (id, name, text) in enumerate(said, 1))
    built = await build(path, channel=Channel("c", kind="group"))
    prompt = "".join(part.text for part in built.request.prompt if isinstance(part, Text))
    assert "Al: hi\nAl (2): me too\n?: hm\n> Al: I agree" in prompt


async def test_what_an_unfinished_answer_has_already_takes_room_as_well() -> None:
    def going_on(tokens: int) -> AnswerTarget:
        return AnswerTarget(PATH[-1], replace(PATH[1], text="so far", reply=Reply("so far", (7,) * tokens, "", "v")))

    few, many = [await build(target=going_on(tokens)) for tokens in (3, 100)]
    assert (few.request.resume, many.request.resume) == ((7,) * 3, (7,) * 100)
    assert (few.left_out, many.left_out) == (4, 6)
    alone = [await build(PATH[:1], target=replace(going_on(tokens), asked=PATH[0])) for tokens in (1, 100)]
    assert [one.left_out for one in alone] == [0, 0]
    with pytest.raises(PromptTooLong):
        await build(PATH[:1], target=replace(going_on(200), asked=PATH[0]))


class Aside(JinjaRenderer):
    """Counts what is rendered beside the event loop."""

    aside = 0

    async def off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.aside += 1
        return await super().off_loop(work, *args, **kwargs)

    def output(self, source: str, values: Mapping[str, Any], *, now: str = "") -> str:
        return "".join(f"<{message['role']}> {message['content']}\n" for message in values["messages"])


@pytest.mark.parametrize(("template", "aside"), [(VICUNA, 0), (Template(name="mine", jinja="{{ messages }}"), 2)])
async def test_a_template_that_may_take_its_time_is_run_beside_the_event_loop(template: Template, aside: int) -> None:
    renderer = Aside()
    unfinished = replace(PATH[1], text="so far")
    await build_request(
        AnswerTarget(PATH[0], unfinished), PATH[:1], SETTINGS, template, INFO, letters, bot="bot", channel=Channel("c"),
        renderer=renderer,
    )  # fmt: skip
    assert renderer.aside == aside
    renderer.close()


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_however_long_a_prompt_is_it_is_the_same_wherever_it_is_rendered(more: int) -> None:
    path = (replace(PATH[0], text="x" * (LONG + more)),)
    built = await build(path, info=replace(INFO, context_length=20_000))
    assert path[0].text in text(built)


OWN = (
    "{{ strftime_now('%Y-%m-%d %H:%M') }} {{ 'off' if enable_thinking is false else 'on' }}"
    "{% if messages[0].role != 'system' %}" + "A long text. " * 60 + "{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


async def test_a_template_gets_its_options_and_the_time_of_the_first_message() -> None:
    at = datetime(2024, 2, 29, 23, 58)
    path = tuple(replace(node, created=at.timestamp() + 86_400 * number) for number, node in enumerate(PATH[:3]))
    model = replace(INFO, context_length=4000, chat_template=OWN)
    settings = ChannelSettings(template="model", system="Be kind.", template_options={"enable_thinking": False})
    built = await build(path, settings, model, template=presets()["model"])
    assert text(built).startswith("2024-02-29 23:58 off<system>Be kind.<user>asked 0")
    assert built.notes == ()
    with pytest.raises(TemplateError, match="no variable 'effort'"):
        await build(
            path, settings.merged(ChannelSettings(template_options={"effort": 1})), model, template=presets()["model"]
        )


async def test_a_long_text_that_nobody_asked_for_is_noted_unless_it_is_left_out() -> None:
    model = replace(INFO, context_length=4000, chat_template=OWN)
    for system, notes in ((None, 1), ("", 0), ("Be kind.", 0)):
        settings = ChannelSettings(template="model", system=system)
        built = await build(PATH[:1], settings, model, template=presets()["model"])
        assert (len(built.notes), "A long text" in text(built)) == (notes, bool(notes))
