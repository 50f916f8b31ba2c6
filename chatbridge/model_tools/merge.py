"""Merges LoRA adapters into their model: alpaca-lora, Chinese-LLaMA and Chinese-Alpaca, and the Plus models' chain.

Arithmetic is in float32, and numbers are rounded once, after the last adapter. The order of adapters with vocabularies
is told by their rows. Reference: ymcui/Chinese-LLaMA-Alpaca, scripts/merge_llama_with_chinese_lora.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatbridge import __version__
from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import from_float32
from chatbridge.model_files.families import EMBEDDINGS
from chatbridge.model_files.sentencepiece_files import read_sentencepiece
from chatbridge.model_tools.llama_layouts import usual_parts
from chatbridge.model_tools.lora import VOCABULARY, Adapter, Delta, read_adapter, turned_sideways
from chatbridge.model_tools.matrices import Matrices, Matrix, floats
from chatbridge.model_tools.model_folders import (
    SHARD,
    Form,
    OpenModel,
    check_meta,
    copy_licence,
    copy_template,
    copy_tokenizer,
    open_model,
    size_of,
    write_hub,
    write_meta,
)
from chatbridge.model_tools.output import check_space, output_folder
from chatbridge.model_tools.perplexity import SENTENCES, encode, perplexity, work
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.model_tools.report import Report, hashed

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Array, Floats

WORSE = 10
"""How many times the perplexity may grow before people are warned that the base is another one."""

_SIDEWAYS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Models whose layers lie [in, out]; PEFT goes by the layer's class, and so by this, whatever `fan_in_fan_out` says."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Merge:
    """What was merged. `order`: the adapters as they were applied. `before`, `after`: perplexity of three sentences, 0
    where it can't be told. `warnings`: for people, in words."""

    order: Sequence[Path]
    before: float
    after: float
    warnings: Sequence[str]


@dataclass(slots=True)
class _Change:
    """A tensor while adapters change it."""

    source: Matrix
    dtype: str
    deltas: list[Delta] = field(default_factory=list)


class Merged:
    """A tensor with what adapters add to it; in the type of the model's own."""

    def __init__(self, name: str, change: _Change) -> None:
        self._name, self._source, self._deltas = name, change.source, change.deltas
        self.shape, self.dtype = change.source.shape, change.dtype

    def read(self, first: int, last: int) -> Array:
        """Raises ModelLoadError where the sum is no number that the type can hold."""
        if not self._deltas and self._source.dtype == self.dtype:
            return self._source.read(first, last)
        values = floats(self._source, first, last)
        if self._deltas:
            values = values + self._deltas[0].rows(first, last)
        for delta in self._deltas[1:]:
            values += delta.rows(first, last)
        made = from_float32(values, self.dtype)
        numbers = made.view(np.uint16) & 0x7F80 != 0x7F80 if self.dtype == "bfloat16" else np.isfinite(made)
        if not numbers.all():
            raise ModelLoadError(
                f"{self._name}: merged, it holds numbers that are too large for {self.dtype}, or none; the adapter is "
                f"damaged, or for another model"
            )
        return made

    def parted(self) -> tuple[Matrix, list[tuple[Floats, Floats]]]:
        """See `WithNarrow`."""
        return self._source, [delta.narrow() for delta in self._deltas]


def merge(
    base: Path,
    adapters: Sequence[Path],
    output: Path,
    form: Form,
    *,
    parts: int | None = None,
    dtype: str | None = None,
    check: bool = True,
    shard: int = SHARD,
    progress: WorkProgress | None = None,
    report: Report | None = None,
) -> Merge:
    """Merge adapters into the model at `base`, and write a complete folder.

    `parts`: tensor-parallel parts of Meta's form; unless given, as many as the base has or Meta published. `dtype`: of
    what is written, as torch calls it; unless given, that of each of the base's tensors. `check`: compute the
    perplexity of three sentences before and after. `shard`: bytes of a file in Hugging Face's form. Goes on where a
    run that was killed has ended. Raises ModelLoadError for what does not fit, before anything is written.
    """
    progress = progress or Silent()
    report = report or Report(f"model merge {base} {' '.join(map(str, adapters))} -o {output} --to {form}")
    if output.exists() or output.is_symlink():
        raise ModelLoadError(f"{output}: it is there already; name another output, or delete it")
    if parts is not None and form != "meta":
        raise ModelLoadError("parts are for Meta's form (--to meta)")
    with ExitStack() as files:
        model = open_model(base, files)
        opened = [read_adapter(path, files) for path in adapters]
        if len({adapter.path.resolve() for adapter in opened}) < len(opened):
            raise ModelLoadError("an adapter is given twice; give each once")
        ordered = in_order(opened)
        tensors, rows = merged(model, ordered, dtype)
        tokenizer = _tokenizer(model, ordered)
        count = parts or (len(model.files) if model.meta else usual_parts(model.sizes) if model.sizes else 1)
        if form == "meta":
            check_meta(model, tensors, rows, count)
        total = size_of(tensors)
        check_space(output, total)
        report.sources += hashed([*model.files, *(adapter.file for adapter in ordered)], progress)
        warnings = _told(report, model, opened, ordered, tokenizer)
        before, after = _perplexities(model, tensors, progress, warnings) if check else (0.0, 0.0)
        report.step("perplexity", sentences=len(SENTENCES), before=before, after=after, checked=bool(before))
        key = repr((__version__, form, count, dtype, shard, [source.sha256 for source in report.sources]))
        with output_folder(output, key) as folder:
            progress.begin("merging", total)
            if form == "meta":
                write_meta(folder, model, tensors, rows, count, key, progress)
            else:
                write_hub(folder, model, tensors, rows, key, progress, shard)
            if tokenizer is not None:
                copy_tokenizer(tokenizer, folder, form, llama=model.sizes is not None)
            copy_template(model.folder, folder)
            copy_licence(model.folder, folder)
            report.step("written", form=form, parts=count if form == "meta" else 1, bytes=total, warnings=warnings)
            report.write(folder)
    return Merge([adapter.path for adapter in ordered], before, after, warnings)


