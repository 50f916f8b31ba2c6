"""The memory that a model will take, by its header alone, and how many conversations and layers fit. Loads nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from chatbridge import GgufHeader, GgufTensor, Machine, ModelLoadError
from chatbridge_llama_cpp.options import UNPACKED, LlamaOptions

DEFAULT_CONTEXT = 4096
DEFAULT_SEQUENCES = 16
_PADDING = 256  # llama.cpp rounds each sequence's cells up to a multiple of it
_USABLE = 0.95  # of the free memory; the system and the program want some as well
GPU_RESERVE = 256 << 20
"""What drivers and libraries take of a card for themselves."""

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
_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "olmo2": 4, "exaone4": 4, "plamo3": 8}
"""Every which layer sees the whole context, where the file doesn't say (`load_swa_pattern` in llama.cpp's models)."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Sizes in bytes. `layers`: the weights of each layer, from the first; `weights`: all of them.

    `cell`: one token of context in all layers; `fixed`: one conversation, however long (recurrent states, and windows
    over the last tokens where no more is kept).
    `compute`: what a step needs besides. `embedding`: of the weights, what always stays in main memory; `output`: what
    goes to a card behind the last layer.
    """

    weights: int
    layers: tuple[int, ...]
    embedding: int
    output: int
    cell: int
    fixed: int
    compute: int

    def cache(self, context: int, sequences: int) -> int:
        """Bytes of that many conversations of that many tokens."""
        return sequences * (self.cell * padded(context) + self.fixed)

    def total(self, context: int, sequences: int) -> int:
        return self.weights + self.cache(context, sequences) + self.compute

    def on_cards(self, count: int) -> int:
        """Bytes of weights on cards, where so many layers are: the last ones, and the output as one more."""
        layers = self.layers[max(0, len(self.layers) - count) :] if count else ()
        return sum(layers) + (self.output if count > len(self.layers) else 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of llama.cpp. `cells`: tokens of all conversations together; `needs`: the model's sizes."""

    context_length: int
    sequences: int
    cells: int
    gpu_layers: int
    needs: Needs


