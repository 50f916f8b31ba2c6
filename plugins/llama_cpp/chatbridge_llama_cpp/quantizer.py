"""Quantises by llama.cpp's own quantiser, and tells beforehand what comes of it; in a process of its own (`job.py`).

What becomes of each tensor is read from the log of llama.cpp's dry run, since its C interface tells it no other way;
the size of the file is reckoned by the functions that write its header. Checks no option.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge import ModelLoadError
from chatbridge_llama_cpp.gguf_size import ALIGNMENT, Pairs, file_size
from chatbridge_llama_cpp.imatrix import read_imatrix
from chatbridge_llama_cpp.job import Facts, Tell
from chatbridge_llama_cpp.native import CONTINUED, ERROR, NOTHING, lib

_BUFFER = 1 << 30
"""Bytes of one tensor's rows in memory at once; more makes nothing faster."""

_PAUSE = 0.25
"""Seconds between two looks at how far the file has grown."""

_TENSOR = re.compile(r"^\[ *\d+/ *\d+\] (.+?) +- \[[\d, ]+\], type = +(\w+), size = .*?(?:\((\w+)\))?$", re.MULTILINE)
_FALLBACK = re.compile(
    r"^warning: (.+?) +- ncols +(\d+) not divisible by +(\d+) \(required for type +(\w+)\).*-> falling back to +(\w+)$",
    re.MULTILINE,
)
_FAILED = re.compile(r"failed to quantize: (.+)")
_INT, _STR = 0, 3  # LLAMA_KV_OVERRIDE_TYPE_


def plan(job: Facts, tell: Tell) -> Facts:
    """What would be made: `size` in bytes, `types` of all tensors by name, `fallbacks`, and whether it `needs_imatrix`.

    `job`: sources, ftype, threads, leave_output, pure, requantize, imatrix, alignment. Raises ModelLoadError.
    """
    log = _Log()
    pairs = _pairs(job)
    _quantize(job, pairs, log, None)
    types = {name: after or before for name, before, after in _TENSOR.findall(log.text)}
    numbers = {**pairs, "general.quantization_version": 2, "general.file_type": job["ftype"]}
    size, missing = file_size(job["sources"], types, numbers)
    if missing:
        raise ModelLoadError(
            f"this llama-cpp-python does not say what becomes of {missing[0]}; take one that this plugin was made "
            f"for: pip install 'llama-cpp-python>=0.3.36,<0.4'"
        )
    fallbacks = [
        {"tensor": name, "columns": int(columns), "block": int(block), "asked": asked.upper(), "made": made.upper()}
        for name, columns, block, asked, made in _FALLBACK.findall(log.text)
    ]
    return {
        "size": size,
        "types": {name: kind.upper() for name, kind in types.items()},
        "fallbacks": fallbacks,
        "needs_imatrix": "will require an imatrix" in log.text,
    }


def quantize(job: Facts, tell: Tell) -> Facts:
    """Make the file. `job`: as for `plan`, and output, size. Raises ModelLoadError."""
    output = Path(job["output"])
    tell({"begin": ["quantising", job["size"]]})
    ended = threading.Event()

    def watch() -> None:
        told, last = 0, False
        while not last:
            last = ended.wait(_PAUSE)
            grown = output.stat().st_size if output.exists() else 0
            if grown > told:
                tell({"advance": grown - told})
                told = grown

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        _quantize(job, _pairs(job), _Log(), output)
    finally:
        ended.set()
        watching.join()
    return {}


