"""Compares a quantised file with its source on a text: perplexity, KL divergence, and how often both agree.

One model is loaded after the other; the logits of the first wait in a temporary file. Runs in a process of its own
(`job.py`), and draws nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from math import exp
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chatbridge import GgufHeader, ModelLoadError
from chatbridge_llama_cpp.job import Facts, Tell
from chatbridge_llama_cpp.options import LlamaOptions

if TYPE_CHECKING:
    from chatbridge_llama_cpp.model import LlamaModel

WINDOW = 512
"""Tokens that are read in one go, from an empty context each time; less where the model takes less."""

ROWS = 64
"""Tokens whose logits are computed in one call."""

MIN_TOKENS = 16
"""With fewer, no number says anything."""

OWN_TEXT = "comparison.txt"
_EDGES = np.arange(-6, 1.25, 0.5)
"""Powers of ten between the bars of the histogram; what lies outside is in the outermost."""

Logits = NDArray[np.float32]


def read_text(path: Path) -> str:
    """The text in a file. Raises ModelLoadError where it is none, or says nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelLoadError(f"{path}: this is no text in UTF-8; give a text file to compare on") from None
    except OSError as error:
        raise ModelLoadError(f"{path}: it can't be read: {error.strerror or error}; give a text file") from error
    if not text.strip():
        raise ModelLoadError(f"{path}: the file has no text; give one of some thousand characters")
    return text


def own_text() -> str:
    """A text of ours, in English and Chinese, for where none is given."""
    return (package_files(__package__) / OWN_TEXT).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Scores:
    """What each predicted token says, [tokens] each.

    `source`, `made`: minus the natural logarithm of the probability that the model gave to it. `divergence`: how far
    the whole distribution is from the source's, KL(source ‖ made), in nats. `agree`: whether both hold the same token
    for the likeliest.
    """

    source: NDArray[np.float64]
    made: NDArray[np.float64]
    divergence: NDArray[np.float64]
    agree: NDArray[np.bool_]


def score(source: Logits, made: Logits, targets: Sequence[int]) -> Scores:
    """Compare logits, [tokens, vocabulary], before the tokens `targets`."""
    first, second = _log_probabilities(source), _log_probabilities(made)
    rows = np.arange(len(targets))
    likely = np.exp(first)
    # What the source holds for impossible counts for nothing, though its logarithm is infinite.
    terms = likely * np.subtract(first, second, out=np.zeros_like(first), where=likely > 0)
    return Scores(
        -first[rows, targets],
        -second[rows, targets],
        np.maximum(terms.sum(-1), 0),
        first.argmax(-1) == second.argmax(-1),
    )


def summary(parts: Sequence[Scores]) -> Facts:
    """The numbers that the report tells."""
    source, made, divergence, agree = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("source", "made", "divergence", "agree")
    )
    bars, _ = np.histogram(np.log10(np.maximum(divergence, 1e-300)).clip(_EDGES[0], _EDGES[-1]), _EDGES)
    return {
        "tokens": len(source),
        "perplexity": {"source": _perplexity(source), "made": _perplexity(made)},
        "kl_divergence": {
            "mean": float(divergence.mean()),
            "median": float(np.median(divergence)),
            "p99": float(np.quantile(divergence, 0.99)),
            "max": float(divergence.max()),
        },
        "same_top_token": float(agree.mean()),
        "histogram": {"log10_edges": _EDGES.tolist(), "counts": bars.tolist()},
    }


def windows(ids: Sequence[int], bos: int | None, length: int) -> list[list[int]]:
    """The text in pieces of at most `length` tokens, each with the token that a prompt begins with."""
    start = [] if bos is None else [bos]
    room = length - len(start)
    pieces = [[*start, *ids[at : at + room]] for at in range(0, len(ids), room)]
    return [piece for piece in pieces if len(piece) > 1]


