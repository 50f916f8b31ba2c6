"""Where a GGUF model goes on a machine and what it takes there, told from a header or from published sizes.

The one place that decides it: `chatbridge model plan` tells it, and loading goes by it. Loads nothing, not even
llama.cpp; what `llama-quantize` would make of a file is reckoned by its rule for the plain types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from chatbridge import (
    DevicePlan,
    GgufHeader,
    GgufTensor,
    Machine,
    MemoryPlan,
    ModelLoadError,
    PlanRequest,
    device_plan,
    with_changes,
)
from chatbridge_llama_cpp import memory
from chatbridge_llama_cpp.files import find_model
from chatbridge_llama_cpp.memory import Plan
from chatbridge_llama_cpp.options import LlamaOptions

TYPES = (
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k", "q5_1", "q5_0", "q4_k_m", "q4_k", "q4_1", "q4_0", "iq4_nl",
    "iq4_xs", "q3_k_m", "q3_k", "q2_k",
)  # fmt: skip
"""What weights may be asked to be in, by llama.cpp's words."""

_MORE_BITS = re.compile(r"blk\.(\d{1,9})\.(attn_v|ffn_down)\.weight")
"""What is in q6_k in some layers, where a type's name ends in `_m`."""

_RICHER: Mapping[str, Mapping[str, str]] = {
    "q3_k": {"attn_v": "q4_k", "attn_output": "q4_k", "ffn_down": "q4_k"},
    "q2_k": {"attn_v": "q3_k", "attn_output": "q3_k", "ffn_down": "q3_k"},
}
"""Which matrices the smallest types have in a larger one, in all layers (`llama_tensor_get_type`)."""

_SMALLER: Mapping[str, str] = {
    "q8_0": "", "q6_k": "", "q5_k_m": "", "q4_k_m": "", "q4_0": "", "iq4_xs": "",
    "q3_k_m": "answers are noticeably worse", "q2_k": "answers are much worse",
}  # fmt: skip
"""Types that are tried where a model does not fit, the largest first, and what is lost below four bits.

Those that are made only with an importance matrix, as iq2_xxs, are left to who has one; of two of a size the better."""

_UNKNOWN = "gpu"
"""A graphics card of another make than can be asked here, as in a Mac: what it has is seen when the model is loaded."""

_MAX_SEQUENCES = 256
_LEAST_CONTEXT = 256


