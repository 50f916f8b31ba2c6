"""What a GGUF file of a model holds: each tensor with the one that it is made of, and the keys and values before them.

Everything that can be wrong is found here, before anything is written, by names, shapes and types. Reads no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.description import ModelDescription, disagreement
from chatbridge.model_tools.gguf.checkpoint import Checkpoint, JoinedTensor
from chatbridge.model_tools.gguf.rotary import Rotary, rotary_of
from chatbridge.model_tools.gguf.vocabulary import UPSTREAM
from chatbridge.model_tools.tables import META_CONTEXTS, Entry, Form, context_note

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTIZED = (
    ".qweight", ".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_packed", ".absmax",
    ".quant_map", ".SCB", ".weight_format", "_blocks", "_scales",
)  # fmt: skip
"""Ends of names of what quantised models have beside their weights, or in the place of them."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor to be made. `order`: of its rows, where they are put in another one."""

    target: str
    source: JoinedTensor
    order: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class GgufPlan:
    """`sizes`: by the words of the tables. `keys`: without the architecture. `extra`: tensors that no file has.
    `left_out`: names that have no place, and need none. `notes`: what people should know."""

    form: Form
    sizes: Mapping[str, int]
    keys: Mapping[str, float | int | str]
    tensors: tuple[Planned, ...]
    extra: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan_gguf(source: ModelDescription, form: Form, checkpoint: Checkpoint, config: Mapping[str, Any]) -> GgufPlan:
    """`config`: of config.json or params.json. Raises ModelLoadError, with both numbers where two don't match."""
    _refuse_quantized(source, checkpoint, config)
    tied = config.get("tie_word_embeddings", form.tied) is True
    entries = dict(_entries(form, checkpoint.layers, tied))
    _refuse_gaps(source, form, checkpoint, entries)
    left_out = _left_out(source, form, checkpoint, entries, tied)
    for setting, known in form.must.items():
        if (value := config.get(setting)) is not None and value not in known:
            raise _else(source, f"{setting} is {value!r}, and llama.cpp's {form.architecture} computes otherwise")
    sizes = _sizes(source, form, checkpoint, config)
    tensors = []
    for name, entry in entries.items():
        if name in checkpoint:
            tensor = checkpoint[name]
            _check_shape(tensor, entry, sizes)
            tensors.append(Planned(entry.target, tensor, row_order(entry, sizes)))
    keys, rotary, notes = _keys(source, form, config, sizes)
    extra = {} if rotary.factors is None else {"rope_freqs.weight": rotary.factors}
    return GgufPlan(form, sizes, keys, tuple(tensors), extra, left_out, notes)


