"""What making a GGUF file of Meta's form takes beside copying it, how much memory, and what a killed run costs.

Makes a checkpoint as wide as LLaMA-7B of random numbers, with as many layers as fill the size asked for (13 GB is a
7B), and deletes it in the end; four times the size is needed on the disk. Each run is a process of its own, whose peak
of memory and processor time are told beside the time on the clock. The last run is killed half-way (`kill -9`) and gone
on with; both files must be the same, byte by byte. Where llama-cpp-python is installed, q4_0 is made of the file.
POSIX only.

    python benchmarks/convert.py [--gigabytes 1] [--folder DISK] [--type f16] [--width 4096]
"""

# ruff: noqa: E402  this file is called as a part of the library is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import numpy as np

from chatbridge import NewTensor, TorchFile, write_tensors
from chatbridge.testing import fixtures

VOCABULARY, HEAD = 32000, 128
BLOCK = 32 << 20
"""Bytes of random numbers that are written over and over: nothing here looks at what is in them."""

_QUANTIZE = """
import ctypes, sys, llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(parameters)))
"""


_MEASURE = """
import json, os, resource, subprocess, sys, time
partial, after, *command = sys.argv[1:]
size = lambda: os.path.getsize(partial) if os.path.exists(partial) else 0
started = time.perf_counter()
process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
while partial and process.poll() is None and size() < int(after):
    time.sleep(0.02)
if partial:
    process.kill()
if process.wait() and not partial:
    sys.exit(1)
if not partial:
    os.sync()
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, size()]))
"""
"""A small program between, since the peak of a process is at least that of the one that started it."""


@dataclass(frozen=True)
class Taken:
    """What a process took: seconds on the clock, of processors (user and system), and its peak in bytes."""

    wall: float
    processor: float
    peak: int

    def line(self, what: str, nbytes: int) -> str:
        speed = f", {nbytes / 1e6 / self.wall:,.0f} MB/s" if self.wall else ""
        return f"{what:<34} {self.wall:7.1f} s, {self.processor:7.1f} s of processors, {self.peak >> 20:6,} MiB{speed}"


def main(gigabytes: float, folder: Path, target: str, width: int) -> None:
    source, size = make(folder / "llama", gigabytes, width)
    print(f"a checkpoint of {size / 1e9:.2f} GB, whose largest tensor has {2 * VOCABULARY * width >> 20:,} MiB")
    copied = folder / "copy.pth"
    print(run("cp", str(source / "consolidated.00.pth"), str(copied)).line("cp", size))
    copied.unlink()
    made = folder / "whole.gguf"
    print(run(*convert(source, made, target)).line(f"to {target}", size))
    if find_spec("llama_cpp"):
        packed = folder / "packed.gguf"
        taken = run(sys.executable, "-c", _QUANTIZE, str(made), str(packed))
        print(taken.line(f"{target} to q4_0, by llama.cpp", made.stat().st_size))
        packed.unlink()
    again = folder / "again.gguf"
    taken, written = killed(convert(source, again, target), again, made.stat().st_size // 2)
    print(taken.line(f"killed after {written / 1e9:.2f} GB", written))
    assert not again.exists()
    print(run(*convert(source, again, target)).line("and gone on with", made.stat().st_size - written))
    assert filecmp.cmp(made, again, shallow=False), "the file is another one after a killed run"
    print("both files are the same, byte by byte")


def make(folder: Path, gigabytes: float, width: int) -> tuple[Path, int]:
    """A checkpoint in Meta's form of about that size, and its bytes."""
    folder.mkdir()
    inner = (8 * width // 3 + 255) // 256 * 256
    block = (np.random.default_rng(1).standard_normal(BLOCK // 2) / 50).astype(np.float16).data.cast("B")

    def numbers(nbytes: int) -> Iterator[memoryview]:
        for start in range(0, nbytes, BLOCK):
            yield block[: min(BLOCK, nbytes - start)]

    def tensor(name: str, *shape: int) -> NewTensor:
        nbytes = 2 * int(np.prod(shape))
        return NewTensor(f"{name}.weight", shape, "float16", nbytes, lambda: numbers(nbytes))

    def layer(number: int) -> list[NewTensor]:
        before = f"layers.{number}"
        return [
            *(tensor(f"{before}.attention.{name}", width, width) for name in ("wq", "wk", "wv", "wo")),
            *(tensor(f"{before}.feed_forward.{name}", inner, width) for name in ("w1", "w3")),
            tensor(f"{before}.feed_forward.w2", width, inner),
            *(tensor(f"{before}.{name}", width) for name in ("attention_norm", "ffn_norm")),
        ]

    ends = [tensor("tok_embeddings", VOCABULARY, width), tensor("norm", width), tensor("output", VOCABULARY, width)]
    room = gigabytes * 1e9 - sum(one.nbytes for one in ends)
    count = max(1, round(room / sum(one.nbytes for one in layer(0))))
    tensors = [*ends, *(one for number in range(count) for one in layer(number))]
    write_tensors(folder / "consolidated.00.pth", TorchFile(tensors), tensors, "benchmark")
    params = {"dim": width, "n_layers": count, "n_heads": width // HEAD, "norm_eps": 1e-6, "multiple_of": 256}
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    shutil.copyfile(fixtures() / "llama" / "tokenizer.model", folder / "tokenizer.model")
    return folder, sum(one.nbytes for one in tensors)


def convert(source: Path, output: Path, target: str) -> list[str]:
    return [sys.executable, "-m", "chatbridge", "model", "convert", str(source), "-o", str(output), "-t", target]


def run(*command: str) -> Taken:
    """One process to its end, and what it wrote on the disk."""
    return _measured("", 0, command)[0]


def killed(command: list[str], output: Path, after: int) -> tuple[Taken, int]:
    """One that is killed as soon as it has written so many bytes, and how many these were."""
    return _measured(f"{output}.partial", after, command)


def _measured(partial: str, after: int, command: Sequence[str]) -> tuple[Taken, int]:
    said = subprocess.run(
        [sys.executable, "-c", _MEASURE, partial, str(after), *command], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr[-2000:]
    wall, processor, peak, written = json.loads(said.stdout.splitlines()[-1])
    return Taken(wall, processor, peak * (1 if sys.platform == "darwin" else 1024)), written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="how large a checkpoint to make; 13 is a 7B")
    parser.add_argument("--folder", type=Path, default=None, help="where to make it; a temporary one unless given")
    parser.add_argument("--type", default="f16", choices=("f32", "f16", "bf16", "q8_0"))
    parser.add_argument("--width", type=int, default=4096, help="of the model; 4096 is a 7B's")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="chatbridge-convert-") as made_in:
        main(asked.gigabytes, Path(made_in), asked.type, asked.width)
