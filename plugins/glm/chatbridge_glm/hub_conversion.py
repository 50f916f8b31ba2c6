"""ChatGLM-6B in half precision into the forms that were published as chatglm-6b-int8, -int4 and -int4-qe.

One file of weights, and beside it everything that the folder needs. Knows names and files; leaves rows to
`new_tensors.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from chatbridge import (
    Conversion,
    ModelLoadError,
    NewTensor,
    TorchFile,
    Weights,
    check_space,
    hashed,
    output_folder,
    read_json_object,
    write_tensors,
)
from chatbridge_glm import checkpoint as checkpoints
from chatbridge_glm.checkpoint import EMBEDDING, HEAD, MATRICES, PREFIX, Checkpoint
from chatbridge_glm.companions import copy_companions
from chatbridge_glm.new_tensors import Part, copied, halved, packed

_FILE = "pytorch_model.bin"
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def check(work: Conversion, bits: int, *, embeddings: bool) -> None:
    """Raises ModelLoadError for what can't be converted, or has no room."""
    about = _read(work, bits)
    with Weights.of_files(file.path for file in about.files) as weights:
        check_space(work.output, sum(tensor.nbytes for tensor in _tensors(weights, bits, embeddings)))


def convert(work: Conversion, bits: int, *, embeddings: bool) -> None:
    """Write the folder. Raises ModelLoadError."""
    about = _read(work, bits)
    paths = [file.path for file in about.files]
    work.report.sources.extend(hashed(paths, work.progress))
    key = repr((bits, embeddings, [source.sha256 for source in work.report.sources]))
    with Weights.of_files(paths) as weights, output_folder(work.output, key) as folder:
        tensors = list(_tensors(weights, bits, embeddings))
        total = sum(tensor.nbytes for tensor in tensors)
        work.progress.begin(f"packing in {bits} bits", total)
        if (folder / _FILE).exists():  # by a run that was killed later
            work.progress.advance(total)
        else:
            write_tensors(folder / _FILE, TorchFile(tensors), tensors, key, work.progress)
        names = copy_companions(about.path, folder, tokenizer="ice_text.model")
        _write_config(about.path, folder, bits, embeddings=embeddings)
        scales = [tensor.name for tensor in tensors if tensor.name.endswith("_scale")]
        work.report.step("pack", bits=bits, matrices=len(scales), embeddings=embeddings, nbytes=total)
        work.report.step("copy", files=names, tokenizer="ice_text.model" in names)
        work.report.write(folder, ("torch", "numpy"))


def _read(work: Conversion, bits: int) -> Checkpoint:
    about = checkpoints.read(work.source.path)
    if about.bits or about.embedding_bits:
        have = about.bits or about.embedding_bits
        why = "it is that already" if have == bits else "what was lost in packing is not in it"
        raise ModelLoadError(
            f"{about.path}: its weights have {have} bits, and {bits} are asked for: {why}; take the model in half "
            "precision, chatglm-6b"
        )
    return about


def _tensors(weights: Weights, bits: int, embeddings: bool) -> Iterator[NewTensor]:
    tied = embeddings and f"{HEAD}.weight" not in weights
    names: Sequence[str] = [*weights, f"{HEAD}.weight"] if tied else [*weights]
    for name in names:
        part = Part.whole(weights[f"{EMBEDDING}.weight" if name not in weights else name])
        if _is_packed(name, embeddings=embeddings):
            yield from packed(name, part, bits, exact=embeddings)
        elif name.startswith(PREFIX) or part.dtype not in _FLOATS:
            yield copied(name, part)
        else:
            yield halved(name, part)


def _is_packed(name: str, *, embeddings: bool) -> bool:
    if name in (f"{EMBEDDING}.weight", f"{HEAD}.weight"):
        return embeddings
    return name.startswith("transformer.layers.") and name.removesuffix(".weight").endswith(MATRICES)


def _write_config(source: Path, folder: Path, bits: int, *, embeddings: bool) -> None:
    values = read_json_object(source / "config.json")
    values |= {"torch_dtype": "float16", "quantization_bit": bits, "quantization_embeddings": embeddings}
    written = json.dumps(values, indent=2) + "\n"
    (folder / "config.json").write_text(written, encoding="utf-8")
