"""Small models of random weights in BlinkDL's keys, for the versions and sizes that nothing was recorded of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


class Maker:
    """Tensors by name, as a training run would have left them. `seed` says which ones."""

    def __init__(self, seed: int = 7) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Any] = {}

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self.tensors[name] = torch.randn(shape, generator=self._generator) * scale

    def share(self, name: str, *shape: int) -> None:
        self.tensors[name] = torch.rand(shape, generator=self._generator)

    def matrix(self, name: str, out: int, into: int) -> None:
        self.normal(name, out, into, scale=into**-0.5)

    def norm(self, name: str, size: int) -> None:
        self.tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=self._generator)
        self.normal(f"{name}.bias", size, scale=0.1)

    def save(self, path: Path) -> Path:
        torch.save({name: tensor.bfloat16() for name, tensor in self.tensors.items()}, path)
        return path


def write_model(
    path: Path,
    version: float,
    *,
    layers: int = 2,
    width: int = 64,
    head: int = 32,
    vocabulary: int = 512,
    seed: int = 7,
) -> Path:
    """A model of that version: 4, 5, 5.1, 5.2, 6 or 7, as the package tells them apart."""
    make = Maker(seed)
    make.normal("emb.weight", vocabulary, width, scale=0.5)
    make.norm("blocks.0.ln0", width)
    for number in range(layers):
        block = f"blocks.{number}."
        make.norm(f"{block}ln1", width)
        make.norm(f"{block}ln2", width)
        for name in ("receptance", "key", "value", "output"):
            make.matrix(f"{block}att.{name}.weight", width, width)
        make.matrix(f"{block}ffn.key.weight", 4 * width, width)
        make.matrix(f"{block}ffn.value.weight", width, 4 * width)
        if version < 7:
            make.matrix(f"{block}ffn.receptance.weight", width, width)
        _MIXES[int(version)](make, block, width, head, version)
    make.norm("ln_out", width)
    make.normal("head.weight", vocabulary, width, scale=3 * width**-0.5)
    return make.save(path)


def _v4(make: Maker, block: str, width: int, head: int, version: float) -> None:
    make.normal(f"{block}att.time_decay", width)
    make.normal(f"{block}att.time_first", width, scale=0.3)
    for letter in "kvr":
        make.share(f"{block}att.time_mix_{letter}", 1, 1, width)
    for letter in "kr":
        make.share(f"{block}ffn.time_mix_{letter}", 1, 1, width)


def _v5(make: Maker, block: str, width: int, head: int, version: float) -> None:
    heads = width // head
    for letter in "kvrg" if version > 5 else "kvr":
        make.share(f"{block}att.time_mix_{letter}", 1, 1, width)
    shape = (heads, head) if version == 5.2 else (heads,)
    make.normal(f"{block}att.time_decay", *shape, scale=0.5)
    make.normal(f"{block}att.{'time_faaaa' if version == 5.2 else 'time_first'}", *shape, scale=0.3)
    make.norm(f"{block}att.ln_x", width)
    if version > 5:
        make.matrix(f"{block}att.gate.weight", width, width)
    for letter in "kr":
        make.share(f"{block}ffn.time_mix_{letter}", 1, 1, width)


def _v6(make: Maker, block: str, width: int, head: int, version: float) -> None:
    for letter in "xwkvrg":
        make.share(f"{block}att.time_maa_{letter}", 1, 1, width)
    make.normal(f"{block}att.time_maa_w1", width, 5 * 8, scale=0.1)
    make.normal(f"{block}att.time_maa_w2", 5, 8, width, scale=0.1)
    make.normal(f"{block}att.time_decay_w1", width, 8, scale=0.1)
    make.normal(f"{block}att.time_decay_w2", 8, width, scale=0.1)
    make.normal(f"{block}att.time_decay", 1, 1, width, scale=0.5)
    make.normal(f"{block}att.time_faaaa", width // head, head, scale=0.3)
    make.norm(f"{block}att.ln_x", width)
    make.matrix(f"{block}att.gate.weight", width, width)
    for letter in "kr":
        make.share(f"{block}ffn.time_maa_{letter}", 1, 1, width)


def _v7(make: Maker, block: str, width: int, head: int, version: float) -> None:
    for letter in "rwkvag":
        make.share(f"{block}att.x_{letter}", 1, 1, width)
    for letter in "wav":
        make.normal(f"{block}att.{letter}0", 1, 1, width, scale=0.3)
        make.matrix(f"{block}att.{letter}1", width, 16)
        make.matrix(f"{block}att.{letter}2", 16, width)
    make.matrix(f"{block}att.g1", width, 16)
    make.matrix(f"{block}att.g2", 16, width)
    make.normal(f"{block}att.k_k", 1, 1, width, scale=0.5)
    make.normal(f"{block}att.k_a", 1, 1, width, scale=0.5)
    make.normal(f"{block}att.r_k", width // head, head, scale=0.2)
    make.norm(f"{block}att.ln_x", width)
    make.share(f"{block}ffn.x_k", 1, 1, width)


_MIXES = {4: _v4, 5: _v5, 6: _v6, 7: _v7}
