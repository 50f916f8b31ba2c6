"""Which tensor of a published model becomes which one of a GGUF file: one table for each form of each family.

In names, `{}` stands for the number of a layer. Shapes are in words: "width", "inner" and "vocabulary" as everywhere;
"head" is the width of a head, "q" that of all heads together, "kv" that of those that keys and values have, "qkv" three
times the width. Nothing here knows a file. The names of GGUF: gguf-py, constants.py; what llama.cpp wants of each
architecture: src/models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Order = Literal["", "pairs of q", "pairs of kv", "apart"]
"""How rows are put: as they are; from halves of a head, which Hugging Face rotates, to the neighbours that llama.cpp
does, for heads of queries or of keys; from q, k and v of each head to those of all heads."""

Axis = Literal["rows", "columns", "by width", "whole"]
"""Along what tensor-parallel parts of a tensor are joined: "by width" by columns, or by rows where each part is as wide
as the model (Llama 3); "whole" where each part has all of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes of a tensor. `shape`: in words. `needed`: whether the model is none without it."""

    target: str
    shape: tuple[str, ...]
    order: Order = ""
    needed: bool = True
    axis: Axis = "whole"


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a family. `kinds`: its `model_type`. `architecture`: as llama.cpp calls it.

    `prefix`: what may stand before all names. `layer`: how names of a layer begin. `width`: the name of a tensor with
    one number for each channel; `head`: of the one that gives the logits. `left_out`: ends of names that have no place
    in a GGUF file, and need none. `keys`: where a number of its configuration stands, by the key without the
    architecture; `given`: what it is where nothing is said. A number that is in neither is an error. `tied`: whether
    the head is the embedding unless it is said otherwise. `rotary`: whether heads are rotated. `must`: settings that
    llama.cpp's arithmetic knows in these values alone, as if they were not there.
    """

    layout: str
    kinds: tuple[str, ...]
    architecture: str
    prefix: str
    layer: str
    top: Mapping[str, Entry]
    block: Mapping[str, Entry]
    keys: Mapping[str, tuple[str, ...]]
    width: str
    given: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    head: str = "lm_head.weight"
    tied: bool = False
    rotary: bool = True
    must: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


def _linear(name: str, target: str, *shape: str, order: Order = "", bias: bool | None = False) -> dict[str, Entry]:
    """A matrix, and its bias: needed, or there in some (None), or in none (False)."""
    found = {f"{name}.weight": Entry(f"{target}.weight", shape, order)}
    if bias is not False:
        found[f"{name}.bias"] = Entry(f"{target}.bias", shape[:1], order, needed=bias is True)
    return found


def _norm(name: str, target: str, width: str = "width", *, bias: bool = False) -> dict[str, Entry]:
    found = {f"{name}.weight": Entry(f"{target}.weight", (width,))}
    return found | ({f"{name}.bias": Entry(f"{target}.bias", (width,))} if bias else {})


@dataclass(frozen=True, slots=True)
class LlamaTensor:
    """One tensor of a LLaMA by its names in all forms, without `.weight`: Hugging Face's, Meta's, and that of GGUF.

    `shape`: in words. `axis`: along what Meta's tensor-parallel parts are joined.
    """

    hub: str
    meta: str
    gguf: str
    shape: tuple[str, ...]
    axis: Axis = "whole"


LLAMA_TOP = (
    LlamaTensor("embed_tokens", "tok_embeddings", "token_embd", ("vocabulary", "width"), "by width"),
    LlamaTensor("norm", "norm", "output_norm", ("width",)),
    LlamaTensor("lm_head", "output", "output", ("vocabulary", "width"), "rows"),
)
LLAMA_LAYER = (
    LlamaTensor("input_layernorm", "attention_norm", "attn_norm", ("width",)),
    LlamaTensor("self_attn.q_proj", "attention.wq", "attn_q", ("q", "width"), "rows"),
    LlamaTensor("self_attn.k_proj", "attention.wk", "attn_k", ("kv", "width"), "rows"),
    LlamaTensor("self_attn.v_proj", "attention.wv", "attn_v", ("kv", "width"), "rows"),
    LlamaTensor("self_attn.o_proj", "attention.wo", "attn_output", ("width", "q"), "columns"),
    LlamaTensor("post_attention_layernorm", "ffn_norm", "ffn_norm", ("width",)),
    LlamaTensor("mlp.gate_proj", "feed_forward.w1", "ffn_gate", ("inner", "width"), "rows"),
    LlamaTensor("mlp.up_proj", "feed_forward.w3", "ffn_up", ("inner", "width"), "rows"),
    LlamaTensor("mlp.down_proj", "feed_forward.w2", "ffn_down", ("width", "inner"), "columns"),
)
"""The tensors of a LLaMA, the one place that says what each form calls them; all others are derived from it."""

_PAIRS: Mapping[str, Order] = {"attn_q": "pairs of q", "attn_k": "pairs of kv"}
"""Whose rows llama.cpp has in another order than Hugging Face."""


