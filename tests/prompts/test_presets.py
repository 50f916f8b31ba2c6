"""The presets against the prompt strings that the models' own projects write, byte for byte."""

from __future__ import annotations

import re
from typing import Any

import pytest

from chatbridge.prompts import Prompt, Special, Template, Text, presets, render, resolve
from chatbridge.types import ModelInfo, Turn

INFO = ModelInfo("toy", "toy", 2048, 500, "f", "v", eos=(2,), bos=1)


def user(text: str, **options: Any) -> Turn:
    return Turn("user", text, **options)


def chat(history: list[list[str]], query: str) -> list[Turn]:
    turns = [turn for asked, said in history for turn in (user(asked), Turn("assistant", said))]
    return [*turns, user(query)]


def write(template: Template | str, *turns: Turn) -> str:
    """The plain text of a prompt."""
    template = presets()[template] if isinstance(template, str) else template
    return text_of(render(template, turns, info=INFO).prompt)


def text_of(prompt: Prompt) -> str:
    return "".join(segment.text for segment in prompt if isinstance(segment, Text))


def controls_of(template: str, *turns: Turn) -> list[str]:
    prompt = render(presets()[template], turns, info=INFO).prompt
    return [segment.token for segment in prompt if isinstance(segment, Special)]


def changed(name: str, **fields: Any) -> Template:
    return resolve("mine", Template(extends=name, **fields), presets())


def test_all_presets_are_there() -> None:
    assert set(presets()) == {
        "alpaca", "alpaca-lora", "chinese-alpaca", "belle-bloom", "belle-llama-ext", "chatglm-6b", "glm-130b",
        "rwkv-raven", "rwkv-raven-zh", "rwkv-raven-qa", "rwkv-raven-alice", "rwkv-instruct", "rwkv-world",
        "llama-2", "llama-3", "llama-4", "vicuna", "chatml", "mistral", "mistral-v3", "mistral-v3-tekken",
        "mistral-v7-tekken", "gemma", "phi-3", "phi-4", "deepseek", "deepseek-coder", "command-r", "glm-4", "granite",
        "zephyr", "model",
    }  # fmt: skip
    assert all(template.name == name and template.summary for name, template in presets().items())


@pytest.mark.parametrize(("preset", "recorded"), [("alpaca-lora", "alpaca-lora"), ("alpaca", "stanford-alpaca")])
def test_alpaca(published: dict[str, Any], preset: str, recorded: str) -> None:
    plain, with_input = published[recorded]["cases"]
    assert write(preset, user(plain["instruction"])) == plain["prompt"]
    # An instruction with an input is a persona that does one thing to whatever people write.
    task = changed(
        preset,
        system="Below is an instruction that describes a task, paired with an input that provides further context."
        " Write a response that appropriately completes the request.",
        user=f"### Instruction:\n{with_input['instruction']}\n\n### Input:\n{{text}}\n\n",
    )
    assert write(task, user(with_input["input"])) == with_input["prompt"]


def test_chinese_alpaca_as_it_was_trained_and_served(published: dict[str, Any]) -> None:
    recorded = published["chinese-alpaca"]
    training, served = recorded["training"], recorded["openai_server_multi_turn"]
    assert write("chinese-alpaca", user(training["instruction"])) == training["prompt"]
    assert write("chinese-alpaca", *chat(served["history"], served["query"])) == served["prompt"]


def test_other_forms_of_chinese_alpaca_can_be_written(published: dict[str, Any]) -> None:
    line, web = published["chinese-alpaca"]["inference_hf"], published["chinese-alpaca"]["gradio_multi_turn"]
    command_line = changed(
        "chinese-alpaca", user="### Instruction:\n\n{text}\n\n", assistant="### Response:\n\n{text}\n\n"
    )
    demo = changed("chinese-alpaca", system_turn="\n{text}\n", generate="\n ")
    assert write(command_line, user(line["instruction"])) == line["prompt"]
    assert write(demo, *chat(web["history"], web["query"])) == web["prompt"]


