"""Runs ChatGLM-6B and GLM-130B in torch: our own implementation, which reads the published files as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import BackendType, Converter


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge_glm.backend import glm

    return [glm]


@hookimpl
def register_converters() -> Iterable[Converter]:
    from chatbridge_glm.converters import CONVERTERS

    return CONVERTERS
