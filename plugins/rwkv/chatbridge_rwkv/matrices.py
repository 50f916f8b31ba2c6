"""Products with a model's matrices, wherever they lie and however they are packed. Knows no architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Product = Callable[[Any], Any]
"""[tokens, in] to [tokens, out], in the type of its argument or in the one that was asked for."""

_SKINNY = 32
"""Rows up to which NumPy's BLAS multiplies faster than torch's does, measured on one thread without AVX-512."""


class Matrices:
    """Makes products from the package's weights. `kernels`: the package's CUDA kernels are in use.

    `matmul`: the package's own, for packed weights and for kernels.
    """

    def __init__(self, weights: dict[str, Any], matmul: Callable[..., Any], *, kernels: bool) -> None:
        self._weights = weights
        self._matmul = matmul
        self._kernels = kernels
        self._one_thread = torch.get_num_threads() == 1

    def product(self, name: str, device: str, *, stream: bool = False, dtype: Any = None) -> Product:
        """The product with the matrix `name` [in, out], whose result is of `dtype`, else of its argument's type."""
        weight = self._weights[name]
        if weight.dtype == torch.uint8:
            return self._packed(name, device, dtype, stream)
        if stream:
            return lambda x: (x @ weight.to(device, non_blocking=True)).to(dtype or x.dtype)
        if self._kernels and weight.dtype == torch.float16 and weight.is_cuda:
            return lambda x: self._matmul(x, weight, output_dtype=dtype)
        if weight.dtype == torch.float32 and weight.device.type == "cpu":
            return self._on_processor(name)
        return lambda x: (x @ weight).to(dtype or x.dtype)

    def _packed(self, name: str, device: str, dtype: Any, stream: bool) -> Product:
        weight = self._weights[name]
        scales = [self._weights[f"{name}{end}"] for end in ("_mx", "_rx", "_my", "_ry")]

        def product(x: Any) -> Any:
            own = weight.to(device, non_blocking=True) if stream else weight
            if x.shape[0] == 1:  # the kernel for one is another one
                return self._matmul(x[0], own, *scales, output_dtype=dtype).unsqueeze(0)
            return self._matmul(x, own, *scales, output_dtype=dtype)

        return product

    def _on_processor(self, name: str) -> Product:
        """Laid out for reading along the longer side, which is up to 1.6 times as fast for a single row."""
        weight = self._weights[name]
        wide = weight.shape[0] <= weight.shape[1]
        weight = weight.contiguous() if wide else weight.t().contiguous().t()
        self._weights[name] = weight
        if not self._one_thread:
            return lambda x: x @ weight
        array = weight.numpy()

        def product(x: Any) -> Any:
            if 1 < x.shape[0] <= _SKINNY:
                return torch.from_numpy(x.numpy() @ array)
            return x @ weight

        return product
