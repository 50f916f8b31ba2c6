"""GGML files of LLaMA, from before GGUF, as GGUF: blocks taken over as they are, or unpacked; with their vocabulary.

What the file does not say (the norms' epsilon, the context) is taken from a params.json or config.json beside it, or
from the time that the file is of. Knows names and sizes; leaves blocks to `ggml_blocks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import SLICE, StoredTensor
from chatbridge.model_files.description import disagreement
from chatbridge.model_files.ggml import GgmlFile, GgmlTensor, read_ggml
from chatbridge.model_files.reading import read_json_object
from chatbridge.model_files.shapes import from_config
from chatbridge.model_files.template_notes import KEY
from chatbridge.model_files.tensors import TensorInfo
from chatbridge.model_tools.converter import Conversion
from chatbridge.model_tools.gguf.checkpoint import JoinedTensor
from chatbridge.model_tools.gguf.ggml_blocks import GONE, PLAIN, take_over, unpack
from chatbridge.model_tools.gguf.ggml_vocabulary import vocabulary_of
from chatbridge.model_tools.gguf.vocabulary import Vocabulary
from chatbridge.model_tools.gguf_file import GgufFile, as_text
from chatbridge.model_tools.output import NewTensor, check_space, write_tensors
from chatbridge.model_tools.report import NOTE, hashed
from chatbridge.model_tools.tables import FORMS, Axis, Entry

if TYPE_CHECKING:
    import gguf

_LLAMA = next(form for form in FORMS if form.layout == "meta")
"""GGML files have Meta's names, and the rows of its heads in Meta's order, which is GGUF's."""

_FILE_TYPES = {"f32": 0, "f16": 1}
_MAX_PARTS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """What a file does not say. `told`: by what. `says_context`: whether a configuration beside it names that."""

    epsilon: float
    context: int
    theta: float
    told: str
    says_context: bool = False


@dataclass(frozen=True, slots=True)
class _Whole:
    """A tensor of all parts. `source`: its rows as bytes, as they are stored."""

    name: str
    kind: str
    shape: tuple[int, ...]
    source: JoinedTensor
    version: int

    @property
    def where(self) -> str:
        return f"{self.source.path}: {self.source.name:.200}"


def convert(work: Conversion) -> None:
    """Write the file. Raises ModelLoadError."""
    target = work.target.lower()
    with _opened(work.source.path) as (first, whole):
        vocabulary, scored = vocabulary_of(first)
        settings = _settings(first, whole)
        files = [first.path, *_others(first)]
        work.report.sources.extend(hashed([*files, *{scored} - {first.path}], work.progress))
        tensors = [_new(one, target) for one in whole]
        check_space(work.output, sum(tensor.nbytes for tensor in tensors))
        fields = _fields(first, whole, vocabulary, settings, work)
        work.report.step(
            "convert", form=first.kind, parts=len(files), to=target, tensors=len(tensors),
            nbytes=sum(tensor.nbytes for tensor in tensors), epsilon=settings.epsilon, context=settings.context,
            settings=settings.told, scores=str(scored),
        )  # fmt: skip
        if not settings.says_context:
            note = f"the file says no context: {settings.context:,} tokens are what such a model has ({settings.told})"
            work.report.step(NOTE, note=note)
        key = repr((target, work.report.template, settings, [source.sha256 for source in work.report.sources]))
        work.progress.begin("writing", sum(tensor.nbytes for tensor in tensors))
        container = GgufFile("llama", fields, tensors)
        write_tensors(work.output, container, tensors, key, work.progress, work.report.check_sources)
    work.report.write(work.output)


