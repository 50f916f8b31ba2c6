"""The numpy backend beside llama.cpp on the same weights, on one thread, in the same run.

The file is written once more as f32, which both read; of a quantised file llama.cpp rounds what it multiplies as well.
Without a file it is the bundled guide. Both take turns and are counted in processor time, since other programs may be
running; figures are medians. Greedy answers to the same ids are compared to the first that differs.

    python benchmarks/numpy_llama_cpp.py [MODEL.gguf ...] [--rounds 5]
"""

# ruff: noqa: E402  this file is called as the library is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from numpy_decode import DECODED, PROMPT, compared, decoding, prefill, report

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import numpy as np
from chatbridge_llama_cpp.backend import load as load_llama_cpp
from chatbridge_llama_cpp.options import LlamaOptions
from chatbridge_numpy.model import load_model
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

import chatbridge
from chatbridge import LocalModel, Row, Sampling

GUIDE = Path(chatbridge.__file__).parent / "bundled" / "guide.gguf"
ROOMS = (1, 4, 8)


def write_f32(source: Path, target: Path) -> Path:
    """The same file with all weights as f32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            items = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=items)
    for tensor in reader.tensors:
        shape = tuple(reversed(tensor.shape.tolist()))
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        writer.add_tensor(tensor.name, values.astype(np.float32), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def greedy(model: LocalModel, prompt: list[int]) -> list[int]:
    """An answer's ids; the likeliest each time."""
    state, sampler = model.new_state(), model.new_sampler(Sampling(temperature=0), prompt, 0)
    found: list[int] = []
    pending = prompt
    while len(found) < DECODED:
        pending = [*model.step([Row(state, pending, sampler)])[0]]
        found += pending
    state.release()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[GUIDE], help="LLaMA-architecture GGUF files")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in asked.paths:
            beside(write_f32(path, Path(folder) / f"{path.stem}-f32.gguf"), asked.rounds)


def beside(path: Path, rounds: int) -> None:
    """The table of one file."""
    here: Any = load_model(path)
    options = {"path": path, "threads": 1, "sequences": max(ROOMS) + 1, "context_length": 512}
    there = load_llama_cpp(LlamaOptions.model_validate(options), lambda share, doing: None)
    print(f"\n{here.info.name}: {here.info.details['parameters']} parameters as f32, one thread")
    print(f"{'tokens a second':<18}{'numpy backend':>15}{'llama.cpp':>28}{'ratio':>8}")
    for batch in ROOMS:
        pair = compared(decoding(here, batch), decoding(there, batch), rounds, time.process_time)
        report(f"decode, batch {batch}", *pair)
    report("prefill, 256", *compared(prefill(here, 256), prefill(there, 256), rounds, time.process_time))
    prompts = np.random.default_rng(5).integers(300, here.info.vocab_size, (8, PROMPT)).tolist()
    same = sum(greedy(here, prompt) == greedy(there, prompt) for prompt in prompts)
    print(f"greedy answers of {DECODED} tokens with the same ids: {same} of {len(prompts)}", flush=True)
    there.close()


if __name__ == "__main__":
    main()
