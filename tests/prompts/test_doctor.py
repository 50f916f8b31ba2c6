"""The template doctor: nothing to say where all fits, and the right words where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.prompts import Template, diagnose, presets, resolve, suggest_preset
from chatbridge.prompts.builtin import nearest_preset
from chatbridge.types import ModelInfo

LLAMA = {"<unk>": 0, "<s>": 1, "</s>": 2}
CHATML = {**LLAMA, "<|im_start|>": 5, "<|im_end|>": 6}
GLM = {"[gMASK]": 7, "<sop>": 8, "<eop>": 9, "[MASK]": 10, "[sMASK]": 11, "</s>": 2}
OWN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}" \
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"  # fmt: skip


def info(name: str = "toy", specials: dict[str, int] = LLAMA, **options: Any) -> ModelInfo:
    values: dict[str, Any] = {"eos": (2,), "bos": 1, "architecture": "llama", "vocab_size": 32000, **options}
    return ModelInfo(name=name, context_length=9, fingerprint="", vocabulary="", specials=specials, **values)


def said(template: Template, model: ModelInfo) -> str:
    return "\n".join(f"{one.severity}: {one.message} -> {one.remedy}" for one in diagnose(template, model))


def tokens(*names: str) -> dict[str, int]:
    return {**LLAMA, **{name: 3 + at for at, name in enumerate(names)}}


DROPPING = OWN.replace("m.content", "m.content.split('</think>')[-1]")
OPENING = OWN.replace("assistant\n'", "assistant\n<think>\n'")


@pytest.mark.parametrize(("source", "noted"), [(OWN, False), (DROPPING, True), (OPENING, True)])
def test_a_template_that_writes_older_answers_otherwise_is_noted(source: str, noted: bool) -> None:
    words = said(presets()["model"], info(specials=CHATML, chat_template=source))
    assert ("note: the chat template writes an older answer otherwise" in words) == noted


LLAMA_3 = {"<|start_header_id|>": 3, "<|end_header_id|>": 4, "<|eot_id|>": 5}
FITTING = [
    ("alpaca", info("alpaca-7b")),
    ("alpaca-lora", info("llama-7b + alpaca-lora-7b")),
    ("chinese-alpaca", info("chinese-alpaca-plus-7b")),
    ("belle-bloom", info("bloomz", architecture="bloom", bos=None)),
    ("belle-llama-ext", info("BELLE_LLaMA_EXT-7B")),
    ("chatglm-6b", info("chatglm-6b", GLM, bos=None)),
    ("glm-130b", info("glm-130b", GLM, bos=None)),
    ("rwkv-raven", info("RWKV-4-Raven-7B-v11-Eng", {}, bos=None, vocab_size=50277)),
    ("rwkv-raven-zh", info("RWKV-4-Raven-7B-v11-chn", {}, bos=None, vocab_size=50277)),
    ("rwkv-world", info("rwkv", {}, bos=None, vocab_size=65536)),
    ("llama-2", info("Llama-2-7B-Chat")),
    ("llama-2", info("chinese-alpaca-2-7b")),
    ("llama-3", info("x", LLAMA_3)),
    ("vicuna", info("vicuna-13b-v1.5")),
    ("chatml", info("qwen", CHATML)),
    ("llama-4", info("x", tokens("<|header_start|>", "<|header_end|>", "<|eot|>"))),
    ("phi-4", info("x", tokens("<|im_start|>", "<|im_sep|>", "<|im_end|>"))),
    ("glm-4", info("x", tokens("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"), bos=None)),
    ("gemma", info("x", tokens("<start_of_turn>", "<end_of_turn>"))),
    (
        "command-r",
        info(
            "x",
            tokens(
                "<|START_OF_TURN_TOKEN|>",
                "<|END_OF_TURN_TOKEN|>",
                "<|CHATBOT_TOKEN|>",
                "<|USER_TOKEN|>",
                "<|SYSTEM_TOKEN|>",
            ),
        ),
    ),
    ("deepseek", info("x", tokens("<｜User｜>", "<｜Assistant｜>"))),
    ("granite", info("x", tokens("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"))),
    ("phi-3", info("x", tokens("<|user|>", "<|assistant|>", "<|end|>", "<|system|>"))),
    ("mistral-v3", info("x", tokens("[INST]", "[/INST]"), vocab_size=32768)),
    ("mistral-v3-tekken", info("x", tokens("[INST]", "[/INST]"), vocab_size=131072)),
    ("mistral-v7-tekken", info("x", tokens("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"))),
    ("zephyr", info("zephyr-7b-beta")),
    ("zephyr", info("TinyLlama-1.1B-Chat")),
    ("rwkv-world", info("x", {}, bos=None, chat_template="rwkv-world")),
    ("gemma", info("x", tokens("<start_of_turn>", "<end_of_turn>"), chat_template="gemma")),
    ("chatml", info("x", CHATML, chat_template="some-name")),
    ("mistral", info("Mistral-7B-Instruct-v0.1")),
    ("model", info("x", CHATML, chat_template=OWN)),
]


@pytest.mark.parametrize(("preset", "model"), FITTING, ids=[f"{preset}-{model.name}" for preset, model in FITTING])
def test_the_preset_that_fits_is_suggested_and_sound(preset: str, model: ModelInfo) -> None:
    assert suggest_preset(model) == preset
    assert said(presets()[preset], model) == ""


def test_nothing_is_suggested_where_nothing_is_known() -> None:
    assert suggest_preset(info("weights")) is None
    assert said(presets()["alpaca"], info("weights")) == ""


def test_where_no_other_preset_fits_none_is_proposed() -> None:
    lacking = "error: the model has no control token '<|im_start|>', which the template uses -> "
    assert f"{lacking}choose or write a template that fits" in said(presets()["chatml"], info("weights"))


def test_control_tokens_that_the_model_lacks() -> None:
    words = said(presets()["chatml"], info("alpaca-7b"))
    assert (
        "error: the model has no control token '<|im_start|>', which the template uses -> set template: alpaca" in words
    )
    assert "warning: the model looks like one for the template 'alpaca', and 'chatml' is used" in words


def test_one_bos() -> None:
    double = resolve("mine", Template(extends="llama-2", begin="{bos}"), presets())
    assert "error: a prompt has two BOS in a row" in said(double, info())
    none = resolve("mine", Template(extends="alpaca", begin=""), presets())
    assert 'do not begin with the BOS that the model wants -> set begin: "{bos}"' in said(none, info())
    typed = resolve("mine", Template(extends="alpaca", begin="<s>"), presets())
    assert "writes '<s>' as plain text, and the model has it as a control token -> write {bos}" in said(typed, info())
    turns = Template(user="<|im_start|>{text}</s>", assistant="{text}<|im_end|>", stop_tokens=["<|im_end|>"])
    model = info("x", {**CHATML, "<end>": 9}, eos=(2, 6))
    assert [line.rpartition(" -> ")[2] for line in said(turns, model).splitlines() if "as plain text" in line] == [
        "write {eos}",
        "write {token:<|im_start|>}",
        "write {token:<|im_end|>}",
    ]
    in_system = resolve("mine", Template(extends="alpaca", system="Hi</s>"), presets())
    assert "-> write {eos}" in said(in_system, info())


def test_endings() -> None:
    endless = Template(user="U: {text}\n", assistant="B: {text}\n")
    assert "warning: nothing ends an answer but its greatest length" in said(endless, info(eos=()))
    assert "error: the template writes {eos}, and the model names no end token" in said(
        presets()["vicuna"], info(eos=())
    )
    odd = resolve("mine", Template(extends="alpaca", stop=["</s>"], stop_tokens=["<end>"]), presets())
    assert "the stop string '</s>' is a control token" in said(odd, info())
    assert "no control token '<end>'" in said(odd, info())


def test_another_template_than_the_model_s_own() -> None:
    model = info("x", CHATML, chat_template=OWN)
    assert "the model's own chat template writes prompts otherwise than 'alpaca' does" in said(
        presets()["alpaca"], model
    )
    assert said(presets()["chatml"], model) == ""  # the same prompts under another name
    plain = Template(
        begin="{bos}",
        system_turn="{token:<|im_start|>}system\n{text}{token:<|im_end|>}\n",
        user="{token:<|im_start|>}user\n{text}{token:<|im_end|>}\n",
        assistant="{token:<|im_start|>}assistant\n{text}{token:<|im_end|>}\n",
    )
    own = OWN.replace("<|im_start|>", "<|im_end|>")  # the same words between other control tokens
    assert "writes prompts otherwise" in said(plain, info("x", CHATML, chat_template=own, bos=None))
    broken = info("alpaca", chat_template="{{ nothing.at.all }}")
    assert said(presets()["alpaca"], broken) == ""
    assert "error: the template 'model' can't be used with 'alpaca'" in said(presets()["model"], broken)


def test_a_template_of_ones_own_is_another_if_its_headers_or_control_tokens_are() -> None:
    alpaca, model = presets()["alpaca"], info("alpaca-7b", {**LLAMA, "<end>": 9})
    changes = [{"begin": ""}, {"user": "### Asked:\n{text}\n\n"}, {"user": alpaca.user + "{token:<end>}"}]
    mine = [resolve("mine", Template(extends="alpaca", **change), presets()) for change in changes]
    assert ["looks like one for the template 'alpaca'" in said(one, model) for one in mine] == [False, True, True]


def test_a_persona_is_no_other_template() -> None:
    librarian = resolve("librarian", Template(extends="alpaca", system="You are the librarian."), presets())
    assert said(librarian, info("alpaca-7b")) == ""
    assert "'alpaca-lora'" in said(librarian, info("alpaca-lora"))
    assert said(presets()["rwkv-raven-alice"], info("RWKV-4-Raven", {}, bos=None)) == ""


def test_a_model_without_an_end_token_is_told_of_that_where_the_template_writes_one_alone() -> None:
    turns = Template(user="{token:<|im_start|>}{text}\n", assistant="B: {text}{token:<|im_end|>}", stop=["\n"])
    assert "error:" not in said(turns, info("x", CHATML, eos=(), bos=None))


def test_a_gap_between_turns_is_a_warning_with_a_remedy() -> None:
    told = said(Template(user="{text}; \n", assistant="{text}; \n", stop=["x"], begin="{bos}"), info())
    (line,) = told.splitlines()
    assert line.startswith("warning: between two turns the template writes only '; \\n', which people can write")
    assert " -> give `user` and `assistant` a header" in line


def test_control_tokens_are_compared_by_their_ids_and_texts_as_a_whole() -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}" \
             "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"  # fmt: skip
    model = info("x", chat_template=source)
    mine = Template(
        begin="{bos}",
        system_turn="system: {text}{eos}",
        user="user: {text}{eos}",
        assistant="assistant: {text}{eos}",
    )
    assert "otherwise" not in said(mine, model), "</s> is the end token by another name"
    other = mine.model_copy(update={"generate": "Well, "})
    assert "otherwise" in said(other, model)
    other = mine.model_copy(update={"begin": "{bos}Hi. "})
    assert "otherwise" in said(other, model)


@pytest.mark.parametrize(
    ("name", "rows", "preset"),
    [
        ("rwkv", 65525, "rwkv-world"),
        ("rwkv", 65524, "rwkv-raven"),
        ("rwkv-4-world", 50277, "rwkv-world"),
        ("hello-world", 65536, None),
    ],
)
def test_world_models_of_rwkv_are_known_by_their_vocabulary_or_name(name: str, rows: int, preset: str | None) -> None:
    assert suggest_preset(info(name, {}, bos=None, vocab_size=rows)) == preset


def test_the_models_own_template_goes_before_all_and_its_tokens_before_its_name() -> None:
    assert suggest_preset(info("alpaca", CHATML)) == "chatml"
    assert suggest_preset(info("alpaca", CHATML, chat_template="{{ x }}")) == "model"
    assert suggest_preset(info("alpaca", {"<|im_start|>": 1})) == "alpaca", "one of two tokens says nothing"
    assert suggest_preset(info("GLM_130B", GLM)) == "glm-130b"


@pytest.mark.parametrize(
    ("source", "names", "preset"),
    [
        ("{{ '<|im_start|>' }}{{ '<|im_end|>' }}", ("<|im_start|>", "<|im_end|>"), "chatml"),
        ("{{ '<|im_start|>' }}{{ '<|im_end|>' }}", (), None),  # the tokens that it needs are not there
        ("[INST] {{ x }} [/INST]", (), "mistral"),
        ("<<SYS>> [INST] {{ x }} [/INST]", (), "llama-2"),
        ("[INST]{{ x }}[/INST]", ("[INST]", "[/INST]"), "mistral-v3"),
        ("[SYSTEM_PROMPT][/SYSTEM_PROMPT][INST][/INST]",
         ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "mistral-v7-tekken"),
        ("### Instruction:\n### Response:", (), "alpaca"),
        ("{{ x }}", ("<|im_start|>", "<|im_end|>"), None),
    ],
)  # fmt: skip
def test_the_nearest_preset_writes_what_the_template_writes(source: str, names: tuple[str, ...], preset: str) -> None:
    assert nearest_preset(info("x", tokens(*names), chat_template=source)) == preset
