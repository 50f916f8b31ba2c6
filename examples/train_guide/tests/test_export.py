"""The file that is shipped is the network that was trained: same ids, same numbers, same prompt."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
import vocabulary
from chatbridge_numpy.model import load_model
from dialogue import Exchange
from export import export
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from model import Guide, Shape

from chatbridge.prompts import presets, render
from chatbridge.prompts.segments import encode
from chatbridge.types import Turn

QUESTIONS = (
    "How do I install it?",
    "怎么接入 Discord 机器人？",
    "  two  blanks\tand a tab ",
    "naïve 🙂 ﬁ Ⅷ",
    "<|im_end|>",
    "",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, vocabulary.Vocabulary]:
    """A network of random weights: in torch, as its file in the numpy backend, and its vocabulary."""
    folder = tmp_path_factory.mktemp("guide")
    vocabulary.train(folder / "tokens.model", sample=4000)
    words = vocabulary.Vocabulary(folder / "tokens.model")
    torch.manual_seed(1)
    shape = Shape(vocabulary=words.pieces.get_piece_size(), width=64, layers=2, heads=4, inner=96, context=128)
    network = Guide(shape)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:  # what 8 bits can hold, so that nothing is lost on the way
                parameter += 0.2 * torch.randn_like(parameter)
                held = dequantize(quantize(parameter.numpy(), Kind.Q8_0), Kind.Q8_0)
                parameter.copy_(torch.from_numpy(held))
            else:
                parameter += 0.1 * torch.randn_like(parameter)
    torch.save({"model": network.state_dict(), "shape": asdict(shape)}, folder / "checkpoint.pt")
    export(folder, folder / "guide.gguf")
    return network, load_model(folder / "guide.gguf"), words


def test_the_file_computes_what_the_network_does(built: tuple[Any, Any, vocabulary.Vocabulary]) -> None:
    network, model, words = built
    ids = words.prompt("怎么安装 chatbridge? please")
    with torch.no_grad():
        expected = network(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(model.logits(model.new_state(), ids), expected, atol=1e-3, rtol=1e-3)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("name", ["chatml", "model"])
@pytest.mark.parametrize("system", ["", "You are the librarian."])
def test_a_prompt_has_the_very_ids_of_training(
    built: tuple[Any, Any, vocabulary.Vocabulary], name: str, system: str
) -> None:
    _, model, words = built
    for question in QUESTIONS[:-2]:
        turns = [Turn("system", system)] * bool(system) + [Turn("user", question)]
        rendered = render(presets()[name], turns, info=model.info)
        written, learned = words.ids([Exchange("en", "", question, "")], system)
        assert ids_of(rendered, model) == written[: learned.index(True)]


def test_earlier_exchanges_stand_in_the_prompt_as_in_training(built: tuple[Any, Any, vocabulary.Vocabulary]) -> None:
    _, model, words = built
    turns = [Turn("user", "hi"), Turn("assistant", "Hello! 你好"), Turn("user", "bye")]
    rendered = render(presets()["chatml"], turns, info=model.info)
    written, _ = words.ids([Exchange("en", "", "hi", "Hello! 你好"), Exchange("en", "", "bye", "")])
    assert ids_of(rendered, model) == written[:-2]  # without the end of the answer, and the line after it


def test_a_typed_control_token_ends_nothing(built: tuple[Any, Any, vocabulary.Vocabulary]) -> None:
    _, model, words = built
    rendered = render(presets()["chatml"], [Turn("user", "<|im_end|>")], info=model.info)
    assert ids_of(rendered, model).count(words.end) == 1


def test_every_text_comes_back(built: tuple[Any, Any, vocabulary.Vocabulary]) -> None:
    _, model, words = built
    for question in QUESTIONS:
        ids = model.tokenizer.encode(question, start=False)
        assert ids == words.pieces.encode(question) or "<|" in question
        assert model.tokenizer.decode(ids).decode() == question


def test_the_file_says_what_it_is(built: tuple[Any, Any, vocabulary.Vocabulary]) -> None:
    _, model, words = built
    assert model.info.eos[0] == words.end
    assert model.info.context_length == 128


def ids_of(rendered: Any, model: Any) -> list[int]:
    return encode(rendered.prompt, model.tokenizer, bos=model.info.bos, eos=model.info.eos)
