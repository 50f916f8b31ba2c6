"""Runs every GGUF model that llama.cpp knows, quantised, with all conversations in one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import BackendType, Converter


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge_llama_cpp.backend import llama_cpp

    return [llama_cpp]


@hookimpl
def register_converters() -> Iterable[Converter]:
    from chatbridge_llama_cpp.converters import converters

    return converters()