# --- reading -------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[GgmlFile, list[_Whole]]]:
    """The first file, and the tensors of all parts in the order of the first, looked over. Raises ModelLoadError."""
    first = read_ggml(path)
    headers = [first, *(read_ggml(part) for part in _others(first))]
    sizes = _sizes(first, headers)
    with ExitStack() as files:
        try:
            opened = [files.enter_context(header.path.open("rb", buffering=0)) for header in headers]
        except OSError as error:
            raise ModelLoadError(f"{error.filename}: the file can't be read: {error.strerror or error}") from error
        wanted = _wanted(first.layers)
        whole = []
        for name in first.tensors:
            if name.endswith(_LLAMA.left_out):
                continue
            if name not in wanted:
                raise ModelLoadError(f"{path}: {name:.200} is no tensor of a LLaMA, or of a layer that it has not")
            entry = wanted.pop(name)
            kind = first.tensors[name].kind
            parts = [_stored(h, file, name, kind) for h, file in zip(headers, opened, strict=True)]
            shape = _joined([header.tensors[name].shape for header in headers], entry.axis)
            if shape != (should := tuple(sizes[word] for word in entry.shape)):
                raise ModelLoadError(f"{path}: {name} has the shape {list(shape)}, and should have {list(should)}")
            axis: Axis = "columns" if entry.axis == "by width" else entry.axis
            whole.append(_Whole(entry.target, kind, shape, JoinedTensor(name, parts, axis), first.version))
        if wanted:
            raise ModelLoadError(f"{path}: {next(iter(wanted))} is not in it, nor {len(wanted) - 1} others")
        yield first, whole


def _others(first: GgmlFile) -> list[Path]:
    """The files of the other parts, NAME.1, NAME.2, …"""
    embedding = first.tensors.get("tok_embeddings.weight")
    columns = embedding.shape[-1] if embedding else first.width
    parts = first.width // columns if first.width % columns == 0 else 1
    if parts > _MAX_PARTS:
        raise ModelLoadError(f"{first.path}: by its embedding it is one of {parts:,} parts; {_MAX_PARTS} are the most")
    return [first.path.with_name(f"{first.path.name}.{number}") for number in range(1, parts)]


