"""The two forms in which LLaMA is published, one told in terms of the other: names, order of rows, parts, sizes.

Meta's code: facebookresearch/llama, branch llama_v1; Hugging Face's names, and what they are made from:
transformers, convert_llama_weights_to_hf.py. Reads no weights, and writes none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.matrices import Cut, Joined, Matrices, Matrix, Turned, floats
from chatbridge.model_tools.tables import LLAMA_LAYER, LLAMA_TOP, META_CONTEXTS, Axis

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Floats

_COPIED = -1

_AXES: Mapping[Axis, int] = {"rows": 0, "columns": 1, "by width": 1, "whole": _COPIED}

_OUTER = {
    f"{'' if one.hub == 'lm_head' else 'model.'}{one.hub}.weight": (f"{one.meta}.weight", _AXES[one.axis])
    for one in LLAMA_TOP
}
_INNER = {f"{one.hub}.weight": (f"{one.meta}.weight", _AXES[one.axis]) for one in LLAMA_LAYER}
"""Hugging Face's names, Meta's, and the axis along which Meta's are cut into tensor-parallel parts."""

_OURS = {theirs: (ours, axis) for ours, (theirs, axis) in _INNER.items()}
_OURS_OUTER = {theirs: (ours, axis) for ours, (theirs, axis) in _OUTER.items()}

_LAYER = re.compile(r"(?:model\.)?layers\.(\d{1,6})\.(.+)")
_PARTS = {4096: 1, 5120: 2, 6656: 4, 8192: 8}
"""How many parts Meta published a model of a width in."""

_MAX_PARTS = 64

_FACTORS = ((1.3, 4096), (1.3, 1024), (1.2, 4096), (1.5, 256))
"""How Meta has made the inner width of Llama 2 and 3 larger: `ffn_dim_multiplier`, and of what it is a multiple."""

SCALED = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
"""How Llama 3.1 stretches its rotary frequencies; Meta's code has these numbers, its form a word (use_scaled_rope)."""


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """What both forms say of a model. `eps`: of its norms; `theta`: the base of its rotary frequencies, which are
    stretched as Llama 3.1's where `scaled`. `context`: how many tokens it was trained on."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    rows: int
    eps: float = 1e-6
    theta: float = 10000.0
    scaled: bool = False
    context: int = 2048

    @property
    def names(self) -> list[str]:
        """The names of its tensors in Hugging Face's form, in their order."""
        inner = [f"model.layers.{layer}.{name}" for layer in range(self.layers) for name in _INNER]
        return ["model.embed_tokens.weight", *inner, "model.norm.weight", "lm_head.weight"]