def test_belle(published: dict[str, Any]) -> None:
    bloom, llama = published["belle"]["bloom"], published["belle"]["llama_ext"]
    assert write("belle-bloom", user(bloom["query"])) == bloom["prompt"]
    assert write("belle-llama-ext", user(llama["query"])) == llama["prompt"]
    prompt = render(presets()["belle-llama-ext"], chat([["a", "b"]], "c"), info=INFO).prompt
    # Each block is encoded by itself, without BOS, and </s> follows each answer.
    assert [part for part in prompt if part != Special("")] == [
        Text("Human: \n"), Text("a", "person"), Text("\n\nAssistant: \n"), Text("b", "person"), Special("eos"),
        Text("Human: \n"), Text("c", "person"), Text("\n\nAssistant: \n"),
    ]  # fmt: skip


def test_chatglm(published: dict[str, Any]) -> None:
    assert published["chatglm-6b"]["cases"]
    for recorded in published["chatglm-6b"]["cases"]:
        turns = chat(recorded["history"], recorded["query"])
        assert write("chatglm-6b", *turns) == recorded["prompt"]
        assert controls_of("chatglm-6b", *turns) == published["chatglm-6b"]["ids_suffix"]


def test_glm_130b_masks() -> None:
    glm = presets()["glm-130b"]
    sop, gmask, mask = Special("<sop>"), Special("[gMASK]"), Special("[MASK]")

    def prompt(text: str, trusted: bool = True) -> Prompt:
        return render(glm, [user(text, trusted=trusted)], info=INFO).prompt

    assert prompt("The sea") == (Text("The sea"), gmask, sop)
    assert prompt("The sea is [MASK]") == (Text("The sea is "), mask, sop)
    assert prompt("The [MASK] is [sMASK].") == (
        Text("The "), mask, Text(" is "), Special("[sMASK]"), Text("."), Special("</s>"), sop,
    )  # fmt: skip
    # A stranger's mask is a word like any other.
    assert prompt("The sea is [MASK]", trusted=False) == (Text("The sea is [MASK]", "person"), gmask, sop)


def test_rwkv_raven(published: dict[str, Any]) -> None:
    recorded = published["rwkv-raven"]
    init, turn = recorded["init_prompt"]["text"], recorded["chat_turn"]
    example = Turn("system", init, trusted=True)
    assert write("rwkv-raven-alice", example, user(turn["message"])) == init + turn["text"]
    for preset, names in [("rwkv-raven", "chat_turn_q_and_a_en"), ("rwkv-raven-zh", "chat_turn_q_and_a_zh")]:
        end = f"{recorded[names]['user']}: hi\n\n{recorded[names]['bot']}:"
        assert write(preset, user("hi")).endswith("\n\n" + end)
    assert turn["stop"] in presets()["rwkv-raven"].stop


def test_other_forms_of_rwkv(published: dict[str, Any]) -> None:
    recorded = published["rwkv-raven"]
    assert write("rwkv-instruct", user(recorded["instruct"]["message"])) == recorded["instruct"]["text"]
    assert write("rwkv-raven-qa", user(recorded["qq"]["message"])) == recorded["qq"]["text"]
    world = recorded["world"]
    (said,) = re.findall(rf"{world['user']}: (.*)\n\n{world['bot']}:$", world["text"], re.DOTALL)
    assert write("rwkv-world", user(said)) == world["text"]
    free = Template(user="{text}", assistant="{text}", single="\n{text}")
    assert write(free, user(recorded["gen"]["message"])) == recorded["gen"]["text"]


def test_llama_2() -> None:
    prompt = render(presets()["llama-2"], [Turn("system", "S", trusted=True), *chat([["a", "b"]], "c")], info=INFO)
    bos = Special("bos")
    assert prompt.prompt == (
        bos, Text("[INST] <<SYS>>\nS\n<</SYS>>\n\n"), Text("a", "person"), Text(" [/INST] "), Text("b", "person"),
        Text(" "), Special("eos"), bos, Text("[INST] "), Text("c", "person"), Text(" [/INST]"),
    )  # fmt: skip


def test_chatml() -> None:
    start, end = Special("<|im_start|>"), Special("<|im_end|>")
    assert render(presets()["chatml"], chat([["a", "b"]], "c"), info=INFO).prompt == (
        Special("bos"), start, Text("user\n"), Text("a", "person"), end, Text("\n"),
        start, Text("assistant\n"), Text("b", "person"), end, Text("\n"),
        start, Text("user\n"), Text("c", "person"), end, Text("\n"), start, Text("assistant\n"),
    )  # fmt: skip


