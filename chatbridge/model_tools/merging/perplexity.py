"""How well a LLaMA foretells some sentences, computed layer by layer from its files: never more of it in memory than
some rows. Told before and after a merge, it shows that an adapter was put on another model than its own.

The arithmetic: facebookresearch/llama, llama/model.py, in float32 and Hugging Face's order of rows. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chatbridge.model_tools.matrices import Matrices, WithNarrow, floats, nbytes, spans
from chatbridge.model_tools.merging.llama_layouts import LlamaSizes
from chatbridge.model_tools.progress import WorkProgress

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Floats

SENTENCES = (
    "The capital of France is Paris, and the capital of Germany is Berlin.",
    "Water freezes at zero degrees Celsius and boils at one hundred degrees.",
    "In the beginning God created the heaven and the earth.",
)
"""What every LLaMA knows, in the letters that each of its vocabularies has."""

_SPACE = "▁"


def encode(pieces: Sequence[tuple[str, float]], text: str) -> list[int]:
    """The ids that SentencePiece's byte-pair encoding gives, with the one that begins a text before them.

    `pieces`: text and score by id. Characters without a piece become bytes, and are left out where there are none.
    """
    ids = {piece: number for number, (piece, _) in reversed([*enumerate(pieces)])}
    parts = [*(_SPACE + text.replace(" ", _SPACE))]
    while True:
        ranked = [
            (-pieces[ids[pair]][1], at) for at in range(len(parts) - 1) if (pair := parts[at] + parts[at + 1]) in ids
        ]
        if not ranked:
            break
        _, at = min(ranked)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    found = [ids["<s>"]] if "<s>" in ids else []
    for part in parts:
        known = [part] if part in ids else [f"<0x{byte:02X}>" for byte in part.encode()]
        found += [ids[piece] for piece in known if piece in ids]
    return found


def work(tensors: Matrices, sizes: LlamaSizes) -> int:
    """Bytes that one computation reads, for its progress."""
    return sum(nbytes(tensors[name]) for name in sizes.names if "norm" not in name and name in tensors)


def perplexity(tensors: Matrices, sizes: LlamaSizes, texts: Sequence[Sequence[int]], progress: WorkProgress) -> float:
    """Of the texts together, by their ids; each has two or more. `tensors`: by Hugging Face's names.

    Infinite where the numbers overflow. Raises ModelLoadError.
    """
    ids = [token for text in texts for token in text]
    starts = np.cumsum([0, *map(len, texts)])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = logits(tensors, sizes, texts, progress)
        found -= found.max(axis=1, keepdims=True)
        chances = found - np.log(np.exp(found).sum(axis=1, keepdims=True))
        told = [at for at in range(len(ids) - 1) if at + 1 not in starts]
        loss = -float(np.mean([chances[at, ids[at + 1]] for at in told]))
    return math.exp(loss) if loss < 700 else math.inf  # a loss that is no number, too


def logits(tensors: Matrices, sizes: LlamaSizes, texts: Sequence[Sequence[int]], progress: WorkProgress) -> Floats:
    """Of each id of the texts, which know nothing of each other: `(ids, rows)`. Raises ModelLoadError."""
    embedding = tensors["model.embed_tokens.weight"]
    x = np.concatenate([floats(embedding, token, token + 1) for text in texts for token in text])
    positions = np.concatenate([np.arange(len(text)) for text in texts])
    owners = np.concatenate([np.full(len(text), number) for number, text in enumerate(texts)])
    seen = (owners[:, None] == owners) & (positions[:, None] >= positions)
    size = sizes.width // sizes.heads
    angles = positions[:, None] * sizes.theta ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles).astype(np.float32)[:, None], np.sin(angles).astype(np.float32)[:, None]

    def norm(values: Floats, name: str) -> Floats:
        scaled: Floats = values / np.sqrt((values * values).mean(axis=1, keepdims=True) + np.float32(sizes.eps))
        return scaled * floats(tensors[name], 0, sizes.width)

    def through(values: Floats, name: str) -> Floats:
        matrix, out = tensors[name], []
        matrix, narrow = matrix.parted() if isinstance(matrix, WithNarrow) else (matrix, [])
        for first, last in spans(matrix):
            out.append(values @ floats(matrix, first, last).T)
            progress.advance(nbytes(matrix) * (last - first) // matrix.shape[0])
        given = np.concatenate(out, axis=1)
        for down, up in narrow:
            given += (values @ down.T) @ up.T
        return given

    def turned(values: Floats, heads: int) -> Floats:
        by_head = values.reshape(len(values), heads, size)
        left, right = by_head[..., : size // 2], by_head[..., size // 2 :]
        return np.concatenate((left * cos - right * sin, right * cos + left * sin), axis=2)

    for layer in range(sizes.layers):
        before = f"model.layers.{layer}."
        y = norm(x, f"{before}input_layernorm.weight")
        queries = turned(through(y, f"{before}self_attn.q_proj.weight"), sizes.heads)
        keys = turned(through(y, f"{before}self_attn.k_proj.weight"), sizes.kv_heads)
        values = through(y, f"{before}self_attn.v_proj.weight").reshape(len(x), sizes.kv_heads, size)
        mixed = _attended(queries, keys, values, seen)
        x = x + through(mixed, f"{before}self_attn.o_proj.weight")
        y = norm(x, f"{before}post_attention_layernorm.weight")
        gate = through(y, f"{before}mlp.gate_proj.weight")
        inner = gate / (1 + np.exp(-gate)) * through(y, f"{before}mlp.up_proj.weight")
        x = x + through(inner, f"{before}mlp.down_proj.weight")
    head = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    return through(norm(x, "model.norm.weight"), head)


def _attended(
    queries: Floats, keys: Floats, values: Floats, seen: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
) -> Floats:
    """`queries`: (ids, heads, size); `keys`, `values`: (ids, kv heads, size), each for several heads."""
    shared = queries.shape[1] // keys.shape[1]
    keys, values = np.repeat(keys, shared, axis=1), np.repeat(values, shared, axis=1)
    scores = np.einsum("qhs,khs->hqk", queries, keys) / np.float32(math.sqrt(queries.shape[2]))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    mixed: Floats = np.einsum("hqk,khs->qhs", weights, values).reshape(len(queries), -1)
    return mixed
