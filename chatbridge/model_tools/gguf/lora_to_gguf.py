"""PEFT's LoRA adapters as GGUF files, which llama.cpp puts on a model while it runs.

The rows of some matrices stand in another order in GGUF, which takes the number of heads, and only the base tells it.
Knows adapters by `lora.py`, their base by `lora_base.py`, names by `tables.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.description import disagreement
from chatbridge.model_files.template_notes import KEY
from chatbridge.model_tools.converter import Conversion
from chatbridge.model_tools.gguf.gguf_plan import row_order
from chatbridge.model_tools.gguf_file import GgufFile, as_text
from chatbridge.model_tools.merging.lora import Adapter, norm_of, read_adapter
from chatbridge.model_tools.merging.lora_base import MERGE, Base, base_of, entry_of, refuse_other_family
from chatbridge.model_tools.output import NewTensor, check_space, write_tensors
from chatbridge.model_tools.report import hashed
from chatbridge.model_tools.tables import Entry

if TYPE_CHECKING:
    import gguf

    from chatbridge.model_files.arrays import Floats

_TYPES = {"f32": ("<f4", 0), "f16": ("<f2", 1)}


def convert(work: Conversion) -> None:
    """Write the file. `options["base"]`: a path of the model that it was trained on. Raises ModelLoadError."""
    target = work.target.lower()
    with ExitStack() as files:
        adapter = read_adapter(work.source.path, files)
        if adapter.whole:
            raise _unfit(adapter, f"it replaces {next(iter(adapter.whole)):.200}, which an adapter of GGUF can't")
        base = base_of(adapter, work.options.get("base"))
        norm = norm_of(adapter)
        alpha, factors = _alpha(adapter)
        sizes = dict(base.sizes)
        tensors: list[NewTensor] = []
        for name, factor in factors.items():
            tensors += _pair(adapter, base, sizes, name, factor, target)
        check_space(work.output, sum(tensor.nbytes for tensor in tensors))
        work.report.sources.extend(hashed([adapter.file, adapter.path / "adapter_config.json"], work.progress))
        work.report.step(
            "convert", to=target, tensors=len(tensors), alpha=alpha, architecture=base.form.architecture,
            base=base.told, heads=base.sizes["heads"], norm=norm, notes=adapter.notes,
        )  # fmt: skip
        key = repr(
            (
                target,
                work.report.template,
                base.form.architecture,
                dict(base.sizes),
                [one.sha256 for one in work.report.sources],
            )
        )
        head = GgufFile(
            base.form.architecture, _fields(adapter, alpha, _TYPES[target][1], work.report.template), tensors
        )
        work.progress.begin(f"writing {target}", sum(tensor.nbytes for tensor in tensors))
        write_tensors(work.output, head, tensors, key, work.progress, work.report.check_sources)
    work.report.write(work.output)


def _unfit(adapter: Adapter, why: str) -> ModelLoadError:
    return ModelLoadError(f"{adapter.path}: {why}; {MERGE}")


def _fields(adapter: Adapter, alpha: float, file_type: int, template: str) -> Callable[[gguf.GGUFWriter], None]:
    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_type("adapter")
        writer.add_name(as_text(adapter.path.absolute().name))
        writer.add_file_type(file_type)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        if template:
            writer.add_string(KEY, template)

    return write


# --- numbers ---------------------------------------------------------------------------------------------------------


def _alpha(adapter: Adapter) -> tuple[float, dict[str, float]]:
    """The alpha of the file, which llama.cpp divides by each pair's rank, and by what each pair differs from it."""
    own = {name: delta.scale * delta.down.shape[0] for name, delta in adapter.deltas.items()}
    usual = Counter(alpha for alpha in own.values() if alpha)
    ((alpha, _),) = usual.most_common(1)  # one is not 0, or it would change nothing
    return alpha, {name: value / alpha for name, value in own.items() if value}


def _pair(
    adapter: Adapter, base: Base, sizes: dict[str, int], name: str, factor: float, target: str
) -> Iterator[NewTensor]:
    """The two matrices of a layer under GGUF's names. `sizes`: those of the base, and others once they were seen."""
    entry, delta = _entry(adapter, base, name), adapter.deltas[name]
    if delta.sideways:
        raise _unfit(adapter, f"it changes the embedding {name:.200}, which an adapter of GGUF can't")
    should = tuple(sizes.setdefault(word, size) for word, size in zip(entry.shape, delta.shape, strict=True))
    if delta.shape != should:
        raise ModelLoadError(
            f"{adapter.path}: it changes {name:.200} as a matrix of {list(delta.shape)}, and by {base.told} it has "
            f"{list(should)}; give the model that it was trained on by --base"
        )
    order = row_order(entry, sizes)
    for end, matrix, rows, times in (("lora_a", delta.down, None, 1.0), ("lora_b", delta.up, order, factor)):
        make = partial(_stored, f"{adapter.file}: {matrix.name:.200}", matrix.floats, rows, times, target)
        nbytes = matrix.shape[0] * matrix.shape[1] * np.dtype(_TYPES[target][0]).itemsize
        yield NewTensor(f"{entry.target}.{end}", matrix.shape, target, nbytes, make)


def _stored(
    where: str, read: Callable[[], Floats], order: np.ndarray[Any, Any] | None, times: float, target: str
) -> list[bytes]:
    floats = read() if order is None else read()[order]
    if times != 1.0:
        floats = floats * np.float32(times)
    with np.errstate(over="ignore"):
        found = floats.astype(_TYPES[target][0])
    if not np.isfinite(found).all() or (floats.any() and not found.any()):
        raise ModelLoadError(f"{where} holds what {target} can't: too large, or too small throughout; make f32 of it")
    return [found.tobytes()]


def _entry(adapter: Adapter, base: Base, name: str) -> Entry:
    """What becomes of a layer by its name in Hugging Face's form."""
    form = base.form
    entry, layer = entry_of(form, name)
    if entry is None or len(entry.shape) != 2:
        refuse_other_family(adapter, name, base.told, form.architecture)
        raise _unfit(adapter, f"{name:.200} has no place in llama.cpp's {form.architecture}")
    if layer is not None and layer >= base.sizes["layers"]:
        told = disagreement("layers", ("the adapter", 1 + layer), (base.told, base.sizes["layers"]))
        raise ModelLoadError(f"{adapter.path}: {told}; give the model that it was trained on by --base")
    if name.removeprefix(form.prefix) == form.head and base.tied:
        raise _unfit(adapter, f"it changes {name}, which in this model is the embedding")
    return entry if layer is None else Entry(f"blk.{layer}.{entry.target}", entry.shape, entry.order)
