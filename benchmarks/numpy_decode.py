"""How fast the numpy backend decodes, reads prompts and loads, on one thread, beside a peer in the same run.

The peer does a model's matrix products and nothing else (no attention, no norms, no sampling): in PyTorch where it is
installed, else in NumPy one row at a time, as straightforward code would. Both take turns; each figure is the
median of several rounds, since other programs may be running.

    python benchmarks/numpy_decode.py [MODEL.gguf] [--rounds 7]
"""

# ruff: noqa: E402  BLAS reads how many threads to use when NumPy is imported
from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
from chatbridge_numpy.model import load_model
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from chatbridge import LocalModel, Row, Sampling

DIM, LAYERS, HEADS, HIDDEN, VOCABULARY, CONTEXT = 256, 4, 8, 768, 3072, 1024
PROMPT, DECODED = 96, 48
"""Tokens that each conversation begins with, and that a round decodes for each."""

Round = Callable[[], float]
"""Does some work and returns how many tokens that was."""


def write_random_model(path: Path) -> Path:
    """The size of the bundled guide, in q8_0, of weights that say nothing."""
    rng = np.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"piece{i}" for i in range(VOCABULARY - len(pieces))]
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (VOCABULARY - 259)])

    def add(name: str, *shape: int) -> None:
        weights = (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
        kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", quantize(weights, kind), raw_dtype=kind)

    add("token_embd", VOCABULARY, DIM)
    for name in ["output_norm", *(f"blk.{i}.{part}_norm" for i in range(LAYERS) for part in ("attn", "ffn"))]:
        writer.add_tensor(f"{name}.weight", np.ones(DIM, np.float32))
    for i in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{part}", DIM, DIM)
        add(f"blk.{i}.ffn_gate", HIDDEN, DIM)
        add(f"blk.{i}.ffn_up", HIDDEN, DIM)
        add(f"blk.{i}.ffn_down", DIM, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def decoding(model: LocalModel, batch: int) -> Round:
    """Samples the next tokens of `batch` conversations, as the engine does."""
    rng = np.random.default_rng(batch)
    prompts = rng.integers(0, model.info.vocab_size, (batch, PROMPT)).tolist()
    states = [model.new_state() for _ in prompts]
    for state, prompt in zip(states, prompts, strict=True):
        model.step([Row(state, prompt, None)])

    def run() -> float:
        samplers = [model.new_sampler(Sampling(seed=1), prompt, 0) for prompt in prompts]
        pending = [[1] for _ in prompts]
        for state in states:
            state.trim(PROMPT)
        for _ in range(DECODED):
            rows = [Row(*row) for row in zip(states, pending, samplers, strict=True)]
            pending = model.step(rows)
        return batch * DECODED

    return run


def prefill(model: LocalModel, count: int) -> Round:
    """Reads a prompt of `count` tokens."""
    prompt = np.random.default_rng(1).integers(0, model.info.vocab_size, count).tolist()

    def run() -> float:
        state = model.new_state()
        model.step([Row(state, prompt, None)])
        state.release()
        return count

    return run


class Products:
    """The matrix products of `model` and nothing else: what even an engine without overhead has to do."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        rng = np.random.default_rng(3)
        self._arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        self._torch = _torch()
        self.name = "NumPy, row by row"
        if self._torch is not None:
            self._torch.set_num_threads(1)
            self.name = f"torch {self._torch.__version__} products"
            self._weights = [self._torch.from_numpy(array) for array in self._arrays]

    def round(self, batch: int, repeats: int, *, output: bool = True) -> Round:
        """`batch` rows through every matrix, `repeats` times; without the last one, `output`, for prompts."""
        last = None if output else -1

        def with_torch() -> float:
            inputs = {w.shape[1]: self._torch.ones(batch, w.shape[1]) for w in self._weights}
            with self._torch.inference_mode():
                for _ in range(repeats):
                    for weight in self._weights[:last]:
                        self._torch.nn.functional.linear(inputs[weight.shape[1]], weight)
            return batch * repeats

        def with_numpy() -> float:
            inputs = {a.shape[1]: np.ones(a.shape[1], np.float32) for a in self._arrays}
            for _ in range(repeats * batch):
                for array in self._arrays[:last]:
                    array @ inputs[array.shape[1]]
            return batch * repeats

        return with_numpy if self._torch is None else with_torch


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def compared(
    ours: Round, theirs: Round, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Tokens a second of both: the median of `rounds`, taken in turns."""

    def rate(run: Round) -> float:
        start = clock()
        done = run()
        return done / (clock() - start)

    rate(ours), rate(theirs)  # to warm up
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def shapes_of(path: Path) -> list[tuple[int, ...]]:
    """The matrices that each token is multiplied with; the output's is the last."""
    from chatbridge_numpy.gguf_file import GgufFile

    tensors = GgufFile(path).tensors
    layers = [t.shape for t in tensors.values() if len(t.shape) == 2 and t.name.startswith("blk.")]
    return [*layers, tensors["token_embd.weight"].shape]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=Path, help="a LLaMA-architecture GGUF file")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = asked.path or write_random_model(Path(folder) / "random.gguf")
        start = time.perf_counter()
        model = load_model(path)
        loading = time.perf_counter() - start
        if model.info.context_length < PROMPT + DECODED:
            parser.error(f"{path}: its context is shorter than the {PROMPT + DECODED} tokens that are measured")
        peer = Products(shapes_of(path))
        details = model.info.details
        print(f"{model.info.name}: {details['parameters']} parameters, {details['quantisation']}, one thread")
        print(f"loaded in {loading:.2f} s; {sys.implementation.name} {sys.version.split()[0]}, {details['blas']}\n")
        print(f"{'tokens a second':<18}{'numpy backend':>15}{peer.name:>28}{'ratio':>8}")
        for batch in (1, 4, 16):
            report(
                f"decode, batch {batch}", *compared(decoding(model, batch), peer.round(batch, DECODED), asked.rounds)
            )
        count = min(512, model.info.context_length)
        report(f"prefill, {count}", *compared(prefill(model, count), peer.round(count, 1, output=False), asked.rounds))


def report(what: str, ours: float, theirs: float) -> None:
    print(f"{what:<18}{ours:>15,.0f}{theirs:>28,.0f}{ours / theirs:>8.0%}")


if __name__ == "__main__":
    main()
