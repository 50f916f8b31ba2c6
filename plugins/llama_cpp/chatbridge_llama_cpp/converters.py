"""Which conversion this plugin offers; imports what does it only when it is done. Knows llama.cpp's words for types."""

from __future__ import annotations

from chatbridge import Conversion, Converter
from chatbridge_llama_cpp.ftypes import ftypes


def converters() -> list[Converter]:
    """llama.cpp's quantiser; nothing where llama-cpp-python is not there."""
    if not (types := tuple(ftypes())):
        return []
    summary = "every quantised type of llama.cpp, by its own quantiser"
    return [Converter("llama_cpp", summary, takes=("gguf",), makes=types, convert=_convert, check=_check)]


def _check(work: Conversion) -> None:
    from chatbridge_llama_cpp.quantization import check

    check(work)


def _convert(work: Conversion) -> None:
    from chatbridge_llama_cpp.quantization import convert

    convert(work)
