"""The two ways in which a gateway may compress what it sends: zlib, and zstd where Python has it. Knows no event."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module

from chatbridge.testing.discord.state import Refusal


def compressor(kind: str) -> Callable[[str], str | bytes]:
    """What one connection does to each of its messages, in order. Refusal where this kind is not known."""
    if not kind:
        return lambda text: text
    if kind == "zlib-stream":
        zipped = zlib.compressobj()
        return lambda text: zipped.compress(text.encode()) + zipped.flush(zlib.Z_SYNC_FLUSH)
    if kind == "zstd-stream":
        return _zstd()
    raise Refusal(400, 0, f"unknown compression {kind!r}")


def _zstd() -> Callable[[str], bytes]:
    try:  # Python 3.14 and newer
        stream = import_module("compression.zstd").ZstdCompressor()
        return lambda text: bytes(stream.compress(text.encode(), mode=stream.FLUSH_BLOCK))
    except ImportError:  # a client that asks for it in an older Python has this package
        try:
            zstandard = import_module("zstandard")
        except ImportError:
            raise Refusal(400, 0, "this Python has no zstd: use zlib-stream") from None
        old = zstandard.ZstdCompressor().compressobj()
        return lambda text: old.compress(text.encode()) + old.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