def _llama_block(*, pairs: bool, bias: bool | None = None, norms: bool = False) -> dict[str, Entry]:
    """A layer of LLaMA's and its relatives. `pairs`: llama.cpp rotates neighbours in them; `bias`: of q, k and v;
    `norms`: of the heads of q and k."""
    also, found = None if bias is None else False, dict[str, Entry]()
    for one in LLAMA_LAYER:
        if len(one.shape) == 1:
            found |= _norm(one.hub, one.gguf)
            continue
        order = _PAIRS.get(one.gguf, "") if pairs else ""
        own = bias if one.gguf in ("attn_q", "attn_k", "attn_v") else also
        found |= _linear(one.hub, one.gguf, *one.shape, order=order, bias=own)
        if norms and one.gguf == "attn_output":
            found |= _norm("self_attn.q_norm", "attn_q_norm", "head") | _norm("self_attn.k_norm", "attn_k_norm", "head")
    return found


_TOP = {f"{one.hub}.weight": Entry(f"{one.gguf}.weight", one.shape, needed=one.hub != "lm_head") for one in LLAMA_TOP}

_KEYS = {
    "context_length": ("max_position_embeddings",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.head_count": ("num_attention_heads",),
}


def _huggingface(kinds: tuple[str, ...], architecture: str, block: Mapping[str, Entry]) -> Form:
    """LLaMA and its relatives, as transformers writes them."""
    return Form(
        "huggingface", kinds, architecture, "model.", "layers.{}.", _TOP, block, _KEYS, "norm.weight",
        left_out=("rotary_emb.inv_freq",),
        must={"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1,)},
    )  # fmt: skip


def _meta(tensors: Sequence[LlamaTensor]) -> dict[str, Entry]:
    return {f"{one.meta}.weight": Entry(f"{one.gguf}.weight", one.shape, axis=one.axis) for one in tensors}


FORMS = (
    Form(
        "meta", ("llama",), "llama", prefix="", layer="layers.{}.",
        top=_meta(LLAMA_TOP),
        block=_meta(LLAMA_LAYER),
        keys={"attention.layer_norm_rms_epsilon": ("norm_eps",), "attention.head_count": ("n_heads",),
              "context_length": ("max_seq_len",)},
        width="norm.weight", left_out=("rope.freqs",), head="output.weight", must={"use_scaled_rope": (False,)},
    ),
    _huggingface(("llama", "mistral"), "llama", _llama_block(pairs=True)),
    _huggingface(("qwen2",), "qwen2", _llama_block(pairs=False, bias=True)),
    _huggingface(("qwen3",), "qwen3", _llama_block(pairs=False, bias=False, norms=True)),
    Form(
        "huggingface", ("bloom",), "bloom", prefix="transformer.", layer="h.{}.",
        top={
            "word_embeddings.weight": Entry("token_embd.weight", ("vocabulary", "width")),
            **_norm("word_embeddings_layernorm", "token_embd_norm", bias=True),
            **_norm("ln_f", "output_norm", bias=True),
            "lm_head.weight": Entry("output.weight", ("vocabulary", "width"), needed=False),
        },
        block={
            **_norm("input_layernorm", "attn_norm", bias=True),
            **_linear("self_attention.query_key_value", "attn_qkv", "qkv", "width", order="apart", bias=True),
            **_linear("self_attention.dense", "attn_output", "width", "width", bias=True),
            **_norm("post_attention_layernorm", "ffn_norm", bias=True),
            **_linear("mlp.dense_h_to_4h", "ffn_up", "inner", "width", bias=True),
            **_linear("mlp.dense_4h_to_h", "ffn_down", "width", "inner", bias=True),
        },
        keys={"context_length": ("seq_length",), "attention.layer_norm_epsilon": ("layer_norm_epsilon",),
              "attention.head_count": ("n_head", "num_attention_heads")},
        width="ln_f.weight", given={"context_length": 2048, "attention.layer_norm_epsilon": 1e-5}, tied=True,
        rotary=False, must={"apply_residual_connection_post_layernorm": (False,)},
    ),
)  # fmt: skip
"""What is converted to GGUF. A family with other tensors, or other arithmetic, is not one of these."""

META_CONTEXTS = (
    (1e6, 0.0, 1 << 30, 16384), (5e5, 0.0, 1 << 30, 8192), (0.0, 1e-5, 5120, 4096), (0.0, 0.0, 1 << 30, 2048),
)  # fmt: skip
"""How many tokens Meta's models were trained on, which no file says: CodeLlama's, Llama 3's, Llama 2's, and LLaMA's.

Told by the base of the rotary angles and by norm_eps, which both reach what stands here, and by the greatest width of a
model whose keys have as many heads as its queries. The first line that fits.
"""


def context_note(tokens: int) -> str:
    """What people are told where a context was taken from `META_CONTEXTS`."""
    return f"params.json says no context: {tokens:,} tokens are what such a model has"


def form_of(layout: str, kind: str) -> Form | None:
    """The form that a model has, if it is one of those that are converted."""
    return next((form for form in FORMS if form.layout == layout and kind in form.kinds), None)
