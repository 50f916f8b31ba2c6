"""Published vocabularies in both backends that read GGUF files, a line each: how much of their ids is equal to whose.

`recorded`: texts with the ids that the original tokenizers gave, in llama_cpp and `in numpy`. `llama.cpp`: mixed texts
to which the backend gives the ids that llama.cpp gives by itself; they differ where a family's tokenizer normalises,
and for kinds of which llama.cpp's copy is not exact. `both`: mixed texts with equal ids in both backends. Microseconds
are those of a token, in llama_cpp and in numpy.

    CHATBRIDGE_VOCABULARIES=FOLDER python benchmarks/vocabularies.py [--texts 3000]
"""

# ruff: noqa: E402  this file is called as the library is, so its own folder must not be looked in first
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from chatbridge_numpy.tokenizer import GgufTokenizer, read_tokenizer

from chatbridge import GgufHeader, ModelLoadError, Tokenizer
from chatbridge.testing import mixed_texts, published_vocabularies
from chatbridge.testing.published import VARIABLE, recorded_ids


def opened(path: Path) -> Any:
    """llama.cpp's vocabulary of a file, without its dummy blank."""
    from chatbridge_llama_cpp.native import lib, log

    log()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    overrides = (lib.llama_model_kv_override * 2)()
    overrides[0].tag, overrides[0].key = 2, b"tokenizer.ggml.add_space_prefix"
    params.kv_overrides = overrides
    return lib.llama_model_load_from_file(os.fsencode(path), params)


def in_numpy(path: Path, header: GgufHeader) -> GgufTokenizer | None:
    """The tokenizer in numpy, None where it takes no such file."""
    try:
        return read_tokenizer(header.metadata, path)
    except ModelLoadError:
        return None


def right(tokenizer: Tokenizer | None, recorded: Sequence[tuple[str, list[int]]]) -> str:
    """How many of the recorded texts have their ids, of how many."""
    if tokenizer is None or not recorded:
        return "-"
    return f"{sum(tokenizer.encode(text, start=True) == ids for text, ids in recorded)}/{len(recorded)}"


def timed(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[list[list[int]], float]:
    """The ids of texts, and microseconds for each id."""
    begun = time.process_time()
    ids = [tokenizer.encode(text, start=False) for text in texts]
    return ids, 1e6 * (time.process_time() - begun) / max(1, sum(map(len, ids)))


def row(path: Path, texts: Sequence[str]) -> tuple[str, ...]:
    """One line of the table."""
    from chatbridge_llama_cpp.native import lib
    from chatbridge_llama_cpp.tokenizer import LlamaTokenizer
    from chatbridge_llama_cpp.vocabulary import Vocabulary

    header = GgufHeader(path, reader="this program")
    model = opened(path)
    native = lib.llama_model_get_vocab(model)
    ours, numpy, alone = LlamaTokenizer(native, header.metadata), in_numpy(path, header), Vocabulary(native)
    recorded = recorded_ids(path)
    ids, cost = timed(ours, texts)
    same = sum(one == alone.ids(text.encode()) for one, text in zip(ids, texts, strict=True))
    both, numpy_cost = "-", "-"
    if numpy is not None:
        others, spent = timed(numpy, texts)
        both, numpy_cost = f"{sum(map(list.__eq__, ids, others))}/{len(texts)}", f"{spent:.1f}"
    name, counts = path.stem.removeprefix("ggml-vocab-"), (right(ours, recorded), right(numpy, recorded))
    lib.llama_model_free(model)
    return name, *counts, f"{same}/{len(texts)}", both, f"{cost:.1f}", numpy_cost, ours.kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=3000, help="how many mixed texts")
    options = parser.parse_args()
    paths = published_vocabularies()
    if not paths:
        sys.exit(f"there is nothing to read: set {VARIABLE} to a folder of published vocabularies (*.gguf)")
    form = "{:22} {:>9} {:>9} {:>10} {:>10} {:>7} {:>7}  {}"
    print(form.format("", "recorded", "in numpy", "llama.cpp", "both", "µs", "numpy", "kind"))
    texts = list(mixed_texts(options.texts))
    for path in paths:
        print(form.format(*row(path, texts)), flush=True)


if __name__ == "__main__":
    main()