def padded(context: int) -> int:
    """The cells that llama.cpp allocates for a sequence of that many tokens."""
    return -(-context // _PADDING) * _PADDING


def context_of(file: GgufHeader, options: LlamaOptions) -> int:
    """Tokens per conversation: what is asked for, or what the model was trained for within reason."""
    return options.context_length or min(int(file.number("context_length")) or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def read_needs(files: Sequence[GgufHeader], options: LlamaOptions) -> Needs:
    """The sizes of a model in one file or several, of which the first has the metadata. Estimates `compute` only."""
    file = files[0]
    tensors = [tensor for part in files for tensor in part.tensors.values()]
    by_layer: dict[int, list[GgufTensor]] = {}
    for tensor in tensors:
        if found := _LAYER.match(tensor.name):
            by_layer.setdefault(int(found[1]), []).append(tensor)
    # No more than have tensors, since a damaged file may claim millions.
    count = min(int(file.number("block_count")), max(by_layer, default=-1) + 1)
    layers = [by_layer.get(i, []) for i in range(count)]
    parts = [{tensor.name.split(".", 2)[2] for tensor in layer} for layer in layers]
    heads = max(1, int(file.number("attention.head_count", 1)))
    dim = int(file.number("embedding_length"))
    head = dim // heads
    # One value for each layer where layers differ: those without attention keep no cells.
    by_file = file.metadata.get(f"{file.architecture}.attention.head_count_kv")
    if not isinstance(by_file, np.ndarray):
        by_file = [file.number("attention.head_count_kv", heads)] * count
    kv_heads = [int(heads_kv) if _has_attention(names) else 0 for heads_kv, names in zip(by_file, parts, strict=False)]
    keys = file.number("attention.key_length", head) * _TYPE_BYTES[options.kv_type_k]
    values = file.number("attention.value_length", head) * _TYPE_BYTES[options.kv_type_v]
    rows = options.ubatch or options.batch
    windowed = sum(
        heads_kv for heads_kv, window in zip(kv_heads, _windows(file, options, count), strict=False) if window
    )
    window = padded(min(context_of(file, options), int(file.number("attention.sliding_window")) + rows))
    # Without flash attention, each head's scores of all new tokens over a whole context.
    scores = heads * rows * context_of(file, options) if options.flash_attention is not True else 0
    widest = max(2 * file.number("feed_forward_length"), 4 * dim)
    weights = sum(tensor.nbytes for tensor in tensors)
    of_layers = tuple(sum(tensor.nbytes for tensor in layer) for layer in layers)
    embedding = sum(tensor.nbytes for tensor in tensors if tensor.name == "token_embd.weight")
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    return Needs(
        weights=weights,
        layers=of_layers,
        embedding=embedding,
        output=weights - sum(of_layers) - (0 if tied else embedding),
        cell=int((sum(kv_heads) - windowed) * (keys + values)),
        fixed=4 * sum(map(_has_recurrent_state, parts)) * _recurrent(file, dim)
        + int(windowed * (keys + values) * window),
        compute=4 * int(scores + rows * (widest + 2 * dim)) + 4 * _vocabulary(file) * DEFAULT_SEQUENCES + (2 << 20),
    )


def plan(files: Sequence[GgufHeader], options: LlamaOptions, machine: Machine, *, max_sequences: int = 256) -> Plan:
    """Decide what the options leave open; whether that fits is seen in `planning`.

    `max_sequences`: what this llama.cpp allows. Raises ModelLoadError for what can't be, with what can.
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
    layers, sequences = _placed(options, needs, context, machine, max_sequences)
    cells = options.total_context or padded(context) * sequences
    return Plan(context, sequences, cells, layers, needs)


def in_main(options: LlamaOptions, needs: Needs, gpu_layers: int, cells: int, sequences: int) -> tuple[int, int]:
    """Bytes of weights and of the cache in main memory, where so many layers are on cards."""
    weights = needs.weights - needs.on_cards(gpu_layers)
    cache = needs.cell * cells + needs.fixed * sequences
    if gpu_layers and options.offload_kqv is not False:
        cache -= cache * min(gpu_layers, len(needs.layers)) // max(1, len(needs.layers))
    return max(weights, needs.embedding), cache


def usable(free: int) -> int:
    """What a model may take of so much free main memory: the system and the program want some as well."""
    return int(free * _USABLE)


def _check_types(file: GgufHeader, options: LlamaOptions) -> None:
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


def _placed(options: LlamaOptions, needs: Needs, context: int, machine: Machine, max_sequences: int) -> tuple[int, int]:
    """How many layers go to cards, and how many conversations there are: as many as fit, up to `max_sequences`, each
    count with the layers that leave room for it; one at least, which may be refused."""
    count = options.sequences or min(DEFAULT_SEQUENCES, max_sequences)
    while True:
        layers = _gpu_layers(options, needs, context, machine, count)
        cells = options.total_context or padded(context) * count
        fits = sum(in_main(options, needs, layers, cells, count)) + needs.compute <= usable(machine.main)
        if options.sequences or count == 1 or not machine.main or fits:
            return layers, count
        count -= 1


def _gpu_layers(options: LlamaOptions, needs: Needs, context: int, machine: Machine, sequences: int) -> int:
    every = len(needs.layers) + 1  # llama.cpp counts the output as one more
    if options.gpu_layers == "all":
        return every
    if options.gpu_layers != "auto":
        return min(options.gpu_layers, every)
    cards = machine.cards
    room = sum(card.free for card in cards) - max(1, len(cards)) * (GPU_RESERVE + needs.compute)
    cache = 0 if options.offload_kqv is False else needs.cache(context, sequences)
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


def _has_attention(parts: Collection[str]) -> bool:
    """Whether a layer with these tensors keeps keys and values."""
    return any(part.startswith("attn_k") for part in parts) or (
        "attn_qkv.weight" in parts and not _has_recurrent_state(parts)
    )


def _has_recurrent_state(parts: Collection[str]) -> bool:
    """Whether a layer with these tensors keeps a recurrent state."""
    return any(part.startswith(("ssm_", "shortconv.", "time_mix_")) for part in parts)


def _windows(file: GgufHeader, options: LlamaOptions, count: int) -> Sequence[bool]:
    """For each layer, whether it keeps only its window over the last tokens."""
    if options.swa_full or not file.number("attention.sliding_window"):
        return [False] * count
    default = _PATTERNS.get(file.architecture, 1)
    pattern = file.metadata.get(f"{file.architecture}.attention.sliding_window_pattern", default)
    if isinstance(pattern, np.ndarray):
        return [bool(window) for window in pattern]
    every = pattern if isinstance(pattern, int) else default
    return [not every or (i + 1) % every != 0 for i in range(count)]


def _recurrent(file: GgufHeader, dim: int) -> int:
    """How many numbers a recurrent layer keeps of one conversation, each as float32."""
    inner, state, wkv = (int(file.number(key)) for key in ("ssm.inner_size", "ssm.state_size", "wkv.head_size"))
    if inner:  # Mamba, and what followed it
        wide = inner + 2 * int(file.number("ssm.group_count")) * state
        return (int(file.number("ssm.conv_kernel")) - 1) * wide + state * inner
    if wkv:  # RWKV
        return dim * (int(file.number("token_shift_count", 2)) + wkv)
    return dim * max(0, int(file.number("shortconv.l_cache")) - 1)  # LFM2


def _vocabulary(file: GgufHeader) -> int:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if tokens is not None and hasattr(tokens, "__len__") else 0


def size(count: float) -> str:
    """A number of bytes as text, in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
