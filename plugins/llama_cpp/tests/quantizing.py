"""What tests of quantising share: models whose rows fit k-quants, importance matrices, and a file of every type.

`python quantizing.py SOURCE OUTPUT IMATRIX TYPE…` makes a file of each type, in a process of its own since llama.cpp's
log is one for a whole process, and prints as JSON what was planned and made.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from chatbridge_llama_cpp import quantizer
from chatbridge_llama_cpp.ftypes import ftypes

from chatbridge import GgufHeader, ModelLoadError
from chatbridge.testing import Arrays, llama_metadata, random_llama, write_gguf

WIDE = {"layers": 1, "dim": 256, "hidden": 256, "heads": 4, "kv_heads": 2, "context": 256, "vocabulary": 480}
"""Every row has a multiple of 256 numbers."""

NARROW = WIDE | {"dim": 96, "hidden": 160, "heads": 3, "kv_heads": 3}
"""Every row has a multiple of 32 numbers, and none of 256."""

ODD = WIDE | {"dim": 80, "hidden": 80, "heads": 4, "kv_heads": 4}
"""No row has a multiple of 32 numbers."""


READABLE = {kind.name for kind in gguf.GGMLQuantizationType} - {"Q1_0"}
"""Types that the gguf package turns into numbers again."""


def write_model(path: Path, tokenizer: Mapping[str, Any], size: Mapping[str, Any] = WIDE, kind: str = "F16") -> Path:
    """A model of random weights, with an output of its own."""
    return write_gguf(path, llama_metadata(**size) | dict(tokenizer), random_llama(**size, tied=False), kind)


def importance(path: Path, seed: int = 3) -> Arrays:
    """How much each column of each matrix weighs, at random; nothing of both ends, as llama-imatrix leaves them out."""
    rng = np.random.default_rng(seed)
    tensors = GgufHeader(path, reader="a test").tensors
    matrices = {name: one for name, one in tensors.items() if name.startswith("blk.") and len(one.shape) > 1}
    return {name: rng.uniform(0.1, 4, one.shape[-1]).astype(np.float32) for name, one in matrices.items()}


def write_imatrix(path: Path, weights: Arrays, *, count: int = 7, leave_out: str = "") -> Path:
    """As llama-imatrix writes it: sums over `count` tokens."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_string("general.type", "imatrix")
    for key, add, value in (
        ("imatrix.datasets", writer.add_array, ["text.txt"]),
        ("imatrix.chunk_count", writer.add_uint32, 5),
        ("imatrix.chunk_size", writer.add_uint32, 512),
    ):
        if key != leave_out:
            add(key, value)
    for name, values in weights.items():
        writer.add_tensor(f"{name}.in_sum2", (values * count).astype(np.float32))
        writer.add_tensor(f"{name}.counts", np.array([count], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_old_imatrix(path: Path, weights: Arrays, *, calls: int = 7) -> Path:
    """As llama-imatrix wrote it before 2025."""
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(weights)))
        for name, values in weights.items():
            sums = (values * calls).astype("<f4")
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, sums.size))
            file.write(sums.tobytes())
        file.write(struct.pack("<ii", 5, len("text.txt")) + b"text.txt")
    return path


def job_for(source: Path, ftype: int, output: Path, imatrix: str) -> dict[str, Any]:
    """What `quantizer` is asked, with nothing special about it."""
    return {
        "sources": [str(source)], "ftype": ftype, "output": str(output), "threads": 1, "imatrix": imatrix,
        "leave_output": False, "pure": False, "requantize": False, "alignment": 32,
    }  # fmt: skip


def main(source: Path, output: Path, imatrix: str, *types: str) -> None:
    tokens = GgufHeader(source, reader="a test").tensors
    floats = {
        name: np.memmap(source, np.float16, "r", one.start, one.shape).astype(np.float32)
        for name, one in tokens.items()
        if one.kind == "F16"
    }
    for name in types:
        job = job_for(source, ftypes()[name], output, imatrix)
        try:
            planned = quantizer.plan(job, lambda facts: None)
            quantizer.quantize({**job, "size": planned["size"]}, lambda facts: None)
        except ModelLoadError as error:
            print(json.dumps({"name": name, "error": str(error)}))
        else:
            made = GgufHeader(output, reader="a test")
            kinds = {tensor.name: tensor.kind for tensor in made.tensors.values()}
            told = {"name": name, "made": made.size, "kinds": kinds, "errors": errors(output, made, floats)}
            print(json.dumps({**told, **planned}))


def errors(path: Path, made: GgufHeader, floats: Arrays) -> dict[str, float]:
    """By type, the greatest share of a tensor that was lost: root mean square of the error by that of the tensor."""
    found: dict[str, float] = {}
    for name, before in floats.items():
        tensor = made.tensors[name]
        if tensor.kind in READABLE:
            kind = gguf.GGMLQuantizationType[tensor.kind]
            raw = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.start)
            after = gguf.quants.dequantize(raw, kind).reshape(before.shape)
            lost = float(np.sqrt(np.square(after - before).mean() / np.square(before).mean()))
            found[tensor.kind] = max(lost, found.get(tensor.kind, 0.0))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
