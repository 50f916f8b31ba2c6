"""Loads a file over and over with some bytes of its header changed: `python fuzz.py FILE FOLDER COUNT`.

A process of its own, since a crash in native code ends the process. Prints how many loaded and how many were
refused in words; any other error ends it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from chatbridge_llama_cpp.backend import load
from chatbridge_llama_cpp.options import LlamaOptions

from chatbridge import ModelLoadError


def damaged(whole: bytes, seed: int) -> bytes:
    """The file with up to four bytes of its header changed; every other time near its beginning."""
    rng = random.Random(seed)
    copy = bytearray(whole)
    end = whole.index(b"output_norm.weight") + 64 if seed % 2 else 700
    for _ in range(rng.randrange(1, 5)):
        copy[rng.randrange(end)] = rng.choice([0, 1, 255, rng.randrange(256)])
    return bytes(copy)


def main(source: Path, folder: Path, count: int) -> None:
    whole, path = source.read_bytes(), folder / "damaged.gguf"
    loaded = refused = 0
    for seed in range(count):
        path.unlink(missing_ok=True)
        path.write_bytes(damaged(whole, seed))
        print(f"{seed}", file=sys.stderr, flush=True)
        try:
            model = load(LlamaOptions(path=str(path), threads=1), lambda share, doing: None)
        except ModelLoadError as error:
            refused += path.name in str(error)
        else:
            state = model.new_state()
            model.logits(state, [1, 2, 3])
            model.close()
            loaded += 1
    print(loaded, refused)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
