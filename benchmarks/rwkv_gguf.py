"""RWKV-7 of the same weights, as `.pth` in the rwkv backend and as GGUF in llama.cpp's, on one thread, in one run.

The file of `rwkv.py` is written once more under llama.cpp's names, as f32, whose greedy answers must be the same ids,
and as q8_0. Rounds take turns and are counted in processor time, since other programs may be running; figures are
medians.

    python benchmarks/rwkv_gguf.py [--rounds 5]
"""

# ruff: noqa: E402  this file is called as the library is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
from rwkv_model import HEAD, LAYERS, VOCABULARY, WIDTH, opened, paired, write_model

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch
from chatbridge_llama_cpp.backend import load
from chatbridge_llama_cpp.options import LlamaOptions

from chatbridge import LocalModel, Request, Row, Sampling, Tokens
from chatbridge.engine.engine import Engine
from chatbridge.testing import write_gguf

TOGETHER, READ, ANSWER = 8, 256, 48
GREEDY = Sampling(temperature=0, max_tokens=ANSWER, logit_bias={0: -100.0})
KINDS = ("f32", "q8_0")
"""Of the GGUF; the `.pth` is run as `cpu fp32`, since the package has no weights of 8 bits for RWKV-7."""

_NORMS = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln"}
_MATRICES = {
    **{f"att.{name}": f"time_mix_{name}" for name in ("receptance", "key", "value", "output")},
    **{f"ffn.{name}": f"channel_mix_{name}" for name in ("key", "value")},
}
_RANKS = (("decay", "w"), ("iclr", "a"), ("value_residual_mix", "v"), ("gate", "g"))


def arrays_of(path: Path) -> dict[str, Any]:
    """The weights under llama.cpp's names, as its `convert_hf_to_gguf.py` lays them out; f32."""
    tensors = {name: tensor.float().numpy() for name, tensor in torch.load(path, weights_only=True).items()}
    found = {"token_embd.weight": tensors["emb.weight"], "output.weight": tensors["head.weight"]}

    def norm(source: str, target: str) -> None:
        found.update({f"{target}.{kind}": tensors[f"{source}.{kind}"] for kind in ("weight", "bias")})

    norm("blocks.0.ln0", "token_embd_norm")
    norm("ln_out", "output_norm")
    for number in range(LAYERS):
        source, target = f"blocks.{number}", f"blk.{number}"
        for ours, theirs in _NORMS.items():
            norm(f"{source}.{ours}", f"{target}.{theirs}")
        for ours, theirs in _MATRICES.items():
            found[f"{target}.{theirs}.weight"] = tensors[f"{source}.{ours}.weight"]
        for letter in "wavg":
            for half in (1, 2):
                found[f"{target}.time_mix_{letter}{half}.weight"] = tensors[f"{source}.att.{letter}{half}"].T
        for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k"):
            found[f"{target}.time_mix_{name}.weight"] = tensors[f"{source}.att.{name}"].reshape(-1)
        mixed = [tensors[f"{source}.att.x_{letter}"].reshape(-1) for letter in "rwkvag"]
        found[f"{target}.time_mix_lerp_fused.weight"] = np.stack(mixed).reshape(6, 1, 1, WIDTH)
        found[f"{target}.channel_mix_lerp_k.weight"] = tensors[f"{source}.ffn.x_k"].reshape(-1)
    return found


def metadata_of(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp wants to know of the model, with a vocabulary of its size."""
    ranks = {f"attention.{name}_lora_rank": len(arrays[f"blk.0.time_mix_{letter}1.weight"]) for name, letter in _RANKS}
    sizes = {
        "context_length": 1 << 20, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": 4 * WIDTH,
        "attention.head_count": 0, "attention.layer_norm_epsilon": 1e-5, "wkv.head_size": HEAD, **ranks,
    }  # fmt: skip
    single = [repr(bytes([byte]))[2:-1] for byte in range(256)]
    return {f"rwkv7.{name}": value for name, value in sizes.items()} | {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": ["<s>", *single, *(f"piece{number}" for number in range(257, VOCABULARY))],
        "tokenizer.ggml.token_type": [3, *[1] * (VOCABULARY - 1)],
    }


def in_llama_cpp(path: Path) -> LocalModel:
    """The file in llama.cpp, with room for as many conversations as are measured."""
    asked = {"path": path, "threads": 1, "context_length": 4096, "sequences": TOGETHER, "batch": READ}
    return load(LlamaOptions.model_validate(asked), lambda share, doing: None)


def answers(model: LocalModel, count: int) -> tuple[float, list[tuple[int, ...]]]:
    """Tokens a second of so many conversations at once, the prompts included; and the ids."""
    engine = Engine(model, cache_bytes=0)
    for number in range(count):
        prompt = (Tokens(tuple(range(100 + number, 108 + number))),)
        engine.submit(Request(prompt, id=str(number), sampling=GREEDY))
    begin, found = time.process_time(), dict[str, tuple[int, ...]]()
    while not engine.idle:
        for event in engine.step():
            assert event.error is None, event.error
            if event.chunk is not None and event.chunk.finish is not None:
                found[event.request_id] = event.chunk.finish.reply.tokens
    seconds = time.process_time() - begin
    return sum(map(len, found.values())) / seconds, [found[str(number)] for number in range(count)]


def reading(model: LocalModel) -> float:
    """Tokens a second of reading a prompt."""
    ids = np.random.default_rng(1).integers(1000, 60000, READ).tolist()
    state = model.new_state()
    begin = time.process_time()
    model.step([Row(state, ids, None)])
    seconds = time.process_time() - begin
    state.release()
    return READ / seconds


def report(kind: str, ours: LocalModel, theirs: LocalModel, rounds: int) -> None:
    """A table of one kind of weights."""
    print(f"\n{f'cpu fp32 here, {kind} in llama.cpp':<48}{'rwkv':>9}{'llama.cpp':>11}{'share':>8}")
    works: dict[str, Callable[[LocalModel], float]] = {
        "one conversation": lambda model: answers(model, 1)[0],
        f"{TOGETHER} conversations together": lambda model: answers(model, TOGETHER)[0],
        f"reading {READ} tokens": reading,
    }
    for what, work in works.items():
        here, there = paired(rounds, lambda w=work: w(ours), lambda w=work: w(theirs))  # type: ignore[misc]
        print(f"  {what:<46}{here:>9.1f}{there:>11.1f}{here / there:>8.2f}   tokens/s")
    if kind != "f32":
        return
    same = sum(a == b for a, b in zip(answers(ours, TOGETHER)[1], answers(theirs, TOGETHER)[1], strict=True))
    print(f"  greedy answers of {ANSWER} tokens that are the same ids: {same} of {TOGETHER}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_model(folder / "rwkv-7.pth", 7)
        arrays = arrays_of(path)
        ours = opened(path)
        for kind in KINDS:
            theirs = in_llama_cpp(
                write_gguf(folder / f"{kind}.gguf", metadata_of(arrays), arrays, kind.upper(), architecture="rwkv7")
            )
            report(kind, ours, theirs, options.rounds)
            theirs.close()
        ours.close()


if __name__ == "__main__":
    main()
