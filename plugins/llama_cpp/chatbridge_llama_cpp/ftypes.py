"""The types of files that this llama.cpp has names for. Reads the text of llama-cpp-python, and loads no library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_CONSTANT = re.compile(r"^LLAMA_FTYPE_(?:ALL|MOSTLY)_(\w+) = (\d+)", re.MULTILINE)
"""As llama_cpp.py has them, of llama.h's `enum llama_ftype`; "guessed" is a mark and no type."""


@cache
def ftypes() -> Mapping[str, int]:
    """Numbers of types by name, in small letters; none where llama-cpp-python is missing.

    "q4_k" stands for "q4_k_m", as with llama-quantize. Some that have a name are made by no quantiser: "nvfp4".
    """
    spec = find_spec("llama_cpp")  # the package is found and not imported, which would load the native library
    if spec is None or spec.origin is None:
        return {}
    text = Path(spec.origin).with_name("llama_cpp.py").read_text(encoding="utf-8")
    named = {name.lower(): int(number) for name, number in _CONSTANT.findall(text)}
    short = {name.removesuffix("_m"): number for name, number in named.items() if name.endswith("_k_m")}
    return short | named
