"""Writes RWKV models of random weights, for measuring, and opens them in the rwkv backend. Knows no peer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LAYERS, WIDTH, HEAD, VOCABULARY = 8, 512, 64, 65536


def write_model(path: Path, version: int) -> Path:
    """Random weights in BlinkDL's keys, in bf16."""
    generator = torch.Generator().manual_seed(version)
    tensors: dict[str, Any] = {}

    def normal(name: str, *shape: int, scale: float = 1.0) -> None:
        tensors[name] = torch.randn(shape, generator=generator) * scale

    def matrix(name: str, out: int, into: int, scale: float = 1.0) -> None:
        normal(f"{name}.weight", out, into, scale=scale * into**-0.5)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(WIDTH), torch.zeros(WIDTH)

    def mix(*names: str) -> None:
        for name in names:
            tensors[name] = torch.rand((1, 1, WIDTH), generator=generator)

    normal("emb.weight", VOCABULARY, WIDTH, scale=0.5)
    norm("blocks.0.ln0")
    for number in range(LAYERS):
        attention, feed = f"blocks.{number}.att", f"blocks.{number}.ffn"
        norm(f"blocks.{number}.ln1")
        norm(f"blocks.{number}.ln2")
        for name in ("receptance", "key", "value", "output"):
            matrix(f"{attention}.{name}", WIDTH, WIDTH)
        matrix(f"{feed}.key", 4 * WIDTH, WIDTH)
        matrix(f"{feed}.value", WIDTH, 4 * WIDTH)
        if version == 4:
            matrix(f"{feed}.receptance", WIDTH, WIDTH)
            tensors[f"{attention}.time_decay"] = torch.linspace(-5, 3, WIDTH)
            normal(f"{attention}.time_first", WIDTH, scale=0.3)
            mix(
                *(f"{attention}.time_mix_{letter}" for letter in "kvr"),
                *(f"{feed}.time_mix_{letter}" for letter in "kr"),
            )
            continue
        mix(*(f"{attention}.x_{letter}" for letter in "rwkvag"), f"{feed}.x_k")
        for letter in "wav":
            normal(f"{attention}.{letter}0", 1, 1, WIDTH, scale=0.3)
            normal(f"{attention}.{letter}1", WIDTH, 64, scale=WIDTH**-0.5)
            normal(f"{attention}.{letter}2", 64, WIDTH, scale=64**-0.5)
        normal(f"{attention}.g1", WIDTH, 128, scale=WIDTH**-0.5)
        normal(f"{attention}.g2", 128, WIDTH, scale=128**-0.5)
        normal(f"{attention}.k_k", 1, 1, WIDTH, scale=0.5)
        normal(f"{attention}.k_a", 1, 1, WIDTH, scale=0.5)
        normal(f"{attention}.r_k", WIDTH // HEAD, HEAD, scale=0.1)
        norm(f"{attention}.ln_x")
    norm("ln_out")
    matrix("head", VOCABULARY, WIDTH, 3.0)  # as sure of the next token as a trained model
    torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, path)
    return path


def opened(path: Path, **options: Any) -> Any:
    from chatbridge_rwkv.backend import load
    from chatbridge_rwkv.options import RwkvOptions

    asked = {"path": path, "strategy": "cpu fp32", "threads": 1, "context_length": 1 << 20, **options}
    return load(RwkvOptions.model_validate(asked), lambda share, doing: None)


def paired(rounds: int, *works: Callable[[], float]) -> list[float]:
    """The median of each, all of them once in every round, after one that does not count."""
    found = [[work() for work in works] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*found, strict=True)]
