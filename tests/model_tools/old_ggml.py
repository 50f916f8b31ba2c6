"""Writes LLaMAs as llama.cpp did before GGUF, block by block in plain loops, and says which numbers are in them.

Written from llama.cpp's own code of the time (ggml.c, quantize_row_*_reference), and from nothing of ours.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]

KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q4_2": 4, "Q4_3": 5, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q4_2": 5, "Q4_3": 6, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}
"""What most tensors of a file are (`llama_ftype`)."""

MAGICS = {
    "ggml": b"lmgg",
    "ggmf 1": b"fmgg\1\0\0\0",
    "ggjt 1": b"tjgg\1\0\0\0",
    "ggjt 2": b"tjgg\2\0\0\0",
    "ggjt 3": b"tjgg\3\0\0\0",
}
BLOCKS = {"Q4_0": 32, "Q4_1": 32, "Q4_2": 16, "Q4_3": 16, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32}


def layout(form: str) -> int:
    return int(form[-1]) if form.startswith("ggjt") else 0


def block(values: np.ndarray, kind: str, version: int) -> tuple[bytes, np.ndarray]:
    """One block, and the numbers that it stands for."""
    short = version == 3 or kind in ("Q4_2", "Q4_3", "Q5_0", "Q5_1")
    bits = int(kind[1])
    largest = values[np.argmax(np.abs(values))]
    minimum = np.float32(0)
    zero = 0
    if kind in ("Q4_1", "Q4_3", "Q5_1"):
        minimum = values.min()
        scale = np.float32((values.max() - minimum) / np.float32((1 << bits) - 1))
    elif kind == "Q8_0":
        scale = np.float32(np.abs(values).max() / np.float32(127))
    else:
        zero = 1 << (bits - 1)
        scale = np.float32(largest / np.float32(-zero))
    inverse = 1 / scale if scale else np.float32(0)
    least, most = (-127, 127) if kind == "Q8_0" else (0, (1 << bits) - 1)
    numbers = np.clip(np.floor((values - minimum) * inverse + zero + 0.5), least, most).astype(int).tolist()
    stored = [scale, minimum] if kind in ("Q4_1", "Q4_3", "Q5_1") else [scale]
    out = b"".join(struct.pack("<e" if short else "<f", number) for number in stored)
    if short:
        scale, minimum = np.float32(np.float16(scale)), np.float32(np.float16(minimum))
    if bits == 5:
        out += sum((number >> 4) << at for at, number in enumerate(numbers)).to_bytes(4, "little")
    if kind == "Q8_0":
        out += struct.pack(f"<{len(numbers)}b", *numbers)
    else:
        low = [number & 15 for number in numbers]
        half = len(low) // 2
        pairs = zip(low[::2], low[1::2], strict=True) if version < 2 else zip(low[:half], low[half:], strict=True)
        out += bytes(first | second << 4 for first, second in pairs)
    return out, (np.array(numbers, np.float32) - np.float32(zero)) * scale + minimum


def rows(array: np.ndarray, kind: str, version: int) -> tuple[bytes, np.ndarray]:
    """A tensor's bytes, and its numbers."""
    floats = np.asarray(array, np.float32)
    if kind in ("F32", "F16"):
        stored = floats.astype("<f4" if kind == "F32" else "<f2")
        return stored.tobytes(), stored.astype(np.float32)
    size = BLOCKS[kind]
    parts = [block(values, kind, version) for values in floats.reshape(-1, size)]
    return b"".join(part for part, _ in parts), np.concatenate([found for _, found in parts]).reshape(floats.shape)


def printed(piece: str, kind: int) -> bytes:
    """What convert-pth-to-ggml.py wrote of a piece of SentencePiece's."""
    if kind == 2:
        return " \u2047 ".encode()
    if kind == 3:
        return b""
    if kind == 6:
        return bytes([int(piece[3:-1], 16)])
    return piece.replace("\u2581", " ").encode()


def write_llama(
    path: Path, form: str, arrays: Arrays, pieces: Sequence[tuple[str, float, int]], *, heads: int, kind: str = "F16",
    parts: int = 1, added: Sequence[str] = (),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write the file, or files, and tell which numbers are in it. `arrays`: by Meta's names; matrices as `kind`."""
    held: dict[str, list[np.ndarray]] = {}
    layers = 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("layers."))
    width = arrays["norm.weight"].shape[0]
    for part in range(parts):
        out = io.BytesIO()
        out.write(MAGICS[form])
        out.write(
            struct.pack("<7i", len(pieces) + len(added), width, 32, heads, layers, width // heads, FILE_TYPES[kind])
        )
        texts = [(printed(piece, sort), score) for piece, score, sort in pieces]
        texts += [(text.encode(), -1000.0 - at) for at, text in enumerate(added)]
        for text, score in texts:
            out.write(struct.pack("<I", len(text)) + text + (b"" if form == "ggml" else struct.pack("<f", score)))
        for name, array in arrays.items():
            if name == "rope.freqs":
                continue
            axis = 1 if name.startswith("tok_") or ".wo." in name or ".w2." in name else 0
            piece = np.split(array, parts, axis)[part] if array.ndim == 2 else array
            own = kind if array.ndim == 2 else "F32"
            data, numbers = rows(piece, own, layout(form))
            held.setdefault(name, []).append(numbers)
            out.write(struct.pack("<3i", piece.ndim, len(name), KINDS[own]))
            out.write(struct.pack(f"<{piece.ndim}i", *reversed(piece.shape)) + name.encode())
            if form.startswith("ggjt"):
                out.write(bytes(-out.tell() % 32))
            out.write(data)
        place = path if not part else path.with_name(f"{path.name}.{part}")
        place.write_bytes(out.getvalue())
    joined = {}
    for name, found in held.items():
        axis = 1 if name.startswith("tok_") or ".wo." in name or ".w2." in name else 0
        joined[name] = np.concatenate(found, axis) if found[0].ndim == 2 else found[0]
    return joined
