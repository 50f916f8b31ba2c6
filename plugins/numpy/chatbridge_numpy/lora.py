"""A LoRA adapter in a GGUF file, as llama.cpp's convert_lora_to_gguf.py writes it. Knows no model.

Hu et al. 2021 (arXiv 2106.09685): a weight W of shape [out, in] becomes W + alpha / rank * B @ A.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chatbridge import ModelLoadError
from chatbridge_numpy.gguf_file import Floats, GgufFile

_A, _B = ".lora_a", ".lora_b"
_HOW = "make one of PEFT's folder by `chatbridge model convert`"


class Lora:
    """An open adapter. `path`: its file. Raises ModelLoadError where the file is anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GgufFile(path)
        metadata = self._file.metadata
        if metadata.get("general.type") != "adapter" or metadata.get("adapter.type") != "lora":
            raise ModelLoadError(f"{path}: this GGUF file is no LoRA adapter; {_HOW}, and give it as lora:")
        if (architecture := metadata.get("general.architecture")) != "llama":
            raise ModelLoadError(f"{path}: this adapter is for {architecture!r}, and the model is 'llama'")
        alpha = metadata.get("adapter.lora.alpha")
        if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
            raise ModelLoadError(f"{path}: adapter.lora.alpha is {alpha!r}, no number above 0; {_HOW} again")
        self._alpha = float(alpha)
        self._unused = set(self._file.tensors)
        self._ranks: set[int] = set()

    def add_to(self, name: str, weight: Floats) -> None:
        """Add the adapter's part of the tensor `name` to `weight`, [out, in], in place; nothing where it has none."""
        # Converters write the embedding's pair transposed, and few trainers make one: it stays unused, and is refused.
        if name + _A not in self._unused or weight.ndim != 2 or name == "token_embd.weight":
            return
        rank = self._file.tensors[name + _A].shape[0]
        a = self._file.floats(name + _A, (rank, weight.shape[1]))
        b = self._file.floats(name + _B, (weight.shape[0], rank))
        weight += np.float32(self._alpha / rank) * (b @ a)
        self._unused -= {name + _A, name + _B}
        self._ranks.add(rank)

    def refuse_leftovers(self) -> None:
        """Raise ModelLoadError where the adapter has a tensor that `add_to` did not add to the model."""
        if self._unused:
            some = ", ".join(sorted(self._unused)[:3])
            raise ModelLoadError(
                f"{self.path}: the adapter changes tensors that can't be changed or that the model lacks ({some}); "
                f"merge it into the model before converting, or take the model that it was trained on"
            )

    def fingerprint(self) -> str:
        """A hash of the file."""
        return self._file.fingerprint()

    def __str__(self) -> str:
        ranks = ", ".join(map(str, sorted(self._ranks)))
        return f"{self.path}, rank {ranks}, alpha {self._alpha:g}"
