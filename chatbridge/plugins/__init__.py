"""Finds plugins, and validates what they offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatbridge._lazy import lazy_names

if TYPE_CHECKING:
    from chatbridge.plugins.frontend import FrontendType as FrontendType
    from chatbridge.plugins.manager import Plugins as Plugins

_HOME = {"frontend": ("FrontendType",), "manager": ("Plugins",)}

__all__, __getattr__ = lazy_names(__name__, _HOME)  # pyright: ignore[reportUnsupportedDunderAll]
