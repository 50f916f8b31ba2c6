"""The converter from Meta's and Hugging Face's form to a GGUF file of type f32, f16, bf16 or q8_0.

What is in memory is a slice of one tensor and what becomes of it; of one whose rows are put in another order, all of
it. `gguf_plan.py` says what is written, `vocabulary.py` what the tokenizer is; here it is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import SLICE, as_float32, from_float32
from chatbridge.model_files.description import ModelDescription
from chatbridge.model_files.reading import read_json_object
from chatbridge.model_files.template_notes import KEY
from chatbridge.model_tools.converter import Conversion
from chatbridge.model_tools.gguf.checkpoint import Checkpoint
from chatbridge.model_tools.gguf.gguf_plan import CONFIGS, GgufPlan, Planned, plan_gguf
from chatbridge.model_tools.gguf.vocabulary import TOKENIZER_FILES, Vocabulary, read_vocabulary
from chatbridge.model_tools.gguf_file import GgufFile, as_text
from chatbridge.model_tools.output import NewTensor, check_space, write_tensors
from chatbridge.model_tools.report import NOTE, hashed
from chatbridge.model_tools.tables import Form, form_of

if TYPE_CHECKING:
    import gguf

    from chatbridge.model_files.arrays import Array, Floats
    from chatbridge.model_tools.output import Bytes

STORED = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""Types of a GGUF file whose numbers are stored as they are, by torch's names."""

TARGETS = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}
"""What can be made, with the number of its type in `general.file_type` (`LlamaFileType`)."""

_LIMITS = {"f32": float(np.finfo(np.float32).max), "f16": 65519.0, "bf16": 3.38e38, "q8_0": 127 * 65504.0}
"""The largest number that a type holds."""

_BLOCK = 32
"""Numbers that q8_0 packs together."""


def convert(work: Conversion) -> None:
    """Make the file and its report, or go on where a killed run ended. Raises ModelLoadError; then nothing is left."""
    target = work.target.lower()
    form = _form(work.source)
    config = _config(work.source, form)
    with Checkpoint(work.source, form) as checkpoint:
        plan = plan_gguf(work.source, form, checkpoint, config)
        folders = (work.source.path, work.source.path.parent) if form.layout == "meta" else (work.source.path,)
        vocabulary = read_vocabulary(folders, plan.sizes["vocabulary"], config)
        tensors = [*_extra(plan), *(_new(planned, target) for planned in plan.tensors)]
        head = GgufFile(form.architecture, _fields(work, plan, vocabulary), tensors)
        total = sum(tensor.nbytes for tensor in tensors)
        check_space(work.output, total + len(head.before(0)))
        work.report.sources.extend(hashed([*checkpoint.files, *_small_files(folders, form)], work.progress))
        _tell(work, plan, vocabulary, tensors)
        key = json.dumps([head.before(0).hex(), [source.sha256 for source in work.report.sources], _VERSION])
        work.progress.begin(f"writing {target}", total)
        write_tensors(work.output, head, tensors, key, work.progress, work.report.check_sources)
    work.report.write(work.output)


_VERSION = 1
"""Of the arithmetic here: what an older one has begun is not gone on with."""


def _form(source: ModelDescription) -> Form:
    form = form_of(source.layout, source.architecture)
    if form is None:
        raise ModelLoadError(f"{source.path}: a {source.architecture or source.layout} is not converted to GGUF here")
    return form


def _config(source: ModelDescription, form: Form) -> Mapping[str, Any]:
    file = source.path / CONFIGS[form.layout]
    config = read_json_object(file)
    within = config.get("text_config")
    return {**config, **within} if isinstance(within, dict) else config


