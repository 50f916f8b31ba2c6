"""What a model will take, told from its header alone, and how many conversations and layers fit. Loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chatbridge import ModelLoadError
from chatbridge_llama_cpp.gguf_file import GgufFile
from chatbridge_llama_cpp.options import UNPACKED, LlamaOptions

DEFAULT_CONTEXT = 4096
SEQUENCES = 16
_PADDING = 256  # llama.cpp rounds each sequence's cells up to a multiple of it
_SPARE = 0.95  # of what is free; the system and the program want some as well
_ROOM_ON_GPU = 256 << 20  # what drivers and libraries take for themselves
_TYPE_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}


@dataclass(frozen=True, slots=True)
class Needs:
    """Sizes in bytes. `layers`: the weights of each layer, from the first; `weights`: all of them.

    `cell`: one token of context in all layers; `fixed`: one conversation, however long (recurrent models).
    `compute`: what a step needs besides.
    """

    weights: int
    layers: tuple[int, ...]
    cell: int
    fixed: int
    compute: int

    def cache(self, context: int, sequences: int) -> int:
        """For that many conversations of that many tokens."""
        return sequences * (self.cell * padded(context) + self.fixed)

    def total(self, context: int, sequences: int) -> int:
        return self.weights + self.cache(context, sequences) + self.compute


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of llama.cpp. `cells`: of the whole context."""

    context_length: int
    sequences: int
    cells: int
    gpu_layers: int
    needs: Needs


