"""The families of models as one table: by which tensors each is known, and in which its sizes are seen.

In names, `{}` stands for the number of a layer. Nothing here knows a file; `shapes.py` measures by this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Family:
    """One family in one form of publication.

    `marks`: regular expressions, each of which fits the beginning of some tensor's name. `prefix`: what may stand
    before all names. `layer`: how names of a layer begin. `width`: a tensor with one number for each channel. `inner`:
    a tensor, its axis, and a divisor. `heads`: a tensor with a row for each head and 0, or one with the frequencies of
    a head and how many channels share one. `degree`: a tensor that is cut by rows among tensor-parallel parts, and how
    many times the width it has rows in all. `copied`: ends of names of tensors that each part has whole. `tied`: heads
    that repeat the embedding. `packed`: a matrix whose columns tell the bits of quantised weights. `uneven`: how names
    begin, within a layer, of what not all layers have. `rows`: what a number of the vocabulary's rows tells.
    """

    name: str
    architecture: str
    layout: str
    marks: tuple[str, ...]
    embedding: str
    head: str
    layer: str
    width: str
    prefix: str = ""
    inner: tuple[str, int, int] | None = None
    heads: tuple[str, int] | None = None
    degree: tuple[str, int] | None = None
    copied: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    packed: str = ""
    uneven: tuple[str, ...] = ()
    rows: Mapping[int, str] = field(default_factory=dict)


LLAMA_ROWS = {
    32000: "", 32001: "Alpaca", 49953: "Chinese-LLaMA", 49954: "Chinese-Alpaca", 55296: "Chinese-LLaMA-2",
    79458: "BELLE-LLaMA-EXT",
}  # fmt: skip
"""Who has added how many ids to LLaMA's 32,000."""

LLAMA_SIZES = {(32, 4096): "7B", (40, 5120): "13B", (60, 6656): "30B", (80, 8192): "65B"}
"""What Meta calls a LLaMA of so many layers and such a width."""

_GLM = "layers.{}.attention.query_key_value"


def _rwkv(version: int, *marks: str, heads: str = "", uneven: tuple[str, ...] = ()) -> Family:
    return Family(
        f"RWKV-{version}",
        f"rwkv-{version}",
        "rwkv",
        marks=tuple(rf"blocks\.\d+\.att\.{mark}" for mark in marks),
        embedding="emb.weight",
        head="head.weight",
        layer="blocks.{}.",
        width="blocks.{}.ln1.weight",
        heads=(f"blocks.{{}}.att.{heads}", 0) if heads else None,
        uneven=("ln0.", *uneven),
    )


FAMILIES = (
    _rwkv(7, "r_k$", heads="r_k", uneven=("att.v0", "att.v1", "att.v2")),
    _rwkv(6, "time_maa", heads="time_faaaa"),
    _rwkv(5, "time_decay$", r"ln_x\.", heads="time_decay"),
    _rwkv(4, "time_decay$"),
    Family("LLaMA", "llama", "meta", marks=(r"layers\.\d+\.attention\.wq\.", r"layers\.\d+\.feed_forward\.w1\."),
           embedding="tok_embeddings.weight", head="output.weight", layer="layers.{}.",
           width="layers.{}.attention_norm.weight", inner=("layers.{}.feed_forward.w1.weight", 0, 1),
           heads=("rope.freqs", 2), degree=("layers.{}.attention.wq.weight", 1), copied=("norm.weight", "rope.freqs"),
           rows=LLAMA_ROWS),
    Family("LLaMA", "llama", "huggingface", prefix="model.",
           marks=(r"layers\.\d+\.self_attn\.q_proj\.", r"layers\.\d+\.mlp\.gate_proj\."),
           embedding="embed_tokens.weight", head="lm_head.weight", layer="layers.{}.",
           width="layers.{}.input_layernorm.weight", inner=("layers.{}.mlp.gate_proj.weight", 0, 1),
           heads=("layers.{}.self_attn.rotary_emb.inv_freq", 2), rows=LLAMA_ROWS),
    Family("BLOOM", "bloom", "huggingface", prefix="transformer.",
           marks=(r"h\.\d+\.self_attention\.query_key_value\.", r"word_embeddings_layernorm\."),
           embedding="word_embeddings.weight", head="lm_head.weight", layer="h.{}.",
           width="h.{}.input_layernorm.weight", inner=("h.{}.mlp.dense_h_to_4h.weight", 0, 1),
           tied=("lm_head.weight",)),
    Family("ChatGLM-6B", "chatglm", "chatglm", prefix="transformer.",
           marks=(r"layers\.\d+\.attention\.query_key_value\.", r"layers\.\d+\.mlp\.dense_h_to_4h\."),
           embedding="word_embeddings.weight", head="lm_head.weight", layer="layers.{}.",
           width="layers.{}.input_layernorm.weight", inner=("layers.{}.mlp.dense_h_to_4h.bias", 0, 1),
           heads=("layers.{}.attention.rotary_emb.inv_freq", 4), tied=("lm_head.weight",), packed=_GLM,
           rows={130528: "slim vocabulary, without pictures", 150528: "vocabulary with 20,000 tokens of pictures"}),
    Family("GLM-130B", "glm-130b", "glm-130b", prefix="transformer.",
           marks=(r"layers\.\d+\.attention\.query_key_value\.", r"layers\.\d+\.mlp\.dense_h_to_4h\."),
           embedding="word_embeddings.weight", head="", layer="layers.{}.",
           width="layers.{}.input_layernorm.weight", inner=("layers.{}.mlp.dense_h_to_4h.bias", 0, 2),
           heads=("layers.{}.attention.rotary_emb.inv_freq", 2), degree=(f"{_GLM}.bias", 3), packed=_GLM,
           copied=("layernorm.weight", "layernorm.bias", "attention.dense.bias", "mlp.dense_4h_to_h.bias", "inv_freq")),
)  # fmt: skip
"""The first whose marks are all there wins: narrow ones stand before those that they contain."""

GENERIC = Family("", "", "huggingface", marks=(), embedding="", head="", layer="layers.{}.", width="", prefix="model.")
"""Any other model in Hugging Face's form, whose sizes config.json tells."""

EMBEDDINGS = (
    "embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight",
    ".embeddings.weight",
)  # fmt: skip
"""Ends of names that embeddings have in any family."""

NO_WEIGHTS = (
    "rotary_emb.inv_freq", "rope.freqs", ".masked_bias", ".position_ids", ".weight_scale", "_mx", "_my", "_rx", "_ry",
    ".qzeros", ".scales", ".g_idx", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB",
    ".weight_format",
    ".weight_scale_inv", ".input_scale",
)  # fmt: skip
"""Ends of names of what lies beside the weights, and is no parameter."""

CONFIG_KEYS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    "inner": ("intermediate_size", "inner_hidden_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "context": ("max_position_embeddings", "max_sequence_length", "seq_length", "n_positions", "n_ctx", "max_seq_len"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
}
"""How configurations of all families call a size."""
