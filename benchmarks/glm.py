"""What a full-size ChatGLM-6B of random weights takes and how fast it answers, on one thread, beside chatglm-cpp.

Makes the INT4 or INT8 form on the spot (28 layers, 4,096 wide, vocabulary 130,528; 4 or 7 GB of disk), loads it in a
process of its own and tells that process's peak. With `--peer`, `chatglm-cpp` with q4_0 weights of the same shape is
measured in the same run (its source wants `CMAKE_POLICY_VERSION_MINIMUM=3.5` around `pip install chatglm-cpp`). Times
are medians. With `--shards`, it is GLM-130B's form with layers of full size (12,288 wide, vocabulary 150,528), of which
3 take 7 GB of disk.

    python benchmarks/glm.py --vocabulary ice_text.model [--bits 4] [--dtype fp32 bf16] [--layers 28] [--peer]
    python benchmarks/glm.py --vocabulary ice_text.model --shards 8 --layers 3
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

HIDDEN, INNER, VOCABULARY, HEADS = 4096, 16384, 130528, 32
PROMPT, DECODED = 32, 16


def write_model(folder: Path, vocabulary: Path, bits: int, layers: int) -> Path:
    """Random packed weights in the published form, a shard for every four layers."""
    import torch

    ids = {"bos_token_id": 130004, "eos_token_id": 130005, "mask_token_id": 130000, "gmask_token_id": 130001}
    config = {
        "model_type": "chatglm", "num_layers": layers, "hidden_size": HIDDEN, "inner_hidden_size": INNER,
        "num_attention_heads": HEADS, "vocab_size": VOCABULARY, "max_sequence_length": 2048, "pad_token_id": 3,
        "layernorm_epsilon": 1e-5, "position_encoding_2d": True, "quantization_bit": bits, **ids,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ice_text.model").write_bytes(vocabulary.read_bytes())
    shapes = {"attention.query_key_value": (3 * HIDDEN, HIDDEN), "attention.dense": (HIDDEN, HIDDEN),
              "mlp.dense_h_to_4h": (INNER, HIDDEN), "mlp.dense_4h_to_h": (HIDDEN, INNER)}  # fmt: skip
    index: dict[str, str] = {}

    def save(number: int, tensors: dict[str, Any]) -> None:
        name = f"pytorch_model-{number:05}.bin"
        torch.save(tensors, folder / name)
        index.update(dict.fromkeys(tensors, name))

    def norm(name: str) -> dict[str, Any]:
        return {f"{name}.weight": torch.ones(HIDDEN).half(), f"{name}.bias": torch.zeros(HIDDEN).half()}

    for start in range(0, layers, 4):
        tensors: dict[str, Any] = {}
        for layer in range(start, min(layers, start + 4)):
            base = f"transformer.layers.{layer}"
            tensors |= norm(f"{base}.input_layernorm") | norm(f"{base}.post_attention_layernorm")
            for name, (rows, width) in shapes.items():
                packed = torch.randint(-128, 128, (rows, width * bits // 8), dtype=torch.int8)
                tensors[f"{base}.{name}.weight"] = packed
                tensors[f"{base}.{name}.weight_scale"] = torch.full((rows,), 0.02 / 2 ** (bits - 3)).half()
                tensors[f"{base}.{name}.bias"] = torch.zeros(rows).half()
        save(start, tensors)
    embedding = {"transformer.word_embeddings.weight": torch.randn(VOCABULARY, HIDDEN).half()}
    save(layers, {**embedding, **norm("transformer.final_layernorm")})
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def write_shards(folder: Path, vocabulary: Path, bits: int, layers: int, shards: int) -> Path:
    """Random packed weights in GLM-130B's form."""
    import torch

    hidden, inner, rows = 12288, 32768, 150528
    (folder / "ice_text.model").write_bytes(vocabulary.read_bytes())
    shapes = {
        "attention.query_key_value": (3 * hidden // shards, hidden), "attention.dense": (hidden, hidden // shards),
        "mlp.dense_h_to_4h": (2 * inner // shards, hidden), "mlp.dense_4h_to_h": (hidden, inner // shards),
    }  # fmt: skip
    for rank in range(shards):
        tensors: dict[str, Any] = {"transformer.word_embeddings.weight": torch.randn(rows // shards, hidden).half()}
        norms = [f"layers.{layer}.{name}_layernorm" for layer in range(layers) for name in ("input", "post_attention")]
        for name in (*norms, "final_layernorm"):
            tensors |= {f"transformer.{name}.weight": torch.ones(hidden).half()}
            tensors |= {f"transformer.{name}.bias": torch.zeros(hidden).half()}
        for layer in range(layers):
            for name, (out, width) in shapes.items():
                key = f"transformer.layers.{layer}.{name}"
                tensors[f"{key}.weight"] = torch.randint(-128, 128, (out, width * bits // 8), dtype=torch.int8)
                tensors[f"{key}.weight_scale"] = torch.full((out,), 0.01 / 2 ** (bits - 3)).half()
                tensors[f"{key}.bias"] = torch.zeros(out).half()
        torch.save({"module": tensors}, folder / f"mp_rank_{rank:02}_model_states.pt")
    return folder


def write_peer(path: Path, vocabulary: Path, layers: int) -> Path:
    """Random q4_0 weights of the same shape in the form of chatglm-cpp: its head and its embedding are q4_0, too."""
    import numpy as np

    f32, q4_0, aligned = 0, 2, 16
    draw = np.random.default_rng(1)
    block = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
    shapes = {"attention.query_key_value": (3 * HIDDEN, HIDDEN), "attention.dense": (HIDDEN, HIDDEN),
              "mlp.dense_h_to_4h": (INNER, HIDDEN), "mlp.dense_4h_to_h": (HIDDEN, INNER)}  # fmt: skip
    with path.open("wb") as file:

        def add(name: str, shape: tuple[int, ...], kind: int, data: bytes) -> None:
            file.write(struct.pack("<i", len(name)) + name.encode())
            file.write(struct.pack(f"<{2 + len(shape)}i", len(shape), *shape, kind))
            file.write(bytes(-file.tell() % aligned) + data)

        def matrix(name: str, rows: int, width: int) -> None:
            blocks = np.empty(rows * width // 32, block)
            blocks["d"], blocks["qs"] = 0.01, draw.integers(0, 256, (len(blocks), 16), "u1")
            add(f"{name}.weight", (rows, width), q4_0, blocks.tobytes())

        def vector(name: str, size: int, value: float) -> None:
            add(name, (size,), f32, np.full(size, value, "<f4").tobytes())

        def norm(name: str) -> None:
            vector(f"{name}.weight", HIDDEN, 1)
            vector(f"{name}.bias", HIDDEN, 0)

        sizes = (q4_0, VOCABULARY, HIDDEN, HEADS, HEADS, layers, INNER)
        config = struct.pack("<7ififiii", *sizes, 1e-5, 0, 10000.0, 2048, 130005, 3)
        proto = vocabulary.read_bytes()
        file.write(b"ggml" + struct.pack("<2i", 1, 2) + config + struct.pack("<i", len(proto)) + proto)
        matrix("transformer.word_embeddings", VOCABULARY, HIDDEN)
        for layer in range(layers):
            base = f"transformer.layers.{layer}"
            norm(f"{base}.input_layernorm")
            norm(f"{base}.post_attention_layernorm")
            for name, (rows, width) in shapes.items():
                matrix(f"{base}.{name}", rows, width)
                vector(f"{base}.{name}.bias", rows, 0)
        norm("transformer.final_layernorm")
    return path


def measure(folder: Path, dtype: str, rounds: int, pipe: Any) -> None:
    """Load and answer; what is told: GiB held and at the peak, seconds of loading, of reading, and of a token."""
    from chatbridge_glm.backend import load
    from chatbridge_glm.options import GlmOptions

    from chatbridge import Row

    bare = peak(reset=True)
    begun = time.perf_counter()
    options = GlmOptions.model_validate({"path": folder, "threads": 1, "dtype": dtype})
    model = load(options, lambda share, doing: print(f"\r{doing:60}", end="", flush=True))
    loaded = time.perf_counter() - begun
    loading = peak() - bare
    print(f"\rat most {loading:.2f} GiB for loading; {model.info.details['memory']}")
    state = model.new_state()
    mask, sop = model.tokenizer.special("[gMASK]"), model.info.bidirectional_until
    prompt = [*range(100, 100 + PROMPT - 2), mask, sop]
    begun = time.perf_counter()
    while not state.length:
        model.step([Row(state, prompt, None)])
    read = time.perf_counter() - begun
    tokens = [_timed(lambda: model.step([Row(state, [77], None)])) for _ in range(rounds)]
    pipe.send({"peak": peak(), "load": loaded, "read": read, "token": statistics.median(tokens)})


def peak(*, reset: bool = False) -> float:
    """GiB that this process had at most. `reset`: begin anew; a process inherits the figure of the one before it."""
    if not Path("/proc/self/clear_refs").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def peer(path: Path, rounds: int) -> float:
    """Seconds of a token by chatglm-cpp."""
    if hasattr(os, "sched_setaffinity"):  # it takes as many threads as it sees processors, and has no switch for it
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import chatglm_cpp

    pipeline = chatglm_cpp.Pipeline(str(path))
    asked = [chatglm_cpp.ChatMessage(role="user", content="你好，" * (PROMPT // 3))]
    found = []
    for _ in range(rounds):
        answer = pipeline.chat(asked, stream=True, max_new_tokens=DECODED, do_sample=False)
        first, begun = len(next(answer).token_ids), time.perf_counter()
        rest = sum(len(piece.token_ids) for piece in answer)
        assert first + rest == DECODED, "random weights end an answer rarely, but these do"
        found.append((time.perf_counter() - begun) / rest)
    return statistics.median(found)


def _timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=Path, required=True, help="ice_text.model of ChatGLM-6B")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--shards", type=int, default=0, help="GLM-130B's form, in so many shards")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", action="store_true", help="chatglm-cpp as well, q4_0 of the same shape")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = (Path(folder), given.vocabulary, given.bits, given.layers)
        model = write_shards(*sizes, given.shards) if given.shards else write_model(*sizes)
        for dtype in given.dtype:
            ours, theirs = get_context("spawn").Pipe()
            process = get_context("spawn").Process(target=measure, args=(model, dtype, given.rounds, theirs))
            process.start()
            found = ours.recv()
            process.join()
            print(
                f"\rint{given.bits} in {dtype}: peak {found['peak']:.2f} GiB, loaded in {found['load']:.0f} s, "
                f"{PROMPT / found['read']:.1f} tokens/s read, {1 / found['token']:.2f} tokens/s answered"
            )
        if given.peer:
            path = write_peer(Path(folder) / "peer.bin", given.vocabulary, given.layers)
            print(f"chatglm-cpp: {1 / peer(path, given.rounds):.2f} tokens/s answered")


if __name__ == "__main__":
    main()
