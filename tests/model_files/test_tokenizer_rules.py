"""What is known of a family's tokenizer besides its file, by traits that no other family has."""

from __future__ import annotations

import pytest

from chatbridge.model_files.tokenizer_rules import TokenizerRules, tokenizer_rules

PHI3 = [
    "<s>",
    "</s>",
    "<unk>",
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|placeholder1|>",
]


def rules(model: str, pre: str, *controls: str) -> TokenizerRules:
    return tokenizer_rules({"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre}, controls)


@pytest.mark.parametrize("pre", ["qwen2", "command-r", "mpt", "olmo"])
def test_texts_are_normalised_where_the_familys_own_tokenizer_does_so(pre: str) -> None:
    found = rules("gpt2", pre)
    assert found.nfc
    assert found.words.startswith("texts in NFC, as in transformers' ")


@pytest.mark.parametrize("pre", ["default", "gpt-2", "llama-bpe", "qwen35", "smollm", "tekken", ""])
def test_other_texts_stay_as_they_are_written(pre: str) -> None:
    assert rules("gpt2", pre, "<|im_start|>", "<|im_end|>") == TokenizerRules()


def test_phi_3s_turns_begin_behind_the_blanks() -> None:
    found = rules("llama", "default", *PHI3)
    assert found.rstrip == {"</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|placeholder1|>"}
    assert not found.lstrip
    assert found.words == (
        "6 control tokens take in the blanks beside them, as in Phi-3's tokenizer.json, and llama.cpp"
    )


def test_phi_4_takes_in_blanks_on_both_sides_and_phi_4_mini_on_one() -> None:
    turns = ["<|im_start|>", "<|im_sep|>", "<|im_end|>"]
    found = rules("gpt2", "dbrx", *turns, "<|endoftext|>")
    assert found.lstrip == found.rstrip == set(turns)
    mini = rules("gpt2", "gpt-4o", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>")
    assert (mini.lstrip, mini.rstrip) == (frozenset(), {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"})


@pytest.mark.parametrize(
    ("model", "pre", "controls"),
    [
        ("llama", "default", ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),  # of some finetune
        ("gpt2", "starcoder", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),  # StarChat
        ("gpt2", "gpt-4o", ["<|start|>", "<|message|>", "<|end|>"]),  # gpt-oss
        ("gpt2", "qwen35", ["<|im_start|>", "<|im_end|>"]),
    ],
)
def test_tokens_of_the_same_names_take_in_nothing_in_other_families(model: str, pre: str, controls: list[str]) -> None:
    assert rules(model, pre, *controls) == TokenizerRules()