def _refuse_quantized(source: ModelDescription, checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    given = config.get("quantization_config")
    method = given.get("quant_method") if isinstance(given, dict) else None
    how = f" ({str(method)[:50]})" if method else ""
    for name in checkpoint:
        tensor = checkpoint[name] if not name.endswith(QUANTIZED) else None
        if tensor is None or tensor.dtype not in _FLOATS:
            kind = f", and {name:.200} has numbers of {tensor.dtype}" if tensor else f": it has {name:.200}"
            raise ModelLoadError(
                f"{source.path}: it is quantised{how}{kind}; take the model that it was made of, in float16 or bfloat16"
            )


def _entries(form: Form, layers: int, tied: bool) -> Iterator[tuple[str, Entry]]:
    """The names in the model, in the order of a GGUF file."""
    for name, entry in form.top.items():
        if not (tied and name == form.head):
            yield name, entry
    for number in range(layers):
        for name, entry in form.block.items():
            target = Entry(f"blk.{number}.{entry.target}", entry.shape, entry.order, entry.needed, entry.axis)
            yield f"{form.layer.format(number)}{name}", target


def _refuse_gaps(source: ModelDescription, form: Form, checkpoint: Checkpoint, entries: Mapping[str, Entry]) -> None:
    if not checkpoint.layers:
        raise ModelLoadError(f"{source.path}: it has no layers ({form.layer.format('N')}…); download it again")
    needed = [name for name, entry in entries.items() if entry.needed or name == form.head]
    if lost := [name for name in needed if name not in checkpoint]:
        raise ModelLoadError(
            f"{source.path}: {_names(lost)} should be among its tensors, and {'is' if len(lost) == 1 else 'are'} not; "
            f"download all files of the model again, from one place"
        )


def _left_out(
    source: ModelDescription, form: Form, checkpoint: Checkpoint, entries: Mapping[str, Entry], tied: bool
) -> tuple[str, ...]:
    """Names without a place in the file. Raises ModelLoadError for such as might matter."""
    others = [name for name in checkpoint if name not in entries]
    free = tuple(name for name in others if name.endswith(form.left_out) or (tied and name == form.head))
    if surplus := [name for name in others if name not in free]:
        raise _else(source, f"its tensors {_names(surplus)} have no place in llama.cpp's {form.architecture}")
    return free


def _sizes(source: ModelDescription, form: Form, checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers for the words of the table: from the configuration what no shape tells, all others from the shapes."""
    width = checkpoint.width
    if not width:
        raise ModelLoadError(f"{source.path}: {form.width} should be a row of numbers; download the model again")
    heads = _natural(source, form, config, "attention.head_count")
    own = config.get("head_dim")
    if not own and width % heads:
        raise ModelLoadError(f"{source.path}: {heads:,} heads don't divide its width of {width:,}; {_AGAIN}")
    head = own if isinstance(own, int) and own > 0 else width // heads
    sizes = {
        "width": width,
        "heads": heads,
        "head": head,
        "q": heads * head,
        "qkv": 3 * width,
        "layers": checkpoint.layers,
    }
    blocks = {f"{form.layer.format(0)}{name}": entry for name, entry in form.block.items()}
    for name, entry in {**form.top, **blocks}.items():
        tensor = checkpoint.get(name)
        if tensor is not None and len(tensor.shape) == len(entry.shape):
            for word, number in zip(entry.shape, tensor.shape, strict=True):
                sizes.setdefault(word, number)
    kv = sizes.get("kv", sizes["q"])
    if kv % head:
        told = f"{kv:,} numbers of keys and values can't be cut into heads of {head:,}"
        raise ModelLoadError(f"{source.path}: {told}; {_AGAIN}")
    sizes["kv_heads"] = kv_heads = kv // head
    said = config.get("num_key_value_heads", config.get("n_kv_heads"))
    if isinstance(said, int) and said != kv_heads:
        told = disagreement("heads of keys and values", (_config_name(form), said), ("the weights", kv_heads))
        raise ModelLoadError(f"{source.path}: {told}; {_AGAIN}")
    if not kv_heads or heads % kv_heads:
        told = f"{heads:,} heads can't share {kv_heads:,} of keys and values"
        raise ModelLoadError(f"{source.path}: {told}; {_AGAIN}")
    return sizes


def _check_shape(tensor: JoinedTensor, entry: Entry, sizes: Mapping[str, int]) -> None:
    wanted = tuple(sizes[word] for word in entry.shape)
    if tensor.shape != wanted:
        raise ModelLoadError(
            f"{tensor.path}: {tensor.name:.200} has the shape {list(tensor.shape)}, and should have {list(wanted)} "
            f"({' × '.join(entry.shape)}); {_AGAIN}"
        )


def row_order(entry: Entry, sizes: Mapping[str, int]) -> NDArray[np.int64] | None:
    """From which row each row comes."""
    head = sizes["head"]
    if entry.order == "apart":  # from (heads, 3, head) to (3, heads, head)
        return np.arange(3 * sizes["heads"] * head).reshape(-1, 3, head).swapaxes(0, 1).reshape(-1)
    if entry.order:  # from (heads, 2, half) to (heads, half, 2)
        count = sizes["heads"] if entry.order == "pairs of q" else sizes["kv_heads"]
        return np.arange(count * head).reshape(count, 2, head // 2).swapaxes(1, 2).reshape(-1)
    return None


def _keys(
    source: ModelDescription, form: Form, config: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[dict[str, float | int | str], Rotary, tuple[str, ...]]:
    notes = []
    given = dict(form.given)
    if form.layout == "meta" and "max_seq_len" not in config:
        given["context_length"] = _meta_context(config, sizes)
        notes.append(context_note(int(given["context_length"])))
    keys: dict[str, float | int | str] = {
        "vocab_size": sizes["vocabulary"],
        "block_count": sizes["layers"],
        "embedding_length": sizes["width"],
        "feed_forward_length": sizes["inner"],
        "attention.head_count_kv": sizes["kv_heads"],
    }
    for key in form.keys:
        keys[key] = _number(source, form, config, key, given)
    rotary = Rotary()
    if form.rotary:
        try:
            rotary = rotary_of(config, sizes["head"])
        except ValueError as error:
            raise _else(source, str(error)) from None
        keys |= rotary.keys
        keys |= {"attention.key_length": sizes["head"], "attention.value_length": sizes["head"]}
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        notes.append(f"its window of {config['sliding_window']} tokens is not kept: it sees its whole context")
    return keys, rotary, tuple(notes)


def _meta_context(config: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    base, epsilon = (
        value if isinstance(value := config.get(name), int | float) else 0 for name in ("rope_theta", "norm_eps")
    )
    widest = 0 if sizes["kv_heads"] < sizes["heads"] else sizes["width"]
    return next(tokens for least, eps, most, tokens in META_CONTEXTS
                if base >= least and epsilon >= eps and widest <= most)  # fmt: skip


def _natural(source: ModelDescription, form: Form, config: Mapping[str, Any], key: str) -> int:
    number = _number(source, form, config, key, form.given)
    if not isinstance(number, int):
        raise ModelLoadError(f"{source.path}: {_config_name(form)} says that {form.keys[key][0]} is {number!r}")
    return number


def _number(
    source: ModelDescription, form: Form, config: Mapping[str, Any], key: str, given: Mapping[str, float]
) -> float | int:
    """What the configuration says for a key of the table."""
    names = form.keys[key]
    value = next((config[name] for name in names if config.get(name) is not None), given.get(key))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 31:
        told = "does not say" if value is None else f"says {str(value)[:50]!r} for"
        raise ModelLoadError(f"{source.path}: {_config_name(form)} {told} {names[0]}; download it again")
    return value


def _config_name(form: Form) -> str:
    return CONFIGS[form.layout]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(name[:200] for name in names[:_MOST_NAMES])}{more}"


def _else(source: ModelDescription, why: str) -> ModelLoadError:
    return ModelLoadError(f"{source.path}: it can't be converted here: {why}; {UPSTREAM} may convert it")


CONFIGS = {"meta": "params.json", "huggingface": "config.json"}
"""Which file says what no shape tells."""

_AGAIN = "download all files of the model again, from one place"