def compare(job: Facts, tell: Tell) -> Facts:
    """The numbers of `summary`, and what was read for them.

    `job`: source and made (files), text (a file, or None for ours), folder and bytes (where the logits of the first
    model wait, and how many at most), threads. Raises ModelLoadError.
    """
    text = own_text() if job["text"] is None else read_text(Path(job["text"]))
    trained = int(GgufHeader(Path(job["source"]), reader="llama.cpp").number("context_length"))
    length = min(WINDOW, trained or WINDOW)
    with tempfile.TemporaryFile(dir=job["folder"]) as waiting:
        with _Opened(job, "source", length) as model:
            ids = model.tokenizer.encode(text, start=True)
            read = _fitting(job, ids, model.info.vocab_size)
            pieces = windows(read, model.info.added_bos, length)
            total = sum(len(piece) - 1 for piece in pieces)
            nbytes = 4 * model.info.vocab_size * total
            tell({"begin": ["computing with the source", nbytes]})
            for logits, _ in _computed(model, pieces, tell):
                waiting.write(logits.tobytes())
        waiting.seek(0)
        with _Opened(job, "made", length) as model:
            tell({"begin": ["computing with what was made", nbytes]})
            parts = [
                score(_rows(waiting, logits.shape), logits, targets)
                for logits, targets in _computed(model, pieces, tell)
            ]
    return {
        "text": Path(job["text"]).name if job["text"] else "chatbridge's own",
        "window": length,
        "text_tokens": len(ids),
        "read_tokens": len(read),
        **summary(parts),
    }


class _Opened:
    """A model with its logits, for as long as a `with` lasts; alone in memory."""

    def __init__(self, job: Facts, which: str, length: int) -> None:
        self._options = LlamaOptions.model_validate(
            {
                "path": job[which],
                "context_length": length,
                "sequences": 1,
                "threads": job["threads"],
                # Nothing but the weights is to differ from exact arithmetic.
                "flash_attention": False,
                "kv_type_k": "f32",
                "kv_type_v": "f32",
            }
        )

    def __enter__(self) -> LlamaModel:
        from chatbridge_llama_cpp.backend import load

        self._model = load(self._options, lambda share, doing: None, outputs=ROWS)
        return self._model

    def __exit__(self, *_: object) -> None:
        self._model.close()


def _fitting(job: Facts, ids: Sequence[int], vocabulary: int) -> Sequence[int]:
    """As many tokens as there is room for. Raises ModelLoadError where these are too few, here or in the text."""
    free = shutil.disk_usage(job["folder"]).free
    room = min(job["bytes"], free) // (4 * vocabulary)
    if len(ids) < MIN_TOKENS:
        raise ModelLoadError(f"the text has {len(ids)} tokens; give one with {MIN_TOKENS} and more")
    if room < MIN_TOKENS:
        raise ModelLoadError(
            f"there is room for the logits of {room} tokens alone, {4 * vocabulary:,} bytes each, and a comparison "
            f"takes {MIN_TOKENS} and more; allow more (--check-gib), or make room in {job['folder']}"
        )
    return ids[:room]


def _computed(model: LlamaModel, pieces: Sequence[Sequence[int]], tell: Tell) -> Iterator[tuple[Logits, Sequence[int]]]:
    """Logits after some tokens, and the tokens that come next. Raises ModelLoadError where they are no numbers."""
    for piece in pieces:
        state = model.new_state()
        for at in range(0, len(piece) - 1, ROWS):
            tokens, targets = piece[at : at + ROWS][: len(piece) - 1 - at], piece[at + 1 : at + 1 + ROWS]
            logits = model.logits(state, tokens)
            if not (logits < np.inf).all():
                raise ModelLoadError(f"{model.info.details['file']}: the model computes what is no number")
            tell({"advance": logits.nbytes})
            yield logits, targets
        state.release()


def _rows(file: IO[bytes], shape: tuple[int, ...]) -> Logits:
    count = 4 * shape[0] * shape[1]
    return np.frombuffer(file.read(count), np.float32).reshape(shape)


def _log_probabilities(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def _perplexity(surprise: NDArray[np.float64]) -> float:
    return exp(min(700.0, float(surprise.mean())))  # beyond that is no number that a file can tell
