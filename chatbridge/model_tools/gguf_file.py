"""The container of a GGUF file, for `write_tensors`. The `gguf` package writes the header; writes no tensor itself.

The format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.output import NewTensor

if TYPE_CHECKING:
    import gguf

ALIGNMENT = 32
"""Tensors begin at a multiple of so many bytes."""


class GgufFile:
    """`fields`: called with a `gguf.GGUFWriter`, adds the keys and values. Shapes of tensors are rows first, as
    torch's; a tensor's `dtype` is the name of llama.cpp's type in small letters ("f16", "q8_0"). Raises ValueError for
    tensors with strides, ModelLoadError where there is no room for a header."""

    def __init__(
        self, architecture: str, fields: Callable[[gguf.GGUFWriter], None], tensors: Sequence[NewTensor]
    ) -> None:
        if turned := [tensor.name for tensor in tensors if tensor.strides]:
            raise ValueError(f"GGUF has no strides, and {turned[0]} has them")
        self._sizes = [tensor.nbytes for tensor in tensors]
        self._head = _header(architecture, fields, tensors)

    def before(self, number: int) -> bytes:
        """The header, or what fills up the tensor before."""
        return self._padded() if number == 0 else bytes(-self._sizes[number - 1] % ALIGNMENT)

    def after(self, checks: Sequence[int]) -> bytes:
        """What fills up the last tensor."""
        return bytes(-self._sizes[-1] % ALIGNMENT) if self._sizes else self._padded()

    def patch(self, number: int, check: int) -> None:
        """Nothing."""

    def _padded(self) -> bytes:
        return self._head + bytes(-len(self._head) % ALIGNMENT)


def as_text(name: str) -> str:
    """A file's name as a text of GGUF, which is UTF-8: what else stands in it becomes question marks."""
    return name.encode("utf-8", "replace").decode()


def _header(architecture: str, fields: Callable[[gguf.GGUFWriter], None], tensors: Sequence[NewTensor]) -> bytes:
    import gguf

    try:
        with tempfile.TemporaryDirectory(prefix="chatbridge-") as folder:
            path = Path(folder) / "header"
            writer = gguf.GGUFWriter(path, architecture)
            fields(writer)
            for tensor in tensors:
                kind = gguf.GGMLQuantizationType[tensor.dtype.upper()]
                writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, kind)
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            writer.close()
            return path.read_bytes()
    except OSError as error:
        raise ModelLoadError(
            f"a header of a GGUF file can't be written among the system's temporary files: {error.strerror or error}; "
            f"make room there, or name another folder by TMPDIR"
        ) from error