def padded(context: int) -> int:
    return -(-context // _PADDING) * _PADDING


def context_of(file: GgufFile, options: LlamaOptions) -> int:
    """Tokens per conversation: what is asked for, or what the model was trained for within reason."""
    return options.context_length or min(int(file.number("context_length")) or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def read_needs(files: Sequence[GgufFile], options: LlamaOptions) -> Needs:
    """The sizes of a model in one file or several parts; the first one has the metadata."""
    file = files[0]
    tensors = [tensor for part in files for tensor in part.tensors.values()]
    count = int(file.number("block_count"))
    layers = [0] * count
    for tensor in tensors:
        kind, _, rest = tensor.name.partition(".")
        number = rest.partition(".")[0]
        if kind == "blk" and number.isdigit() and int(number) < count:
            layers[int(number)] += tensor.nbytes
    heads = max(1, int(file.number("attention.head_count", 1)))
    dim = int(file.number("embedding_length"))
    head = dim // heads
    # One value for each layer where layers differ: those without attention keep no cells.
    shared = file.metadata.get(f"{file.architecture}.attention.head_count_kv", heads)
    kv_heads = int(shared.sum()) if isinstance(shared, np.ndarray) else count * int(shared)
    keys = file.number("attention.key_length", head) * _TYPE_BYTES[options.kv_type_k]
    values = file.number("attention.value_length", head) * _TYPE_BYTES[options.kv_type_v]
    attends = any(".attn_k" in tensor.name or ".attn_qkv" in tensor.name for tensor in tensors)
    rows = options.ubatch or options.batch
    # Without flash attention, each head's scores of all new tokens over a whole context.
    scores = heads * rows * context_of(file, options) if options.flash_attention is not True else 0
    widest = max(2 * file.number("feed_forward_length"), 4 * dim)
    return Needs(
        weights=sum(tensor.nbytes for tensor in tensors),
        layers=tuple(layers),
        cell=int(kv_heads * (keys + values)) if attends else 0,
        fixed=_recurrent(file, dim, count),
        compute=4 * int(scores + rows * (widest + 2 * dim)) + 4 * _vocabulary(file) * SEQUENCES + (2 << 20),
    )


def plan(files: Sequence[GgufFile], options: LlamaOptions, *, free: int, gpu_free: int = 0, most: int = 256) -> Plan:
    """Settle what the options leave open, by what is `free` in bytes (0: it can't be told).

    `gpu_free`: bytes on all graphics cards. Raises ModelLoadError for what can't fit, with what would.
    """
    file, needs = files[0], read_needs(files, options)
    trained = int(file.number("context_length"))
    context = context_of(file, options)
    stretched = options.rope_freq_base or options.rope_freq_scale or options.rope_scaling or not trained
    if context > trained and not stretched:
        raise ModelLoadError(
            f"context_length: {context} is more than the {trained} tokens that {file.path.name} was trained for; leave "
            f"it out, give less, or stretch the positions with rope_scaling: yarn"
        )
    if options.total_context is not None and options.total_context < context:
        raise ModelLoadError(
            f"total_context: {options.total_context} is less than one conversation's context_length: {context}"
        )
    _check_types(file, options)
    layers = _gpu_layers(options, needs, context, gpu_free)
    share = layers / (len(needs.layers) + 1) if gpu_free else 0.0
    # What lies on the card takes no main memory.
    here = replace(needs, weights=round(needs.weights * (1 - share)))
    if options.offload_kqv is not False:
        here = replace(here, cell=round(needs.cell * (1 - share)), fixed=round(needs.fixed * (1 - share)))
    sequences = options.sequences or _sequences(here, context, free, min(SEQUENCES, most))
    asked = options.total_context or padded(context) * sequences
    total = here.weights + here.compute + here.cell * asked + here.fixed * sequences
    if free and total > free * _SPARE:
        raise ModelLoadError(_too_large(file, here, context, sequences, total, free))
    return Plan(context, sequences, asked, layers, needs)


def _check_types(file: GgufFile, options: LlamaOptions) -> None:
    """A packed type puts 32 numbers in a block, and no block may reach from one head into the next."""
    head = int(file.number("embedding_length")) // max(1, int(file.number("attention.head_count", 1)))
    for key, kind, name in (
        ("key_length", options.kv_type_k, "kv_type_k"),
        ("value_length", options.kv_type_v, "kv_type_v"),
    ):
        length = int(file.number(f"attention.{key}", head))
        if kind not in UNPACKED and length % 32:
            raise ModelLoadError(
                f"{name}: {kind} packs 32 numbers together, and the heads of {file.path.name} have {length}; take f16"
            )


def _sequences(needs: Needs, context: int, free: int, most: int) -> int:
    """As many conversations as fit, up to `most`; one at least, which may be refused."""
    count = most
    while count > 1 and free and needs.total(context, count) > free * _SPARE:
        count -= 1
    return count


def _gpu_layers(options: LlamaOptions, needs: Needs, context: int, gpu_free: int) -> int:
    every = len(needs.layers) + 1  # llama.cpp counts the output as one more
    if options.gpu_layers == "all":
        return every
    if options.gpu_layers != "auto":
        return min(options.gpu_layers, every)
    room = gpu_free - _ROOM_ON_GPU - needs.compute
    cache = 0 if options.offload_kqv is False else needs.cache(context, options.sequences or SEQUENCES)
    each = cache / max(1, len(needs.layers))
    if room >= needs.weights + cache:
        return every
    count = 0
    for layer in reversed(needs.layers):  # the last layers go first
        room -= int(layer + each)
        if room < 0:
            break
        count += 1
    return count


def _too_large(file: GgufFile, needs: Needs, context: int, sequences: int, total: int, free: int) -> str:
    parts = (
        f"{size(needs.weights)} of weights, {size(needs.cache(context, sequences))} for {sequences} conversations of "
        f"{context} tokens, {size(needs.compute)} for computing"
    )
    what = f"{file.path}: this takes {size(total)} ({parts}), and {size(free)} are free"
    left = free * _SPARE - needs.weights - needs.compute
    if left < needs.cache(_PADDING, 1):
        return f"{what}; take a smaller model, or one with fewer bits a weight (q4_0 takes about half of q8_0)"
    fewer = int(left // max(1, needs.cache(context, 1)))
    if fewer:
        return f"{what}; sequences: {fewer} would fit, or a shorter context_length"
    shorter = int((left - needs.fixed) / needs.cell) // _PADDING * _PADDING
    return f"{what}; sequences: 1 with context_length: {shorter} would fit, or kv_type_k and kv_type_v: q8_0"


def _recurrent(file: GgufFile, dim: int, layers: int) -> int:
    """Bytes of one conversation's recurrent state, which is kept as float32."""
    inner, state = file.number("ssm.inner_size"), file.number("ssm.state_size")
    if inner:  # Mamba
        wide = inner + 2 * file.number("ssm.group_count") * state
        return int(4 * layers * ((file.number("ssm.conv_kernel") - 1) * wide + state * inner))
    if size := file.number("wkv.head_size"):  # RWKV
        return int(4 * layers * dim * (2 + size))
    return 0


def _vocabulary(file: GgufFile) -> int:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if tokens is not None and hasattr(tokens, "__len__") else 0


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