def plan(options: LlamaOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """See `BackendType.plan`. Raises ModelLoadError; also for a model that would have to be downloaded first."""
    if request.model is not None:
        if not request.model.runs_as_gguf:
            raise ModelLoadError(f"{request.model.name}: this is not known as a model of the llama_cpp backend")
        files: tuple[GgufHeader, ...] = (request.model.gguf(),)
    elif options.hub is not None:
        raise ModelLoadError(f"{options.path}: the file is not here yet, and a plan downloads nothing")
    else:
        files = find_model(options, lambda share, doing: None)
    if request.quantization:
        files = retyped(files, request.quantization)
    if request.conversations:
        options = options.model_copy(update={"sequences": request.conversations})
    return decide(files, options, machine)[1]


def decide(
    files: Sequence[GgufHeader], options: LlamaOptions, machine: Machine, max_sequences: int = _MAX_SEQUENCES
) -> tuple[Plan, MemoryPlan]:
    """What is asked of llama.cpp and what that takes; where it does not fit, with what would. Raises ModelLoadError."""
    first, reckoned = _decided(files, options, machine, max_sequences)
    return first, with_changes(reckoned, _changes(files, options, machine, max_sequences, first))


def retyped(files: Sequence[GgufHeader], word: str) -> tuple[GgufHeader, ...]:
    """The headers that the files would have with matrices of another type. Raises ModelLoadError for no such type.

    As in llama.cpp's `llama-quantize`, vectors stay as they are, and the output is in q6_k where others are smaller.
    """
    word = word.lower()
    if word not in TYPES:
        raise ModelLoadError(f"{word!r}: the llama_cpp backend has weights in {', '.join(TYPES)}")
    mixed, plain = word.endswith("_m") and not word.startswith("q3"), _plain(word)
    richer = _RICHER.get(plain, {})
    count = int(files[0].number("block_count"))

    def changed(tensor: GgufTensor) -> GgufTensor:
        if len(tensor.shape) < 2 or not tensor.name.endswith(".weight"):
            return tensor
        found = _MORE_BITS.fullmatch(tensor.name)
        important = tensor.name == "output.weight" or (mixed and found and _has_more_bits(int(found[1]), count))
        first = "q6_k" if important and _bits("q6_k") > _bits(plain) else plain
        if tensor.name.startswith("blk."):
            first = richer.get(tensor.name.split(".")[2], first)
        for kind in (first, "q8_0", "f16"):  # rows that no block divides stay larger
            block, size = _block(kind)
            if tensor.shape[-1] % block == 0:
                return replace(tensor, kind=kind.upper(), nbytes=tensor.size // block * size)
        return tensor

    return tuple(
        GgufHeader.of(file.path, file.metadata, {name: changed(tensor) for name, tensor in file.tensors.items()})
        for file in files
    )


def _has_more_bits(layer: int, count: int) -> bool:
    """`use_more_bits` of llama.cpp's quantisation: the first and last layers, and each third between."""
    return layer < count // 8 or layer >= 7 * count // 8 or (layer - count // 8) % 3 == 2


def _decided(
    files: Sequence[GgufHeader], options: LlamaOptions, machine: Machine, max_sequences: int
) -> tuple[Plan, MemoryPlan]:
    chosen = memory.plan(files, options, machine, max_sequences=max_sequences)
    shares = _shares(options, chosen, machine)
    while options.gpu_layers == "auto" and chosen.gpu_layers and not all(one.fits for one in shares[:-1]):
        # Layers are whole, and so may not divide evenly among cards.
        fewer = options.model_copy(update={"gpu_layers": chosen.gpu_layers - 1})
        chosen = memory.plan(files, fewer, machine, max_sequences=max_sequences)
        shares = _shares(options, chosen, machine)
    return chosen, _reckoned(files, chosen, shares)


def _reckoned(files: Sequence[GgufHeader], chosen: Plan, shares: tuple[DevicePlan, ...]) -> MemoryPlan:
    needs = chosen.needs
    return MemoryPlan(
        model=str(files[0].path),
        backend="llama_cpp",
        quantization=_most(files),
        context=chosen.context_length,
        conversations=chosen.sequences,
        devices=shares,
        notes=(
            f"gpu_layers: {chosen.gpu_layers} of {len(needs.layers) + 1}",
            f"a conversation of full length takes {memory.size(needs.cache(chosen.context_length, 1))}",
        ),
        otherwise=f"take a smaller model{_in_vain(files)}",
    )


def _in_vain(files: Sequence[GgufHeader]) -> str:
    """What is said of smaller types where nothing fits: each of them was planned as well."""
    *_, least = _SMALLER
    return f": types down to {least} were tried" if _bits(_plain(least)) < _bits(_most(files)) else ""


def _shares(options: LlamaOptions, chosen: Plan, machine: Machine) -> tuple[DevicePlan, ...]:
    """What goes to each card, and last what stays in main memory."""
    needs, total = chosen.needs, len(chosen.needs.layers)
    first = total - min(chosen.gpu_layers, total)
    cache = needs.cell * chosen.cells + needs.fixed * chosen.sequences
    main_weights, main_cache = memory.in_main(options, needs, chosen.gpu_layers, chosen.cells, chosen.sequences)
    shares = []
    for number, (start, end) in enumerate(_split(options, chosen, machine)):
        here = needs.layers[first + start : min(first + end, total)]
        output = needs.output if chosen.gpu_layers > total and end == chosen.gpu_layers else 0
        share = device_plan(
            machine,
            f"cuda:{number}" if machine.cards else _UNKNOWN,
            {
                "weights": sum(here) + output,
                "cache": (cache - main_cache) * len(here) // max(1, min(chosen.gpu_layers, total)),
                "working memory": needs.compute,
                "program": memory.GPU_RESERVE,
            },
            holds=_holds(first + start, first + start + len(here)) + (" and the output" if output else ""),
        )
        if here or output:
            shares.append(share)
    kept = machine.main - memory.usable(machine.main)
    main = device_plan(
        machine,
        "cpu",
        {"weights": main_weights, "cache": main_cache, "working memory": needs.compute, "program": kept},
        holds=_holds(0, first),
    )
    return (*shares, main)


def _split(options: LlamaOptions, chosen: Plan, machine: Machine) -> list[tuple[int, int]]:
    """From and to which layer each card has its share, counted from the first that is on a card.

    As llama.cpp splits by layers: by what is free on each, or by `tensor_split`; on one card where there is none.
    """
    free: list[float] = [float(card.free) for card in machine.cards] or [1.0]
    if options.tensor_split is not None and len(options.tensor_split) == len(free):
        free = [*options.tensor_split]
    if options.split_mode == "none":
        free = [float(number == (options.main_gpu or 0)) for number in range(len(free))]
    total, before = sum(free) or 1.0, 0.0
    ends = []
    for one in free:
        before += one
        ends.append(round(chosen.gpu_layers * before / total))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _changes(
    files: Sequence[GgufHeader], options: LlamaOptions, machine: Machine, max_sequences: int, first: Plan
) -> Iterator[tuple[str, Callable[[], MemoryPlan]]]:
    """What might make it fit, the least loss first."""

    def planned(files: Sequence[GgufHeader], **changes: Any) -> MemoryPlan:
        return _decided(files, options.model_copy(update=changes), machine, max_sequences)[1]

    if options.gpu_layers != "auto" and machine.cards:
        yield "gpu_layers: auto", partial(planned, files, gpu_layers="auto")
    for fewer in _fewer(options, first, machine):
        yield f"sequences: {fewer}", partial(planned, files, sequences=fewer, total_context=None)
    for shorter in _shorter(options, first, machine):
        yield (
            f"sequences: 1 with context_length: {shorter}",
            partial(planned, files, sequences=1, context_length=shorter, total_context=None),
        )
    if options.kv_type_k == options.kv_type_v == "f16" and options.flash_attention is not False:
        packed = {"kv_type_k": "q8_0", "kv_type_v": "q8_0", "sequences": 1}
        yield "sequences: 1 with kv_type_k and kv_type_v: q8_0", partial(planned, files, **packed)
    for word, loss in _SMALLER.items():
        if _bits(_plain(word)) < _bits(_most(files)):
            smaller, lost = retyped(files, word), f" ({loss})" if loss else ""
            yield f"a GGUF file in {word}{lost}", partial(planned, smaller)
            if first.sequences > 1:
                yield f"a GGUF file in {word} with sequences: 1{lost}", partial(planned, smaller, sequences=1)


def _fewer(options: LlamaOptions, first: Plan, machine: Machine) -> Iterator[int]:
    """Fewer conversations: as many as there is room for in main memory, then half as many again and again."""
    weights, cache = memory.in_main(options, first.needs, first.gpu_layers, first.cells, first.sequences)
    left = memory.usable(machine.main) - weights - first.needs.compute
    count = first.sequences
    if machine.main and 0 < left < cache:
        count = min(count - 1, left * first.sequences // cache)
        if count > 0:
            yield count
    while count > 1:
        count //= 2
        yield count


def _shorter(options: LlamaOptions, first: Plan, machine: Machine) -> Iterator[int]:
    """Shorter contexts of one conversation: what there is room for, then half of it."""
    weights, cache = memory.in_main(options, first.needs, first.gpu_layers, memory.padded(first.context_length), 1)
    left = memory.usable(machine.main) - weights - first.needs.compute
    length = first.context_length
    if machine.main and 0 < left < cache:
        length = min(length - 1, length * left // cache) // _LEAST_CONTEXT * _LEAST_CONTEXT
        if length:
            yield length
    while length // 2 >= _LEAST_CONTEXT:
        length //= 2
        yield length


def _holds(start: int, end: int) -> str:
    return "" if end <= start else f"layers {start + 1} to {end}" if end - start > 1 else f"layer {end}"


def _most(files: Sequence[GgufHeader]) -> str:
    """The type of most bytes."""
    kinds: dict[str, int] = {}
    for file in files:
        for tensor in file.tensors.values():
            kinds[tensor.kind] = kinds.get(tensor.kind, 0) + tensor.nbytes
    return max(kinds, key=lambda kind: kinds[kind], default="").lower()


def _block(kind: str) -> tuple[int, int]:
    """How many numbers a type packs together, and into how many bytes."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    found: tuple[int, int] = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    return found


def _plain(word: str) -> str:
    """The type of most tensors, where a word stands for a mixture."""
    return word.removesuffix("_m")


def _bits(kind: str) -> float:
    """Bits of a weight; 0 for a type that the gguf package does not know."""
    try:
        block, size = _block(kind)
    except KeyError:
        return 0.0
    return 8 * size / block
