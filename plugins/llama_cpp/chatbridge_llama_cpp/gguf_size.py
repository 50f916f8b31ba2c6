"""How large a GGUF file becomes whose tensors get other types, to the byte, by the functions of ggml that write it.

Reads headers; knows no quantiser. Headers that ggml aborts on have to be refused before.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from chatbridge_llama_cpp.native import ggml_function

ALIGNMENT = 32
"""What llama.cpp's quantiser pads tensors to, whatever the source says."""

Pairs = Mapping[str, int | str]
"""Metadata that are written besides, or in the place of those of the same key."""

_POINTER, _TEXT = ctypes.c_void_p, ctypes.c_char_p
_SPLIT = (b"split.no", b"split.count", b"split.tensors.count")


class _InitParams(ctypes.Structure):
    """`gguf_init_params`, by which a header is read alone, and its tensors without their data."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.POINTER(_POINTER)))


def file_size(sources: Sequence[str], types: Mapping[str, str], pairs: Pairs) -> tuple[int, list[str]]:
    """Bytes of one file in the place of these parts, and the tensors that `types` lacks. Types as ggml names them."""
    add: Any = ggml_function("gguf_add_tensor", None, _POINTER, _POINTER)
    name_of: Any = ggml_function("ggml_get_name", _TEXT, _POINTER)
    set_type: Any = ggml_function("gguf_set_tensor_type", None, _POINTER, _TEXT, ctypes.c_int)
    size_of: Any = ggml_function("gguf_get_tensor_size", ctypes.c_size_t, _POINTER, ctypes.c_int64)
    header_size: Any = ggml_function("gguf_get_meta_size", ctypes.c_size_t, _POINTER)
    out = ggml_function("gguf_init_empty", _POINTER)()
    numbers = _type_numbers(set(types.values()))
    names: list[str] = []
    for i, source in enumerate(sources):
        tensors = _POINTER()
        header = ggml_function("gguf_init_from_file", _POINTER, _TEXT, _InitParams)(
            os.fsencode(source), _InitParams(True, ctypes.pointer(tensors))
        )
        if i == 0:
            _set_metadata(out, header, pairs)
        for tensor in _every(tensors):
            add(out, tensor)
            names.append(name_of(tensor).decode())
            if names[-1] in types:
                set_type(out, names[-1].encode(), numbers[types[names[-1]]])
    data = sum(-(-size_of(out, i) // ALIGNMENT) * ALIGNMENT for i in range(len(names)))
    return header_size(out) + data, [name for name in names if name not in types]


def _set_metadata(out: Any, header: Any, pairs: Pairs) -> None:
    ggml_function("gguf_set_kv", None, _POINTER, _POINTER)(out, header)
    for key in _SPLIT:
        ggml_function("gguf_remove_key", ctypes.c_int64, _POINTER, _TEXT)(out, key)
    for name, value in pairs.items():
        if isinstance(value, int):
            ggml_function("gguf_set_val_u32", None, _POINTER, _TEXT, ctypes.c_uint32)(out, name.encode(), value)
        else:
            ggml_function("gguf_set_val_str", None, _POINTER, _TEXT, _TEXT)(out, name.encode(), value.encode())


def _every(tensors: Any) -> Iterator[Any]:
    following: Any = ggml_function("ggml_get_next_tensor", _POINTER, _POINTER, _POINTER)
    tensor = ggml_function("ggml_get_first_tensor", _POINTER, _POINTER)(tensors)
    while tensor:
        yield tensor
        tensor = following(tensors, tensor)


def _type_numbers(names: Collection[str]) -> dict[str, int]:
    """ggml's numbers of the types with these names, which it has told itself."""
    name_of: Any = ggml_function("ggml_type_name", _TEXT, ctypes.c_int)
    numbers: dict[str, int] = {}
    number = 0
    while not set(names) <= numbers.keys():
        numbers.setdefault((name_of(number) or b"").decode(), number)  # those that were given up share a name
        number += 1
    return numbers
