"""The weights of a LLaMA model, laid out for speed. Knows the tensors' names and shapes; runs nothing.

Matrices are kept as [in, out], so that `x @ w` reads them front to back: measured as fast for one row as the file's
[out, in], up to ten times as fast for two to four rows and twice for sixteen. What is always multiplied together
is in one matrix. Constant factors are multiplied in: 1/sqrt(head size) into the queries, 1/2 into the gates (see
`_feed_forward` in model.py).

They are float32, whatever the file has: NumPy has no product of fewer bytes. Unpacking a matrix for each one took 9 to
31 times as long from float16, and 2.6 to 3.4 times from int8 (one row, 576 wide, AVX2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from chatbridge import ModelLoadError
from chatbridge_numpy.gguf_file import Floats, GgufFile
from chatbridge_numpy.lora import Lora
from chatbridge_numpy.params import Params


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block. Shapes, with q = heads * head_dim and k = kv_heads * head_dim:

    `attention_norm`, `ffn_norm`: [dim]. `qkv`: [dim, q + 2k], its bias [q + 2k] or None. `out`: [q, dim].
    `out_bias`: [dim] or None. `gate_up`: [2, dim, hidden]. `down`: [hidden, dim].
    """

    attention_norm: Floats
    qkv: Floats
    qkv_bias: Floats | None
    out: Floats
    out_bias: Floats | None
    ffn_norm: Floats
    gate_up: Floats
    down: Floats


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights as float32. `embedding`: [vocabulary, dim]. `output`: [dim, vocabulary].

    `tied`: the output is the embedding again. `norm`: [dim]. `rope_factors`: llama 3's divisors, [rope_dim / 2], or
    None. `nbytes`: of all of them.
    """

    embedding: Floats
    layers: tuple[Layer, ...]
    norm: Floats
    output: Floats
    tied: bool
    rope_factors: Floats | None
    nbytes: int


def read_weights(
    file: GgufFile,
    lora: Lora | None,
    params: Params,
    vocabulary: int,
    progress: Callable[[float, str], None],
) -> Weights:
    """All weights of `file` as float32, for `vocabulary` tokens, with `lora` merged into them.

    Raises ModelLoadError for what is missing, misshapen or unknown.
    """
    reader = _Reader(file, lora)
    embedding = reader.floats("token_embd.weight", vocabulary, params.dim)
    layers = []
    for i in range(params.layers):
        layers.append(_layer(reader, f"blk.{i}", params))
        progress((i + 1) / (params.layers + 1), "reading weights")
    tied = "output.weight" not in file.tensors
    output = embedding if tied else reader.floats("output.weight", vocabulary, params.dim)
    factors = reader.optional("rope_freqs.weight", params.rope_dim // 2)
    weights = Weights(
        embedding=embedding,
        layers=tuple(layers),
        norm=reader.floats("output_norm.weight", params.dim),
        output=_transposed(output),
        tied=tied,
        rope_factors=factors,
        nbytes=4 * (reader.count + tied * vocabulary * params.dim),
    )
    reader.refuse_leftovers()
    return weights


def _layer(reader: _Reader, at: str, params: Params) -> Layer:
    dim, hidden = params.dim, params.hidden
    queries, keys = params.heads * params.head_dim, params.kv_heads * params.head_dim
    scale = np.float32(params.head_dim**-0.5)
    query = reader.floats(f"{at}.attn_q.weight", queries, dim)
    query *= scale
    key = reader.floats(f"{at}.attn_k.weight", keys, dim)
    value = reader.floats(f"{at}.attn_v.weight", keys, dim)
    qkv_bias = np.zeros(queries + 2 * keys, np.float32)
    for part, begin, end in (("q", 0, queries), ("k", queries, queries + keys), ("v", queries + keys, None)):
        bias = reader.optional(f"{at}.attn_{part}.bias", len(qkv_bias[begin:end]))
        if bias is not None:
            qkv_bias[begin:end] = bias
    qkv_bias[:queries] *= scale
    gate = reader.floats(f"{at}.ffn_gate.weight", hidden, dim)
    gate *= np.float32(0.5)
    up = reader.floats(f"{at}.ffn_up.weight", hidden, dim)
    return Layer(
        attention_norm=reader.floats(f"{at}.attn_norm.weight", dim),
        qkv=_transposed(np.concatenate([query, key, value])),
        qkv_bias=qkv_bias if qkv_bias.any() else None,
        out=_transposed(reader.floats(f"{at}.attn_output.weight", dim, queries)),
        out_bias=reader.optional(f"{at}.attn_output.bias", dim),
        ffn_norm=reader.floats(f"{at}.ffn_norm.weight", dim),
        gate_up=np.stack([_transposed(gate), _transposed(up)]),
        down=_transposed(reader.floats(f"{at}.ffn_down.weight", dim, hidden)),
    )


class _Reader:
    """Reads tensors and counts their numbers. It knows which were read, so that none is left out in silence."""

    def __init__(self, file: GgufFile, lora: Lora | None) -> None:
        self.count = 0
        self._file = file
        self._lora = lora
        self._unread = {name for name in file.tensors if not name.endswith(".attn_rot_embd")}  # rope.freq_base again

    def floats(self, name: str, *shape: int) -> Floats:
        self._unread.discard(name)
        values = self._file.floats(name, shape)
        self.count += values.size
        if self._lora is not None:
            self._lora.add_to(name, values)
        return values

    def optional(self, name: str, *shape: int) -> Floats | None:
        return self.floats(name, *shape) if name in self._file.tensors else None

    def refuse_leftovers(self) -> None:
        if self._lora is not None:
            self._lora.refuse_leftovers()
        if self._unread:
            some = ", ".join(sorted(self._unread)[:3])
            raise ModelLoadError(
                f"{self._file.path}: the file has tensors that the numpy backend does not know ({some}), so it "
                f"would compute something else than the model; use backend: llama_cpp"
            )


def _transposed(matrix: Floats) -> Floats:
    return np.ascontiguousarray(matrix.T)
