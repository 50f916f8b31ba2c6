"""Sizes are told from shapes alone: of parts that are there and missing, packed or not, and whatever the layers are."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import pytest

from chatbridge import TensorInfo
from chatbridge.model_files.families import FAMILIES, GENERIC, Family
from chatbridge.model_files.shapes import Sizes, family_of, from_config, measure, types_in, uneven_layers

from .writers import Shapes, hub_llama, meta_llama

META, HUB = (family for family in FAMILIES if family.name == "LLaMA")
GLM = next(family for family in FAMILIES if family.name == "ChatGLM-6B")
WIDTHS = {"float16": 2, "float32": 4, "int8": 1, "uint8": 1}


def tensors(shapes: Shapes, dtype: str = "float16", prefix: str = "", **others: str) -> dict[str, TensorInfo]:
    """`others`: other types, by how names end."""
    found = {}
    for name, shape in shapes.items():
        kind = next((other for end, other in others.items() if name.endswith(end)), dtype)
        found[name.removeprefix(prefix)] = TensorInfo(shape, kind, prod(shape) * WIDTHS[kind])
    return found


def test_one_part_tells_what_all_of_them_have() -> None:
    whole = measure(META, [tensors(meta_llama())])
    part = tensors(meta_llama(parts=4))
    for there in (1, 2, 4):
        found = measure(META, [dict(part) for _ in range(there)])
        assert (found.degree, found.layers, found.width, found.inner) == (4, 2, 16, 32)
        assert (found.vocabulary, found.head, found.parameters) == (48, 48, whole.parameters)
    assert measure(META, [dict(part) for _ in range(5)]).degree == 4
    assert (whole.degree, whole.vocabulary, whole.head) == (1, 48, 48)


def test_parts_of_two_sizes_add_up() -> None:
    part = tensors(meta_llama(parts=2))
    other = {**part, "output.weight": TensorInfo((30, 16), "float16", 960)}
    found = measure(META, [part, other])
    assert (found.head, found.parameters) == (24 + 30, measure(META, [part, dict(part)]).parameters + 6 * 16)


def test_layers_that_are_there_tell_the_sizes_of_a_model_without_its_first() -> None:
    shapes = {name: shape for name, shape in hub_llama(layers=4).items() if ".layers.0." not in name}
    found = measure(HUB, [tensors(shapes, prefix="model.")])
    assert (found.numbers, found.layers, found.width, found.inner) == ((1, 2, 3), 4, 16, 32)
    assert Sizes().layers == 0


def test_an_embedding_of_any_name_tells_the_rows_where_the_family_has_none() -> None:
    found = measure(GENERIC, [tensors({"wte.weight": (48, 16), "h.0.x": (2, 2)})])
    assert (found.vocabulary, found.width, found.bits, found.embedding_bits, found.head) == (48, 0, 0, 0, 0)
    assert measure(GENERIC, [tensors({"wte.weight": (48,)})]).vocabulary == 0


def test_an_embedding_is_turned_where_its_rows_are_as_many_as_the_width() -> None:
    shapes = {"embed_tokens.weight": (16, 48), "layers.0.input_layernorm.weight": (16,), "lm_head.weight": (48, 16)}
    found = measure(HUB, [tensors(shapes)])
    assert (found.vocabulary, found.head) == (48, 48)


def test_an_embedding_with_one_axis_has_no_rows() -> None:
    flat = tensors({"word_embeddings.weight": (48,), "word_embeddings.weight_scale": (48,)})
    assert measure(GLM, [flat]) == Sizes(parameters=48)


@pytest.mark.parametrize(("columns", "bits", "factor"), [(16, 8, 1), (8, 4, 2), (4, 0, 1), (9, 0, 1)])
def test_columns_of_packed_weights_tell_their_bits(columns: int, bits: int, factor: int) -> None:
    layer = "layers.0.attention.query_key_value"
    shapes: dict[str, tuple[int, ...]] = {f"{layer}.weight": (48, columns), "layers.0.input_layernorm.weight": (16,)}
    unpacked = measure(GLM, [tensors(shapes)])
    assert (unpacked.bits, unpacked.packed) == (0, 0)
    shapes |= {f"{layer}.weight_scale": (48,), "layers.0.codes": (3,)}
    found = measure(GLM, [tensors(shapes, **{f"{layer}.weight": "int8", "codes": "int8"})])
    assert (found.bits, found.packed) == (bits, columns)
    assert found.parameters == 48 * columns * factor + 16 + 3


def test_packed_weights_are_counted_unpacked() -> None:
    shapes = {"a.qweight": (2, 3), "a.qzeros": (9, 9), "b.weight": (4, 1), "b.weight.absmax": (5,), "c.weight": (7,)}
    packed = tensors(shapes, "uint8")
    assert measure(GENERIC, [packed]).parameters == 2 * 3 * 8 + 4 * 2 + 7
    eight = {**packed, "b.weight": TensorInfo((4, 1), "int8", 4)}
    assert measure(GENERIC, [eight]).parameters == 2 * 3 * 8 + 4 + 7


def test_a_tensor_that_is_another_once_more_counts_once() -> None:
    found = measure(HUB, [tensors(hub_llama(), prefix="model.")], {"lm_head.weight"})
    assert found.parameters == measure(HUB, [tensors(hub_llama(), prefix="model.")]).parameters - 48 * 16


def test_a_family_is_looked_for_among_the_forms_that_may_be() -> None:
    assert family_of(hub_llama()) == HUB
    assert family_of(hub_llama(), ["huggingface"]) == HUB
    assert family_of(hub_llama(), ["meta"]) is None
    assert family_of([name for name in hub_llama() if "gate_proj" not in name]) is None


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"num_hidden_layers": 1}, {"layers": 1}),
        ({"n_layer": 3, "num_hidden_layers": None}, {"layers": 3}),
        ({"hidden_size": 0, "vocab_size": -5, "n_head": "8"}, {}),
        ({"vocab_size": (1 << 31) - 1}, {"vocabulary": (1 << 31) - 1}),
        ({"vocab_size": 1 << 31}, {}),
        ({"text_config": {"hidden_size": 8, "n_layer": 2}, "n_layer": 4}, {"width": 8, "layers": 4}),
        ({"text_config": [1], "hidden_size": 8}, {"width": 8}),
    ],
)
def test_sizes_in_a_configuration_have_many_names(config: Mapping[str, object], found: dict[str, int]) -> None:
    assert from_config(config) == found


def test_types_are_counted_by_their_bytes_and_of_weights_alone() -> None:
    part = tensors({"a": (3,), "b.int": (9,), "c.rotary_emb.inv_freq": (99,)}, "float32", int="int8")
    assert types_in([part, part]) == {"float32": 24, "int8": 18}


def layers(*ends: str) -> dict[str, TensorInfo]:
    """Layers with tensors that are called by one letter each; no layer for ""."""
    return tensors({f"layers.{number}.{end}": (1,) for number, own in enumerate(ends) for end in own})


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((), ""),
        (("ab",), ""),
        (("ab", "ab", "abc"), ""),
        (("ab", "ab", "abc", "abc"), ""),
        (("ab", "a", "ab"), "layers.1.b is not there, and other layers have it"),
        (("abc", "abc", "a"), "layers.2.b and 1 more is not there, and other layers have it"),
        (("a", "", "a"), "layer 1 of 3 is not there"),
        (("", "", "", "", "a"), "layer 0, 1, 2 of 5 is not there"),
    ],
)
def test_what_most_layers_have_all_of_them_should(ends: tuple[str, ...], words: str) -> None:
    assert uneven_layers(HUB, {**layers(*ends), "norm": TensorInfo((1,), "float16", 2)}) == words


def test_what_a_family_has_in_some_layers_alone_is_not_missed() -> None:
    family = Family("x", "x", "x", (), "", "", layer="layers.{}.", width="", uneven=("b",))
    assert uneven_layers(family, layers("ab", "a", "ab")) == ""