class _Log:
    """All that llama.cpp logs from now on."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._errors: list[str] = []
        self._level = 0
        self._callback = lib.llama_log_callback(self._receive)
        lib.llama_log_set(self._callback, NOTHING)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def _receive(self, level: int, text: bytes, _: Any) -> None:
        self._level = self._level if level == CONTINUED else level
        self._pieces.append(text.decode("utf-8", "replace"))
        if self._level == ERROR:
            self._errors.append(self._pieces[-1])


def _quantize(job: Facts, pairs: Pairs, log: _Log, output: Path | None) -> None:
    """Let llama.cpp do it, or only say what it would do. Raises ModelLoadError."""
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.nthread = job["threads"]
    params.ftype = job["ftype"]
    params.allow_requantize = job["requantize"]
    params.quantize_output_tensor = not job["leave_output"]
    params.pure = job["pure"]
    params.dry_run = output is None
    params.max_buf_size = _BUFFER
    weights = _weights(job["imatrix"])
    if weights is not None:
        params.imatrix = weights[0]
    overrides = _overrides(pairs)
    params.kv_overrides = overrides
    source = os.fsencode(job["sources"][0])
    if lib.llama_model_quantize(source, os.fsencode(output) if output else b"", ctypes.byref(params)):
        raise ModelLoadError(f"{job['sources'][0]}: {_reason(log.errors)}")


def _weights(path: str | None) -> tuple[Any, Sequence[Any]] | None:
    """The matrix as llama.cpp takes it, and the arrays that it points into."""
    if path is None:
        return None
    values = {name: np.ascontiguousarray(each, np.float32) for name, each in read_imatrix(Path(path)).values.items()}
    entries = (lib.llama_model_imatrix_data * (len(values) + 1))()  # an empty name ends the list
    for entry, (name, each) in zip(entries, values.items(), strict=False):
        entry.name = name.encode()
        entry.data = each.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = each.size
    return entries, list(values.values())


def _pairs(job: Facts) -> Pairs:
    """What is written into the file's metadata besides: of the matrix, as llama-quantize does, and the alignment."""
    pairs: dict[str, int | str] = {}
    if job["alignment"] != ALIGNMENT:  # llama.cpp would copy the number, and not go by it
        pairs["general.alignment"] = ALIGNMENT
    if job["imatrix"] is not None:
        matrix = read_imatrix(Path(job["imatrix"]))
        pairs["quantize.imatrix.file"] = _short(matrix.path.name)
        if matrix.dataset:
            pairs["quantize.imatrix.dataset"] = _short(matrix.dataset)
        pairs["quantize.imatrix.entries_count"] = len(matrix.values)
        if matrix.chunks > 0:
            pairs["quantize.imatrix.chunks_count"] = matrix.chunks
    return pairs


def _short(text: str) -> str:
    """What llama.cpp has room for: 127 bytes."""
    return text.encode("utf-8", "replace").partition(b"\0")[0][:127].decode("utf-8", "ignore")


def _overrides(pairs: Pairs) -> Any:
    overrides = (lib.llama_model_kv_override * (len(pairs) + 1))()  # an empty key ends the list
    for override, (key, value) in zip(overrides, pairs.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, int):
            override.tag, override.value.val_i64 = _INT, value
        else:
            override.tag, override.value.val_str = _STR, value.encode()
    return overrides


def _reason(errors: str) -> str:
    """What llama.cpp said, in words that help."""
    found = _FAILED.search(errors)
    why = found[1].strip() if found else "; ".join(errors.splitlines()[-3:]) or "it did not say why"
    if "imatrix" in why or "importance matrix" in why:
        return f"{why}; make one with llama-imatrix from the unquantised model and a text, and give it as --imatrix"
    if "has invalid data" in why:
        return f"{why}: it holds what is no number, or an infinite one; download or convert the model again"
    if "data validation failed" in why:
        return (
            "a number of the model is too large for this type, or is none; take bf16 or a quantised type in place of "
            "f16, or convert the model again"
        )
    if "unknown model architecture" in why:
        return (
            f"this llama.cpp does not know its architecture ({why}); a newer one may: pip install -U llama-cpp-python"
        )
    if "invalid output file type" in why:
        return "this llama.cpp has a name for that type, and makes no file of it; take another one"
    if "no tensor type fallback" in why:
        return f"its rows fit no block of this type, and llama.cpp has none in its place ({why}); take q4_0 or larger"
    if "iostream" in why or "basic_ios" in why:
        return (
            "the file could not be written: the disk is full, or files may not be so large; make room, and run it again"
        )
    return f"llama.cpp could not quantise it: {why}"
