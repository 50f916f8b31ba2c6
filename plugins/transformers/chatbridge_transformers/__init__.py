"""Runs any causal language model of Hugging Face's transformers, with all conversations in one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import BackendType


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge_transformers.backend import transformers

    return [transformers]