def test_llama_3() -> None:
    begin, end, eot = Special("<|start_header_id|>"), Special("<|end_header_id|>"), Special("<|eot_id|>")
    assert render(presets()["llama-3"], [Turn("system", "S", trusted=True), user(" a ")], info=INFO).prompt == (
        Special("bos"), begin, Text("system"), end, Text("\n\nS"), eot,
        begin, Text("user"), end, Text("\n\n"), Text("a", "person"), eot,
        begin, Text("assistant"), end, Text("\n\n"),
    )  # fmt: skip


def test_neighbouring_turns_of_a_role_are_lines_of_one() -> None:
    talk = (user("a"), user("b"), Turn("assistant", "x"), Turn("assistant", "y"), user("c"))
    assert "USER: a\nb ASSISTANT: x\n yUSER: c" in write("vicuna", *talk)
    assert "S\n\nT" in write("chatml", Turn("system", "S", trusted=True), Turn("system", "T"), user("a"))


def test_a_header_is_quoted_where_a_neighbouring_turn_begins_a_line() -> None:
    asked, answered = (user("a"), user("USER: b")), (Turn("assistant", "x"), Turn("assistant", "USER: y"))
    written = write("vicuna", *asked, *answered, user("c"))
    assert "USER: a\nUSER_: b ASSISTANT: x\n USER_: yUSER: c" in written


def test_what_the_configuration_has_a_model_say_stands_as_it_is() -> None:
    def said(trusted: bool) -> str:
        answers = (Turn("assistant", "x"), Turn("assistant", "USER: y", trusted=trusted))
        return write("vicuna", user("a"), *answers, user("c"))

    assert "x\n USER: yUSER: c" in said(True)
    assert "x\n USER_: yUSER: c" in said(False)
    assert "USER: USER: a ASSISTANT:" in write("vicuna", user("USER: a", trusted=True))


def test_vicuna_and_mistral() -> None:
    vicuna = write("vicuna", *chat([["a", "b"]], "c"))
    assert vicuna.endswith("to the user's questions. USER: a ASSISTANT: bUSER: c ASSISTANT:")
    assert controls_of("vicuna", *chat([["a", "b"]], "c")) == ["bos", "eos"]
    mistral = write("mistral", Turn("system", "S", trusted=True), *chat([["a", "b"]], "c"))
    assert mistral == "[INST] S\n\na [/INST] b[INST] c [/INST]"
    assert controls_of("mistral", *chat([["a", "b"]], "c")) == ["bos", "eos"]


