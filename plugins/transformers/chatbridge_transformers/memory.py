"""How much memory a model needs, told from its files' sizes, and whether it is there. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chatbridge import ModelLoadError, TensorInfo, free_memory

WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
_PACKED = {"int8": 1.0, "nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64}
"""Bytes of a packed weight: 4-bit ones have a float32 scale for each 64."""


def needed(tensors: Mapping[str, TensorInfo], dtype: str, quantization: str | None) -> int:
    """Bytes that the weights take once they are loaded."""
    total = 0.0
    for name, tensor in tensors.items():
        packed = quantization is not None and len(tensor.shape) == 2 and not _unpacked(name)
        total += tensor.size * (_PACKED[quantization or "int8"] if packed else WIDTHS[dtype])
    return int(total)


def choose_dtype(tensors: Mapping[str, TensorInfo], published: str, on_card: bool) -> str:
    """The type for `auto`: as published on a card; on a processor float32 where that fits, which is faster there."""
    if on_card:
        return published if published in WIDTHS else "float16"
    free = free_memory()
    return "float32" if not free or needed(tensors, "float32", None) < 0.8 * free else "bfloat16"


def refuse_what_does_not_fit(path: Path, size: int, free: int, where: str) -> None:
    """Raise ModelLoadError where the weights need more than is free; 0 stands for not known."""
    if free and size > free:
        raise ModelLoadError(
            f"{path}: the weights need {gib(size)} of {where}, and {gib(free)} are free; take quantization: nf4 (needs "
            f"bitsandbytes), dtype: bfloat16, device_map: auto with an offload_folder, or a smaller model"
        )


def resident() -> int:
    """Bytes of main memory that this process holds (Linux); 0 where it can't be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096


def gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _unpacked(name: str) -> bool:
    """Whether bitsandbytes leaves the matrix as it is: embeddings and the head."""
    return any(part in name for part in ("embed", "lm_head", "wte", "wpe"))
