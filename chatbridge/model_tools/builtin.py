"""The converters of the core, as plugins register theirs. A list; does no work."""

from __future__ import annotations

from chatbridge.model_tools.converter import Converter

CONVERTERS: tuple[Converter, ...] = ()