def _fields(work: Conversion, plan: GgufPlan, vocabulary: Vocabulary) -> Callable[[gguf.GGUFWriter], None]:
    import gguf

    source, target = work.source, work.target.lower()

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_type("model")
        writer.add_name(as_text(source.path.absolute().name))
        writer.add_size_label(gguf.size_label(_parameters(plan), 0, 0, 0))
        writer.add_file_type(TARGETS[target])
        writer.add_quantization_version(2)
        for name, value in plan.keys.items():
            key = f"{plan.form.architecture}.{name}"
            if isinstance(value, str):
                writer.add_string(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_float32(key, value)
        vocabulary.write(writer)
        if work.report.template:
            writer.add_string(KEY, work.report.template)

    return write


def _parameters(plan: GgufPlan) -> int:
    return sum(prod(planned.source.shape) for planned in plan.tensors)


def _small_files(folders: Sequence[Path], form: Form) -> list[Path]:
    """What is read besides weights; the tokenizer of Meta's models may lie above them."""
    beside = [folders[0] / CONFIGS[form.layout]]
    for folder in folders:
        if found := [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]:
            return beside + found
    return beside


def _tell(work: Conversion, plan: GgufPlan, vocabulary: Vocabulary, tensors: list[NewTensor]) -> None:
    """Write into the report what is done."""
    kinds: dict[str, int] = {}
    for tensor in tensors:
        kinds[tensor.dtype] = kinds.get(tensor.dtype, 0) + tensor.nbytes
    work.report.step("read", form=plan.form.layout, architecture=plan.form.architecture, sizes=dict(plan.sizes),
                     left_out=list(plan.left_out))  # fmt: skip
    work.report.step("vocabulary", kind=vocabulary.kind, pre=vocabulary.pre, tokens=len(vocabulary.tokens),
                     unused=vocabulary.unused, ids=dict(vocabulary.ids), adds=dict(vocabulary.adds),
                     template=bool(vocabulary.template))  # fmt: skip
    work.report.step("write", target=work.target.lower(), tensors=len(tensors), bytes_by_type=kinds)
    for note in (*plan.notes, *vocabulary.notes):
        work.report.step(NOTE, note=note)


def _extra(plan: GgufPlan) -> Iterator[NewTensor]:
    for name, array in plan.extra.items():
        yield NewTensor(name, array.shape, "f32", array.nbytes, partial(_whole, array))


def _whole(array: Floats) -> list[Bytes]:
    return [array.tobytes()]


def _new(planned: Planned, target: str) -> NewTensor:
    """A tensor of the file. Rows of numbers stay in float32; q8_0 takes no rows that it can't cut into blocks."""
    shape = planned.source.shape
    kind = target if len(shape) > 1 else "f32"
    if kind == "q8_0" and shape[-1] % _BLOCK:
        kind = "f16"
    size = prod(shape)
    nbytes = size // _BLOCK * 34 if kind == "q8_0" else size * (4 if kind == "f32" else 2)
    return NewTensor(planned.target, shape, kind, nbytes, lambda: _pieces(planned, kind))


def _pieces(planned: Planned, kind: str) -> Iterator[Bytes]:
    source, order = planned.source, planned.order
    whole = source.read() if order is not None else None
    for first, last in source.slices(SLICE):
        rows = source.read(first, last) if whole is None else whole[order[first:last]]  # type: ignore[index]
        yield _packed(rows, source.dtype, kind, f"{source.path}: {source.name:.200}")


def _packed(rows: Array, dtype: str, kind: str, what: str) -> memoryview:
    """Some rows as they stand in the file. Raises ModelLoadError for numbers that it can't hold."""
    if STORED.get(kind) == dtype:
        _refuse_wild(rows, dtype, what)
        return np.ascontiguousarray(rows).data.cast("B")
    floats = as_float32(rows, dtype, what)
    most = max(abs(float(floats.max())), abs(float(floats.min()))) if floats.size else 0.0
    if not most <= _LIMITS[kind]:
        if not np.isfinite(floats).all():
            raise _no_number(what)
        raise ModelLoadError(f"{what} holds {most:g}, and {kind} goes up to {_LIMITS[kind]:g}; make bf16 or f32 of it")
    if kind in STORED:
        packed = from_float32(floats, STORED[kind])
    else:
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        packed = quantize(floats, GGMLQuantizationType[kind.upper()])
    return np.ascontiguousarray(packed).data.cast("B")


def _refuse_wild(rows: Array, dtype: str, what: str) -> None:
    """Numbers that are none have all bits of the exponent set; looking at the bits is fast for every type."""
    bits, exponent = {"float32": ("<u4", 0x7F800000), "float16": ("<u2", 0x7C00), "bfloat16": ("<u2", 0x7F80)}[dtype]
    if ((rows.view(bits) & exponent) == exponent).any():
        raise _no_number(what)


def _no_number(what: str) -> ModelLoadError:
    return ModelLoadError(f"{what} holds what is no finite number (NaN or infinite): it is damaged; download it again")