def _sizes(first: GgmlFile, headers: Sequence[GgmlFile]) -> dict[str, int]:
    def rows(name: str) -> int:
        return sum(header.tensors[name].shape[0] for header in headers if name in header.tensors)

    sizes = {"vocabulary": first.vocabulary, "width": first.width, "q": first.width,
             "kv": rows("layers.0.attention.wk.weight"), "inner": rows("layers.0.feed_forward.w1.weight")}  # fmt: skip
    for header in headers[1:]:
        for what in ("kind", "vocabulary", "width", "heads", "layers"):
            ours, theirs = getattr(first, what), getattr(header, what)
            if ours != theirs:
                raise ModelLoadError(f"{header.path}: its {what} is {theirs}, and that of {first.path.name} {ours}")
    head = first.width // first.heads
    if sizes["kv"] % head or not sizes["kv"] or first.heads % (sizes["kv"] // head):
        told = disagreement("rows of wk", ("a head", head), ("the weights", sizes["kv"]))
        raise ModelLoadError(f"{first.path}: {told}: no whole number of heads that goes into {first.heads}")
    return sizes


def _wanted(layers: int) -> dict[str, Entry]:
    """What there should be, by the names in the file, which are Meta's."""
    found = dict(_LLAMA.top)
    for number in range(layers):
        for name, entry in _LLAMA.block.items():
            found[f"{_LLAMA.layer.format(number)}{name}"] = replace(entry, target=f"blk.{number}.{entry.target}")
    return found


def _stored(header: GgmlFile, file: Any, name: str, kind: str) -> StoredTensor:
    """The tensor as rows of bytes."""
    tensor = header.tensors.get(name)
    if tensor is None or tensor.kind != kind:
        raise ModelLoadError(f"{header.path}: {name} should be in it, of the type {kind}, as in the first part")
    rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    return StoredTensor(header.path, file, name, _bytes(tensor, rows))


def _bytes(tensor: GgmlTensor, rows: int) -> TensorInfo:
    return TensorInfo((rows, tensor.nbytes // rows), "uint8", tensor.nbytes, tensor.start)


def _joined(shapes: Sequence[tuple[int, ...]], axis: Axis) -> tuple[int, ...]:
    first = shapes[0]
    if axis == "whole" or len(shapes) == 1 or any(len(shape) != 2 for shape in shapes):
        return first
    along = 0 if axis == "rows" else 1
    total = sum(shape[along] for shape in shapes)
    return (total, first[1]) if axis == "rows" else (first[0], total)


def _settings(first: GgmlFile, whole: Sequence[_Whole]) -> Settings:
    """By a params.json or config.json beside the file, or by its age."""
    found: dict[str, Any] = {}
    told = [name for name in ("params.json", "config.json") if (first.path.parent / name).is_file()]
    for name in told:
        found |= (written := read_json_object(first.path.parent / name))
        for what, number in from_config(written).items():
            if what in ("layers", "width", "heads") and number != getattr(first, what):
                differ = disagreement(what, (name, number), (first.path.name, getattr(first, what)))
                raise ModelLoadError(f"{first.path.parent / name}: {differ}; put the model's own beside it, or none")
    keys = next(one.shape[0] for one in whole if one.name == "blk.0.attn_k.weight")
    if keys < first.width:  # the 70B of July 2023 alone shares its keys
        usual, age = Settings(1e-5, 4096, 10000.0, ""), "it shares its keys, as Llama 2 70B"
    elif first.kind == "ggjt 3":  # what llama.cpp ran all files with: there were two generations of LLaMA then
        usual, age = Settings(5e-6, 2048, 10000.0, ""), "of ggjt 3, as llama.cpp ran it"
    else:
        usual, age = Settings(1e-6, 2048, 10000.0, ""), "from before Llama 2"
    values = {
        "epsilon": found.get("rms_norm_eps", found.get("norm_eps", usual.epsilon)),
        "context": found.get("max_position_embeddings", usual.context),
        "theta": found.get("rope_theta", usual.theta),
    }
    for what, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise ModelLoadError(f"{first.path.parent / told[-1]}: it gives {value!r:.60} for {what}")
    by = " and ".join(told) if told else age
    return Settings(float(values["epsilon"]), int(values["context"]), float(values["theta"]), by,
                    "max_position_embeddings" in found)  # fmt: skip


# --- writing -------------------------------------------------------------------------------------------------------


def _new(one: _Whole, target: str) -> NewTensor:
    if len(one.shape) == 1:
        kind = "f32"
    elif target in _FILE_TYPES:
        kind = target
    elif one.kind in GONE:
        raise ModelLoadError(f"{one.where}: today's GGUF has no {one.kind}; unpack it by --to f16 or f32")
    else:
        kind = one.kind.lower()

    def make() -> Iterator[bytes]:
        step = max(1, SLICE // max(1, 4 * one.shape[-1]))
        for start in range(0, one.source.rows, step):
            raw = one.source.read(start, min(start + step, one.source.rows)).view(np.uint8)
            packed = kind == one.kind.lower() and one.kind not in PLAIN
            found = take_over(raw, one.kind, one.version, one.where) if packed else _floats(one, raw, kind)
            yield found.tobytes()

    return NewTensor(one.name, one.shape, kind, _nbytes(one.shape, kind), make)


def _floats(one: _Whole, raw: Any, kind: str) -> np.ndarray[Any, Any]:
    floats = unpack(raw, one.kind, one.version, one.where)
    with np.errstate(over="ignore"):
        found = floats.astype("<f2" if kind == "f16" else "<f4")
    if not np.isfinite(found).all():
        most = " of 16 bits; give --to f32" if np.isfinite(floats).all() else ": the file is damaged"
        raise ModelLoadError(f"{one.where}: it holds what is no number{most}")
    return found


def _nbytes(shape: tuple[int, ...], kind: str) -> int:
    import gguf

    size, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    return prod(shape) // size * width


def _fields(
    first: GgmlFile, whole: Sequence[_Whole], vocabulary: Vocabulary, settings: Settings, work: Conversion
) -> Callable[[gguf.GGUFWriter], None]:
    shapes = {one.name: one.shape for one in whole}
    head = first.width // first.heads

    def write(writer: gguf.GGUFWriter) -> None:
        import gguf

        writer.add_type("model")
        writer.add_name(as_text(first.path.stem))
        writer.add_size_label(gguf.size_label(sum(prod(one.shape) for one in whole), 0, 0, 0))
        writer.add_description(f"converted from {first.kind}")
        writer.add_file_type(_FILE_TYPES.get(work.target.lower(), first.file_type))
        writer.add_quantization_version(2)
        writer.add_context_length(settings.context)
        writer.add_embedding_length(first.width)
        writer.add_block_count(first.layers)
        writer.add_feed_forward_length(shapes["blk.0.ffn_gate.weight"][0])
        writer.add_rope_dimension_count(head)
        writer.add_rope_freq_base(settings.theta)
        writer.add_head_count(first.heads)
        writer.add_head_count_kv(shapes["blk.0.attn_k.weight"][0] // head)
        writer.add_layer_norm_rms_eps(settings.epsilon)
        writer.add_vocab_size(first.vocabulary)
        vocabulary.write(writer)
        if work.report.template:
            writer.add_string(KEY, work.report.template)

    return write
