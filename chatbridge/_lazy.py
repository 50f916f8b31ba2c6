"""Packages whose public names are loaded when they are first used. Knows no name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, homes: Mapping[str, tuple[str, ...]]) -> tuple[list[str], Callable[[str], object]]:
    """A package's `__all__` and `__getattr__`. `homes`: the names that each of its modules has, by the module.

    No module may be called as a public name is: importing it would put the module in the name's place.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no public name {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return sorted(module_of), load
