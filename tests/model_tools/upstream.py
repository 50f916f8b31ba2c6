"""Records what llama.cpp's own convert_hf_to_gguf.py makes of the samples: keys, and types and hashes of tensors.

    python -m tests.model_tools.upstream FOLDER_OF_LLAMA_CPP

Needs what that program needs (torch, transformers, sentencepiece). It knows a byte-level tokenizer by the ids of a
text, which are others with a small vocabulary; the name is handed to it. Long lists are kept as hashes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf

from .samples import PRE, SAMPLES

RECORDS = Path(__file__).parent / "records"
LONG = 40
"""Entries of a list that is kept whole."""

_RUN = """
import sys, runpy
sys.path.insert(0, sys.argv[1])
from conversion.base import TextModel
if pre := sys.argv[2]:
    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[3:]]
runpy.run_path(sys.path[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def shortened(value: Any) -> Any:
    """A value as it is kept: long lists as how many there are, and a hash."""
    if isinstance(value, list) and len(value) > LONG:
        return {"count": len(value), "sha256": hashlib.sha256(json.dumps(value).encode()).hexdigest()}
    return value


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys with their values, and tensors with their types, shapes and hashes; rows of few numbers with these."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {
        tensor.name: [tensor.tensor_type.name, tensor.shape.tolist()[::-1],
                      hashlib.sha256(tensor.data.tobytes()).hexdigest() if tensor.n_elements > LONG
                      else tensor.data.tolist()]
        for tensor in reader.tensors
    }  # fmt: skip
    return keys, tensors


def main(upstream: str) -> None:
    for name, make in SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "made.gguf"
            source = make(Path(folder) / "source")
            arguments = [str(source), "--outtype", "f16", "--outfile", str(made)]
            subprocess.run([sys.executable, "-c", _RUN, upstream, PRE.get(name, ""), *arguments], check=True)
            keys, tensors = contents(made)
        written = {"keys": {key: shortened(value) for key, value in keys.items()}, "tensors": tensors}
        (RECORDS / f"{name}.json").write_text(
            json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main(sys.argv[1])