# As the models' own chat templates write this conversation; control tokens stand in angle brackets.
TALK = (Turn("system", "Be kind.", trusted=True), user("Hi"), Turn("assistant", "Yes?"), user("Bye"))
PUBLISHED = {
    "mistral-v3": "⟨bos⟩⟨[INST]⟩ Be kind.\n\nHi⟨[/INST]⟩ Yes?⟨eos⟩⟨[INST]⟩ Bye⟨[/INST]⟩",
    "mistral-v3-tekken": "⟨bos⟩⟨[INST]⟩Be kind.\n\nHi⟨[/INST]⟩Yes?⟨eos⟩⟨[INST]⟩Bye⟨[/INST]⟩",
    "mistral-v7-tekken": "⟨bos⟩⟨[SYSTEM_PROMPT]⟩Be kind.⟨[/SYSTEM_PROMPT]⟩"
    "⟨[INST]⟩Hi⟨[/INST]⟩Yes?⟨eos⟩⟨[INST]⟩Bye⟨[/INST]⟩",
    "gemma": "⟨bos⟩⟨<start_of_turn>⟩user\nBe kind.\n\nHi⟨<end_of_turn>⟩\n⟨<start_of_turn>⟩model\nYes?⟨<end_of_turn>⟩\n"
    "⟨<start_of_turn>⟩user\nBye⟨<end_of_turn>⟩\n⟨<start_of_turn>⟩model\n",
    "phi-3": "⟨bos⟩⟨<|system|>⟩\nBe kind.⟨<|end|>⟩\n⟨<|user|>⟩\nHi⟨<|end|>⟩\n⟨<|assistant|>⟩\nYes?⟨<|end|>⟩\n"
    "⟨<|user|>⟩\nBye⟨<|end|>⟩\n⟨<|assistant|>⟩\n",
    "phi-4": "⟨bos⟩⟨<|im_start|>⟩system⟨<|im_sep|>⟩Be kind.⟨<|im_end|>⟩⟨<|im_start|>⟩user⟨<|im_sep|>⟩Hi⟨<|im_end|>⟩"
    "⟨<|im_start|>⟩assistant⟨<|im_sep|>⟩Yes?⟨<|im_end|>⟩⟨<|im_start|>⟩user⟨<|im_sep|>⟩Bye⟨<|im_end|>⟩"
    "⟨<|im_start|>⟩assistant⟨<|im_sep|>⟩",
    "deepseek": "⟨bos⟩Be kind.⟨<｜User｜>⟩Hi⟨<｜Assistant｜>⟩Yes?⟨eos⟩⟨<｜User｜>⟩Bye⟨<｜Assistant｜>⟩",
    "deepseek-coder": "⟨bos⟩Be kind.\n### Instruction:\nHi\n### Response:\nYes?\n⟨<|EOT|>⟩\n"
    "### Instruction:\nBye\n### Response:\n",
    "command-r": "⟨bos⟩⟨<|START_OF_TURN_TOKEN|>⟩⟨<|SYSTEM_TOKEN|>⟩Be kind.⟨<|END_OF_TURN_TOKEN|>⟩"
    "⟨<|START_OF_TURN_TOKEN|>⟩⟨<|USER_TOKEN|>⟩Hi⟨<|END_OF_TURN_TOKEN|>⟩"
    "⟨<|START_OF_TURN_TOKEN|>⟩⟨<|CHATBOT_TOKEN|>⟩Yes?⟨<|END_OF_TURN_TOKEN|>⟩"
    "⟨<|START_OF_TURN_TOKEN|>⟩⟨<|USER_TOKEN|>⟩Bye⟨<|END_OF_TURN_TOKEN|>⟩⟨<|START_OF_TURN_TOKEN|>⟩⟨<|CHATBOT_TOKEN|>⟩",
    "glm-4": "⟨[gMASK]⟩⟨<sop>⟩⟨<|system|>⟩\nBe kind.⟨<|user|>⟩\nHi⟨<|assistant|>⟩\nYes?⟨<|user|>⟩\nBye"
    "⟨<|assistant|>⟩\n",
    "granite": "⟨bos⟩⟨<|start_of_role|>⟩system⟨<|end_of_role|>⟩Be kind.⟨<|end_of_text|>⟩\n"
    "⟨<|start_of_role|>⟩user⟨<|end_of_role|>⟩Hi⟨<|end_of_text|>⟩\n"
    "⟨<|start_of_role|>⟩assistant⟨<|end_of_role|>⟩Yes?⟨<|end_of_text|>⟩\n"
    "⟨<|start_of_role|>⟩user⟨<|end_of_role|>⟩Bye⟨<|end_of_text|>⟩\n⟨<|start_of_role|>⟩assistant⟨<|end_of_role|>⟩",
    "llama-4": "⟨bos⟩⟨<|header_start|>⟩system⟨<|header_end|>⟩\n\nBe kind.⟨<|eot|>⟩"
    "⟨<|header_start|>⟩user⟨<|header_end|>⟩\n\nHi⟨<|eot|>⟩⟨<|header_start|>⟩assistant⟨<|header_end|>⟩\n\nYes?⟨<|eot|>⟩"
    "⟨<|header_start|>⟩user⟨<|header_end|>⟩\n\nBye⟨<|eot|>⟩⟨<|header_start|>⟩assistant⟨<|header_end|>⟩\n\n",
    "zephyr": "⟨bos⟩<|system|>\nBe kind.⟨eos⟩\n<|user|>\nHi⟨eos⟩\n<|assistant|>\nYes?⟨eos⟩\n<|user|>\nBye⟨eos⟩\n"
    "<|assistant|>\n",
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_of_families_write_what_their_own_templates_write(preset: str) -> None:
    prompt = render(presets()[preset], TALK, info=INFO).prompt
    shown = (f"⟨{part.token}⟩" if isinstance(part, Special) else getattr(part, "text", "") for part in prompt)
    assert "".join(shown) == PUBLISHED[preset]
