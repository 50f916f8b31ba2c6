"""Runs RWKV models by BlinkDL's rwkv package: a small state for each conversation, all of them in one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import BackendType


@hookimpl
def register_backends() -> Iterable[BackendType]:
    from chatbridge_rwkv.backend import rwkv

    return [rwkv]
