"""Runs LLaMA-architecture GGUF files in plain NumPy: the reference that other engines are tested against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import BackendType


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge_numpy.backend import numpy

    return [numpy]