def in_order(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Those that bring a vocabulary by its rows, the smallest first; the others stay at their places."""
    by_rows = iter(sorted((adapter for adapter in adapters if adapter.rows), key=lambda adapter: adapter.rows))
    return [next(by_rows) if adapter.rows else adapter for adapter in adapters]


def merged(model: OpenModel, adapters: Sequence[Adapter], dtype: str | None = None) -> tuple[dict[str, Merged], int]:
    """The model's tensors with all adapters in them, to be computed when they are read; and the vocabulary's rows.

    Raises ModelLoadError for an adapter of another model.
    """
    changes = {
        name: _Change(matrix, dtype if dtype and matrix.dtype in _FLOATS else matrix.dtype)
        for name, matrix in model.tensors.items()
    }
    for adapter in adapters:
        _check_vocabulary(model, adapter, changes)
        for name, tensor in adapter.whole.items():
            found = _found(model, adapter, name, changes, or_head=True)
            kept = changes[found].dtype if found in changes else dtype or tensor.dtype
            changes[found] = _Change(tensor, _float(adapter.path, found, kept))
        for name, delta in adapter.deltas.items():
            found = _found(model, adapter, name, changes)
            change, given = changes[found], delta
            if model.about.architecture in _SIDEWAYS:
                given = turned_sideways(delta)
            if change.source.shape != given.shape:
                raise ModelLoadError(
                    f"{adapter.path}: the adapter is for another model: its {name} has the shape {list(given.shape)}, "
                    f"and that of {model.folder} {list(change.source.shape)}; take the model that it was trained on"
                )
            _float(model.folder, found, change.dtype)
            change.deltas.append(given)
    tensors = {name: Merged(name, change) for name, change in changes.items()}
    return tensors, _rows(changes)


def _found(
    model: OpenModel, adapter: Adapter, name: str, changes: Mapping[str, _Change], *, or_head: bool = False
) -> str:
    """What the model calls a tensor that an adapter changes: some models are published without the first word."""
    for found in (name, name.partition(".")[2]):
        if found in changes:
            return found
    if or_head and name == "lm_head.weight":  # the embedding is the head of the model, and no longer
        return name
    sizes = f"{model.about.family or 'a model'}, {model.about.layers} layers with a width of {model.about.width:,}"
    raise ModelLoadError(
        f"{adapter.path}: the adapter changes {name:.200}, which {model.folder} ({sizes}) does not have; take the "
        f"model that it was trained on"
    )


def _float(path: Path, name: str, dtype: str) -> str:
    if dtype not in _FLOATS:
        raise ModelLoadError(
            f"{path}: {name:.200} has numbers of {dtype}: it is quantised; take the model in float16, merge, and "
            f"quantise what comes out"
        )
    return dtype


# --- vocabularies ----------------------------------------------------------------------------------------------------


def _rows(changes: Mapping[str, _Change]) -> int:
    return next((one.source.shape[0] for name, one in changes.items() if name.endswith(EMBEDDINGS)), 0)


def _check_vocabulary(model: OpenModel, adapter: Adapter, changes: Mapping[str, _Change]) -> None:
    """That an adapter's vocabulary goes with the model's, and with the tokenizer beside it."""
    rows, present = adapter.rows, _rows(changes)
    for name, tensor in adapter.whole.items():
        there = changes.get(name) or changes.get(name.partition(".")[2])
        if there is None:
            continue
        ours, theirs = there.source.shape, tensor.shape
        if len(ours) != len(theirs) or ours[1:] != theirs[1:] or (not name.endswith(VOCABULARY) and ours != theirs):
            raise ModelLoadError(
                f"{adapter.path}: the adapter is for another model: its {name} has the shape {list(theirs)}, and that "
                f"of {model.folder} {list(ours)}; take the model that it was trained on"
            )
    if not rows:
        return
    if rows < present:
        raise ModelLoadError(
            f"{adapter.path}: this adapter is for a vocabulary of {rows:,} ids, and the model has {present:,} by then: "
            f"it is for another model, or its work is in the model already"
        )
    tokens = adapter.about.tokens
    if tokens != rows and (tokens or rows != present):
        what = f"its tokenizer has {tokens:,} ids" if tokens else "there is no tokenizer beside it"
        raise ModelLoadError(
            f"{adapter.path}: its embedding has {rows:,} rows, and {what}; each adapter has a tokenizer of its own: "
            f"take the one that was published with it"
        )
    brought = {name.endswith(EMBEDDINGS) for name in adapter.whole if name.endswith(VOCABULARY)}
    tied = not any(name.endswith(VOCABULARY) and not name.endswith(EMBEDDINGS) for name in changes)
    if rows > present and len(brought) < 2 and not (tied and True in brought):
        raise ModelLoadError(
            f"{adapter.path}: its vocabulary has {rows:,} ids, the model's {present:,}, and it brings only one of the "
            f"two matrices that would have to grow (embed_tokens, lm_head)"
        )


def _tokenizer(model: OpenModel, adapters: Sequence[Adapter]) -> Path | None:
    """Where the merged model's tokenizer is: that of the last adapter that brings a vocabulary, else the model's."""
    brought = [adapter.path for adapter in adapters if adapter.rows and adapter.about.tokens]
    return brought[-1] if brought else model.tokenizer


# --- what people are told --------------------------------------------------------------------------------------------


def _told(
    report: Report, model: OpenModel, given: Sequence[Adapter], ordered: Sequence[Adapter], tokenizer: Path | None
) -> list[str]:
    """Write down what is merged; what people should know of it."""
    warnings = []
    names = ", ".join(adapter.path.name for adapter in ordered)
    if list(given) != list(ordered):
        warnings.append(f"the adapters are merged in the order of their vocabularies: {names}")
    report.step("order", adapters=[str(adapter.path) for adapter in ordered], changed=list(given) != list(ordered))
    for adapter in ordered:
        about = adapter.about.adapter
        report.step(
            "adapter", path=str(adapter.path), layers=len(adapter.deltas), rank=list(about.rank) if about else [],
            alpha=about.alpha if about else 0, norm=adapter.norm, replaces=list(adapter.whole),
            trained_on=about.base if about else "",
        )  # fmt: skip
        warnings += [f"{adapter.path}: {note}" for note in adapter.notes]
        if adapter.config.get("fan_in_fan_out") and model.about.architecture not in _SIDEWAYS:
            warnings.append(f"{adapter.path}: fan_in_fan_out is set, and means nothing for this model's layers")
    if tokenizer is None:
        warnings.append("there is no tokenizer beside the model: put its files into the folder")
    return warnings


def _perplexities(
    model: OpenModel, tensors: Matrices, progress: WorkProgress, warnings: list[str]
) -> tuple[float, float]:
    """Of three sentences, before and after; zeros where they can't be told, which is a warning, too."""
    sizes = model.sizes
    texts = _texts(model)
    if sizes is None or not texts:
        why = "the model is no LLaMA, or lacks its tokenizer.model, or stretches positions"
        warnings.append(f"no perplexity was computed: {why}; talk to the result before you trust it")
        return 0.0, 0.0
    progress.begin("trying three sentences before", work(model.tensors, sizes))
    before = perplexity(model.tensors, sizes, texts, progress)
    progress.begin("trying three sentences after", work(tensors, sizes))
    after = perplexity(tensors, sizes, texts, progress)
    if not after < WORSE * before:
        warnings.append(
            f"the perplexity of three sentences is {after:,.1f} after merging, and was {before:,.1f}: the adapter was "
            f"most likely trained on another model, or one that it builds on is missing"
        )
    return before, after


def _texts(model: OpenModel) -> list[list[int]]:
    """The sentences as ids of the base's vocabulary, which a larger one begins with."""
    if model.sizes is None or model.tokenizer is None or not (model.tokenizer / "tokenizer.model").is_file():
        return []
    if model.config.get("rope_scaling"):
        return []
    read = read_sentencepiece(model.tokenizer / "tokenizer.model").pieces[: model.sizes.rows]
    pieces = [(text, score) for text, score, _ in read]
    texts = [encode(pieces, sentence) for sentence in SENTENCES]
    return texts if min(map(len, texts)) > 1 else []