def sizes_of(config: Mapping[str, Any], tensors: Matrices) -> LlamaSizes:
    """From a config.json or params.json, and from the tensors by Hugging Face's names what they tell better.

    Raises ModelLoadError where these don't make a LLaMA.
    """
    layers = 1 + max((int(found[1]) for name in tensors if (found := _LAYER.match(name))), default=-1)
    heads = config.get("num_attention_heads", config.get("n_heads"))
    kv_heads = config.get("num_key_value_heads", config.get("n_kv_heads")) or heads
    eps = config.get("rms_norm_eps", config.get("norm_eps", 1e-6))
    theta, scaled = _rotary(config)
    shape = _shape(tensors, "model.embed_tokens.weight")
    inner = _shape(tensors, "model.layers.0.mlp.gate_proj.weight")[0]
    for name, value in (("heads", heads), ("key heads", kv_heads)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= shape[1]:
            raise ModelLoadError(f"its settings give {value!r:.100} for the number of {name}")
    for name, value in (("the norms' epsilon", eps), ("rope_theta", theta)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ModelLoadError(f"its settings give {value!r:.100} for {name}")
    sizes = LlamaSizes(layers, shape[1], heads, kv_heads, inner, shape[0], float(eps), float(theta), scaled)
    sizes = replace(sizes, context=_context(config, sizes))
    if shape[1] % heads or heads % kv_heads or shape[1] // heads % 2:
        raise ModelLoadError(f"a width of {shape[1]:,} does not go with {heads} heads, {kv_heads} of them for keys")
    _check_shapes(sizes, tensors)
    return sizes


def _rotary(config: Mapping[str, Any]) -> tuple[Any, bool]:
    """The base of the frequencies, and whether they are stretched as Llama 3.1's; in the spelling of either form."""
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(written, dict):
        raise ModelLoadError(f"its settings give {written!r:.100} for the rotary frequencies")
    theta = written.get("rope_theta", config.get("rope_theta"))
    scaled = config.get("use_scaled_rope") is True or all(written.get(k) == v for k, v in SCALED.items())
    return 10000.0 if theta is None else theta, scaled


def _context(config: Mapping[str, Any], sizes: LlamaSizes) -> int:
    """As it is said or, in Meta's form, which does not say it, as Meta's models have it."""
    said = config.get("max_position_embeddings", config.get("max_seq_len"))
    if isinstance(said, int) and not isinstance(said, bool) and said > 0:
        return said
    if sizes.scaled:
        return 131072
    width = 0 if sizes.kv_heads < sizes.heads else sizes.width
    return next(tokens for theta, eps, widest, tokens in META_CONTEXTS
                if sizes.theta >= theta and sizes.eps >= eps and width <= widest)  # fmt: skip


def _check_shapes(sizes: LlamaSizes, tensors: Matrices) -> None:
    keys = sizes.width // sizes.heads * sizes.kv_heads
    words = {"q": sizes.width, "kv": keys, "width": sizes.width, "inner": sizes.inner}
    wanted = {f"{one.hub}.weight": tuple(words[word] for word in one.shape) for one in LLAMA_LAYER}
    for name in sizes.names:
        found = _LAYER.fullmatch(name)
        should = wanted[found[2]] if found else (sizes.width,) if "norm" in name else (sizes.rows, sizes.width)
        if name == "lm_head.weight" and name not in tensors:  # the embedding is the head, too
            continue
        if _shape(tensors, name) != should:
            raise ModelLoadError(f"{name} has the shape {list(tensors[name].shape)}, and should have {list(should)}")


def _shape(tensors: Matrices, name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise ModelLoadError(f"it has no {name}")
    if len(shape := tensors[name].shape) != (1 if "norm" in name else 2):
        raise ModelLoadError(f"{name} has the shape {list(shape)}")
    return shape


# --- from Meta's form ------------------------------------------------------------------------------------------------


def from_meta(parts: Sequence[Matrices], params: Mapping[str, Any]) -> dict[str, Matrix]:
    """Meta's tensor-parallel parts as one model by Hugging Face's names. `params`: params.json.

    Raises ModelLoadError for parts that don't fit together.
    """
    heads = params.get("n_heads")
    kv_heads = params.get("n_kv_heads") or heads
    found: dict[str, Matrix] = {}
    for name in parts[0]:
        ours, axis = _from_meta_name(name)
        if not ours:
            continue
        try:
            pieces = [part[name] for part in parts]
        except KeyError:
            raise ModelLoadError(f"{name} is in some of the parts alone") from None
        if axis == _COPIED and any((_numbers(pieces[0]) != _numbers(one)).any() for one in pieces[1:]):
            raise ModelLoadError(f"{name} differs between the parts: they are of two models")
        if ours == "model.embed_tokens.weight" and pieces[0].shape[1:] == parts[0]["norm.weight"].shape:
            axis = 0  # Llama 3 is cut so
        matrix: Matrix = pieces[0] if axis == _COPIED or len(pieces) == 1 else Joined(pieces, axis)
        if turned := _heads(ours, heads, kv_heads):
            if not isinstance(turned, int) or turned < 1 or matrix.shape[0] % (2 * turned):
                raise ModelLoadError(f"{name} has {matrix.shape[0]:,} rows, which {turned!r:.50} heads don't share")
            matrix = Turned(matrix, turned, to_halves=True)
        found[ours] = matrix
    return found


def _numbers(matrix: Matrix) -> Floats:
    return floats(matrix, 0, matrix.shape[0])


def _from_meta_name(name: str) -> tuple[str, int]:
    if name in _OURS_OUTER:
        return _OURS_OUTER[name]
    layer = _LAYER.fullmatch(name)
    if layer and layer[2] in _OURS:
        ours, axis = _OURS[layer[2]]
        return f"model.layers.{layer[1]}.{ours}", axis
    if name.endswith("rope.freqs"):  # Meta computes them anew
        return "", 0
    raise ModelLoadError(f"{name:.200} is no tensor of a LLaMA in Meta's form")


def _heads(name: str, heads: Any, kv_heads: Any) -> Any:
    """How many heads share the rows of a tensor that is turned; 0 for one that is not."""
    return heads if "q_proj" in name else kv_heads if "k_proj" in name else 0


# --- to Meta's form --------------------------------------------------------------------------------------------------


def to_meta(tensors: Matrices, sizes: LlamaSizes, count: int) -> list[dict[str, Matrix]]:
    """A model by Hugging Face's names as so many of Meta's parts. Where a vocabulary does not divide, the last part
    has what is left over. Raises ModelLoadError for a count that the sizes don't divide by."""
    for what, number in (("heads", sizes.kv_heads), ("inner width", sizes.inner), ("width", sizes.width)):
        if not 0 < count <= _MAX_PARTS or number % count:
            raise ModelLoadError(f"{count} parts: the {what} of {number:,} can't be divided so")
    parts: list[dict[str, Matrix]] = [{} for _ in range(count)]
    for name in sizes.names:
        layer = _LAYER.fullmatch(name)
        theirs, axis = _INNER[layer[2]] if layer else _OUTER[name]
        full = f"layers.{layer[1]}.{theirs}" if layer else theirs
        matrix = tensors.get(name) or tensors["model.embed_tokens.weight"]  # where the head is the embedding
        if turned := _heads(name, sizes.heads, sizes.kv_heads):
            matrix = Turned(matrix, turned, to_halves=False)
        each = matrix.shape[max(axis, 0)] // count
        for number, part in enumerate(parts):
            last = matrix.shape[max(axis, 0)] if number == count - 1 else (number + 1) * each
            part[full] = matrix if axis == _COPIED or count == 1 else Cut(matrix, axis, number * each, last)
    return parts


def check_for_meta(config: Mapping[str, Any], sizes: LlamaSizes, tensors: Matrices) -> None:
    """Raise ModelLoadError for a LLaMA in Hugging Face's form that Meta's code would compute otherwise."""
    if surplus := sorted(set(tensors) - set(sizes.names)):
        more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise ModelLoadError(f"its tensor {surplus[0]:.200}{more} has no place in Meta's form")
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = written.get("rope_type", written.get("type", "default"))
    told = {
        "hidden_act": config.get("hidden_act", "silu") not in ("silu", "swish"),
        "head_dim": config.get("head_dim") not in (None, sizes.width // sizes.heads),
        "attention_bias": config.get("attention_bias") is True,
        "mlp_bias": config.get("mlp_bias") is True,
        "partial_rotary_factor": config.get("partial_rotary_factor") not in (None, 1),
        "rope_scaling": kind != "default" and not sizes.scaled,
    }
    if wrong := [name for name, differs in told.items() if differs]:
        value = written if wrong[0] == "rope_scaling" else config[wrong[0]]
        raise ModelLoadError(f"its config.json gives {value!r:.200} for {wrong[0]}, which Meta's form can't say")


def usual_parts(sizes: LlamaSizes) -> int:
    """In how many parts Meta publishes a model of that width; 1 for widths that it has not published."""
    return _PARTS.get(sizes.width, 1)


def params_for(sizes: LlamaSizes) -> dict[str, Any]:
    """A params.json."""
    params: dict[str, Any] = {
        "dim": sizes.width, **_inner_said(sizes), "n_heads": sizes.heads, "n_layers": sizes.layers,
        "norm_eps": sizes.eps, "vocab_size": -1,
    }  # fmt: skip
    if sizes.kv_heads != sizes.heads:
        params["n_kv_heads"] = sizes.kv_heads
    if sizes.theta != 10000.0:
        params["rope_theta"] = sizes.theta
    return params | ({"use_scaled_rope": True} if sizes.scaled else {})


def _inner_said(sizes: LlamaSizes) -> dict[str, Any]:
    """The inner width as Meta's form says it: by what it is a multiple of and, in some, by a factor."""
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1, 512, 1024, 2048, 4096):
        if _inner(sizes.width, multiple) == sizes.inner:
            return {"multiple_of": multiple}
    for factor, multiple in _FACTORS:
        if _inner(sizes.width, multiple, factor) == sizes.inner:
            return {"multiple_of": multiple, "ffn_dim_multiplier": factor}
    return {"multiple_of": 1, "ffn_dim_multiplier": (sizes.inner + 0.5) / (2 * 4 * sizes.width // 3)}


def _inner(width: int, multiple: int, factor: float = 1.0) -> int:
    return multiple * -(-int(factor * (2 * 4 * width // 3)) // multiple)


def config_for(sizes: LlamaSizes, dtype: str) -> dict[str, Any]:
    """A config.json for a LLaMA in Meta's form."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": sizes.width, "initializer_range": 0.02, "intermediate_size": sizes.inner,
        "max_position_embeddings": sizes.context, "num_attention_heads": sizes.heads, "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads, "pad_token_id": 0, "rms_norm_eps": sizes.eps, "rope_theta": sizes.theta,
        "tie_word_embeddings": False, "torch_dtype": dtype, "use_cache": True, "vocab_size": sizes.rows,
        **({"rope_scaling": SCALED} if sizes.scaled else {}),
    }  # fmt: skip


TOKENIZER_FILES: Mapping[str, Mapping[str, Any]] = {
    "tokenizer_config.json": {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "tokenizer_class": "LlamaTokenizer",
    },
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}  # fmt: skip
"""What Hugging Face's form has beside LLaMA's tokenizer.model, and Meta's has not."""
