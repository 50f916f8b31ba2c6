"""From files to a model in memory, one tensor at a time: joined, packed and put where it is to lie.

Never holds more than what is kept, one tensor as it came and one as it becomes. Knows checkpoints, packing and devices;
computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from chatbridge import ModelLoadError
from chatbridge_glm import quantization
from chatbridge_glm.checkpoint import EMBEDDING, FINAL_NORM, HEAD, MATRICES, PREFIX, Checkpoint, layer_key
from chatbridge_glm.files import OpenFile, drop
from chatbridge_glm.model import Glm, Layer, Linear, Norm
from chatbridge_glm.parallel import Cut, cut_of, cut_shape, pieces
from chatbridge_glm.quantization import Packed, Product
from chatbridge_glm.rotary import Rotary

_COPIED = 1 << 26
"""Bytes that are copied at a time."""

Parts = Sequence[Any]
"""One tensor of the checkpoint, of each of its shards."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is to lie in memory.

    `devices`: of each layer; the embedding lies on the first layer's. `bits`: 0 for weights as they are, or what they
    are packed in, here or in the file. `dtype`: of products; what goes from layer to layer is float32 on processors.
    `kernels`: torch's packed kernels are used where they can be. `mapped`: the layers whose matrices stay in the files.
    """

    devices: tuple[Any, ...]
    bits: int
    dtype: Any
    kernels: bool = False
    mapped: frozenset[int] = frozenset()

    def stream(self, device: Any) -> Any:
        """The type of hidden states there."""
        return torch.float32 if device.type == "cpu" else self.dtype


@dataclass(slots=True)
class Loader:
    """Reads one checkpoint. `told(read, nbytes)` is called as it goes on; `prefix` fills with a prefix that it brings.

    `held` counts the bytes that are kept for good.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    told: Callable[[int, int], None] = lambda read, nbytes: None
    prefix: dict[str, Any] = field(default_factory=dict)
    held: int = 0
    _made: dict[str, Any] = field(default_factory=dict)
    _scales: dict[str, Parts] = field(default_factory=dict)
    _waiting: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Glm:
        """All of it. Raises ModelLoadError where a file is damaged or memory runs out."""
        config = self.checkpoint.config
        try:
            self._read()
        except (RuntimeError, MemoryError, OSError, ValueError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelLoadError(f"{self.checkpoint.path}: the weights can't be loaded: {why}") from error
        layers = tuple(self._layer(number) for number in range(config.layers))
        look_up, head = self._embedding()
        return Glm(config, Rotary(config), look_up, head, self._norm(FINAL_NORM, self.recipe.devices[-1]), layers)

    def _read(self) -> None:
        total = sum(file.nbytes for file in self.checkpoint.files)
        done = 0
        for opened, names in self._files():
            # Scales first: a matrix is made when it comes.
            for name in sorted(names, key=lambda name: not name.endswith("_scale")):
                parts = [file.tensor(name) for file in opened]
                self._take(name, parts)
                done += sum(part.nbytes for part in parts)
                for part in () if self._stays(name) else parts:
                    drop(part)
                self.told(done, total)

    def _files(self) -> Iterator[tuple[Sequence[OpenFile], Sequence[str]]]:
        if self.checkpoint.parallel > 1:
            yield [file.open() for file in self.checkpoint.files], [*self.checkpoint.tensors]
        else:
            for file in self.checkpoint.files:
                yield [file.open()], [*file.tensors]

    def _take(self, name: str, parts: Parts) -> None:
        if name.startswith(PREFIX):
            self.prefix[name.removeprefix(PREFIX)] = parts[0].clone()
        elif name.endswith(".weight_scale"):
            self._scales[name.removesuffix("_scale")] = [part.clone() for part in parts]
            self._try(name.removesuffix("_scale"))
        elif name.endswith("inv_freq") or name.startswith(f"{HEAD}."):
            pass  # computed anew; and the head is the embedding, as transformers ties them
        elif name.endswith(".weight") and (name.startswith(EMBEDDING) or name[: -len(".weight")].endswith(MATRICES)):
            self._matrix(name, parts)
        else:
            device = self._device(name)
            self._made[name] = self._keep(_joined(name, parts), device, self.recipe.stream(device))

    def _matrix(self, name: str, parts: Parts) -> None:
        packed = f"{name}_scale" in self.checkpoint.tensors
        if packed and name not in self._scales:
            # Its scales are in a later file.
            self._waiting[name] = parts if self._stays(name) else [part.clone() for part in parts]
        else:
            self._made[name] = self._product(name, parts)

    def _try(self, name: str) -> None:
        if (parts := self._waiting.pop(name, None)) is not None:
            self._made[name] = self._product(name, parts)

    def _product(self, name: str, parts: Parts) -> Any:
        if name.startswith(EMBEDDING):
            return self._embedding_of(name, parts)
        scales = self._scales.pop(name, None)
        device = self._device(name)
        if self._stays(name):
            return self._mapped(cut_of(name), parts, scales)
        if scales is None:
            weight = _joined(name, parts)
            if not self.recipe.bits:
                return self._dense(weight, device)
            return self._packed(quantization.quantize(weight, self.recipe.bits), device, fresh=True)
        bits = self.checkpoint.bits
        if len(parts) > 1 and cut_of(name) is Cut.COLUMNS:
            # Each shard's scales are those of its own columns, so its integers mean nothing to the others.
            whole = [Packed(part, scale, bits) for part, scale in zip(parts, scales, strict=True)]
            products = [self._packed(one, device) for one in whole]
            return quantization.Split(products, [one.shape[1] for one in whole])
        return self._packed(Packed(_joined(name, parts), _joined(name, scales), bits), device, fresh=len(parts) > 1)

    def _stays(self, name: str) -> bool:
        """Whether a tensor is used as it lies in the files."""
        found = name.startswith("transformer.layers.") and name.removesuffix(".weight").endswith(MATRICES)
        return found and name.endswith(".weight") and int(name.split(".")[2]) in self.recipe.mapped

    def _mapped(self, cut: Cut, parts: Parts, scales: Parts | None) -> Product:
        """The product with the parts of a matrix that stay in the files."""
        products: list[Product] = []
        for number, part in enumerate(parts):
            if scales is None:
                products.append(partial(_widened, table=part))
            else:
                products.append(quantization.exact_product(Packed(part, scales[number], self.checkpoint.bits)))
        if len(products) == 1:
            return products[0]
        if cut is Cut.COLUMNS:
            widths = [part.shape[1] * (8 // self.checkpoint.bits if scales else 1) for part in parts]
            return quantization.Split(products, widths)
        return quantization.Stacked(products, halves=cut is Cut.HALVES)

    def _packed(self, packed: Packed, device: Any, *, fresh: bool = False) -> Product:
        weight, scale = self._keep(packed.weight, device, fresh=fresh), self._keep(packed.scale, device)
        own = Packed(weight, scale, packed.bits)
        kernel = quantization.kernel_product(own) if self.recipe.kernels else None
        return kernel or quantization.exact_product(own)

    def _dense(self, weight: Any, device: Any) -> Product:
        own = self._keep(weight, device, self.recipe.dtype)
        return lambda x: F.linear(x.to(own.dtype), own).to(x.dtype)

    def _embedding_of(self, name: str, parts: Parts) -> Any:
        device = self.recipe.devices[0]
        if (scales := self._scales.pop(name, None)) is not None:
            bits = self.checkpoint.embedding_bits
            return Packed(self._keep(parts[0], device), self._keep(scales[0], device), bits)
        # Packed models keep it in half precision, as the file does; it is widened by rows when it is used.
        dtype = torch.float16 if self.recipe.bits and self.recipe.dtype == torch.float32 else self.recipe.dtype
        return self._keep(_joined(name, parts), device, dtype, fresh=len(parts) > 1)

    def _embedding(self) -> tuple[Any, Product]:
        table = self._made[f"{EMBEDDING}.weight"]
        stream = self.recipe.stream(self.recipe.devices[0])
        if isinstance(table, Packed):
            product = quantization.exact_product(table)
            home = table.weight.device
            return (lambda ids: _rows_of(table, ids.to(home)).to(stream)), lambda x: product(x.to(home))
        device = table.device
        look_up = lambda ids: table[ids.to(device)].to(stream)  # noqa: E731
        dtype = self.recipe.dtype
        if table.dtype == dtype:
            return look_up, lambda x: F.linear(x.to(device, dtype), table)
        return look_up, lambda x: _widened(x.to(device), table)

    def _layer(self, number: int) -> Layer:
        device = self.recipe.devices[number]
        linear = [
            Linear(
                self._made.pop(layer_key(number, f"{name}.weight")), self._made.pop(layer_key(number, f"{name}.bias"))
            )
            for name in MATRICES
        ]
        return Layer(
            device,
            self._norm(layer_key(number, "input_layernorm"), device),
            linear[0],
            linear[1],
            self._norm(layer_key(number, "post_attention_layernorm"), device),
            linear[2],
            linear[3],
        )

    def _norm(self, name: str, device: Any) -> Norm:
        return Norm(self._made.pop(f"{name}.weight").to(device), self._made.pop(f"{name}.bias").to(device))

    def _device(self, name: str) -> Any:
        if not name.startswith("transformer.layers."):
            return self.recipe.devices[-1]
        return self.recipe.devices[int(name.split(".")[2])]

    def _keep(self, tensor: Any, device: Any, dtype: Any = None, *, fresh: bool = False) -> Any:
        """A copy in memory of our own, where it is to lie; `fresh`: it is no part of a file."""
        dtype = dtype or tensor.dtype
        if not fresh and device.type == "cpu" and tensor.dim() == 2:
            own = _copied(tensor, dtype)
        else:
            own = tensor.to(device=device, dtype=dtype, copy=not fresh).contiguous()
        self.held += own.nbytes
        return own


def _joined(name: str, parts: Parts) -> Any:
    """A tensor of all shards, put together as it was cut; one of them where all are the same.

    What was copied is let go at once, so that never more than one part lies there twice.
    """
    cut, shape = cut_of(name), tuple(parts[0].shape)
    if len(parts) == 1 or cut is Cut.SAME:
        return parts[0]
    whole, at = torch.empty(cut_shape(cut, shape, len(parts), 1), dtype=parts[0].dtype), 0
    for piece in pieces(cut, shape, len(parts), 0, 1):
        part = parts[piece.shard][piece.first : piece.last]
        size = part.shape[1] if piece.columns else part.shape[0]
        whole.narrow(1 if piece.columns else 0, at, size).copy_(part)
        drop(part)
        at += size
    return whole


def _copied(tensor: Any, dtype: Any) -> Any:
    """A copy of a matrix, whose rows are let go as they are copied: it never lies there twice."""
    own = torch.empty(tensor.shape, dtype=dtype)
    rows = max(1, _COPIED // max(1, tensor[0].nbytes))
    for start in range(0, len(tensor), rows):
        own[start : start + rows] = tensor[start : start + rows]
        drop(tensor[start : start + rows])
    return own


def _rows_of(table: Packed, ids: Any) -> Any:
    own = Packed(table.weight[ids], table.scale[ids], table.bits)
    return quantization.unpack(own, torch.float32)


def _widened(x: Any, table: Any) -> Any:
    """The product with a table of another type, some rows at a time."""
    rows = max(1, quantization.UNPACKED // table.shape[1])
    return torch.cat([F.linear(x, table[at : at + rows].to(x.dtype)) for at in range(0, len(table), rows)], dim=-1)
