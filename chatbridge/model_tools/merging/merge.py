"""Merges LoRA adapters into their model: alpaca-lora, Chinese-LLaMA and Chinese-Alpaca, and the Plus models' chain.

Arithmetic is in float32, and numbers are rounded once, after the last adapter. The order of adapters with vocabularies
is told by their rows. Reference: ymcui/Chinese-LLaMA-Alpaca, scripts/merge_llama_with_chinese_lora.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chatbridge import __version__
from chatbridge.errors import ModelLoadError
from chatbridge.model_files.sentencepiece_files import read_sentencepiece
from chatbridge.model_files.template_notes import GUESSED
from chatbridge.model_tools.matrices import Matrices
from chatbridge.model_tools.merging.adapted import SIDEWAYS, adapted
from chatbridge.model_tools.merging.llama_layouts import usual_parts
from chatbridge.model_tools.merging.lora import Adapter, norm_of, read_adapter
from chatbridge.model_tools.merging.model_folders import (
    SHARD,
    FolderForm,
    OpenModel,
    check_meta,
    copy_licence,
    copy_template,
    copy_tokenizer,
    open_model,
    size_of,
    small_files,
    write_hub,
    write_meta,
)
from chatbridge.model_tools.merging.perplexity import SENTENCES, encode, perplexity, work
from chatbridge.model_tools.output import check_output, check_space, output_folder
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.model_tools.report import Report, hashed
from chatbridge.model_tools.tables import context_note

WORSE = 10
"""How many times the perplexity may grow before people are warned that the base is another one."""


@dataclass(frozen=True, slots=True)
class Merge:
    """What was merged. `order`: the adapters as they were applied. `before`, `after`: perplexity of three sentences, 0
    where it can't be told. `warnings`: for people, in words."""

    order: Sequence[Path]
    before: float
    after: float
    warnings: Sequence[str]


def merge(
    base: Path,
    adapters: Sequence[Path],
    output: Path,
    form: FolderForm,
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
    check_output(output)
    if parts is not None and form != "meta":
        raise ModelLoadError("--parts is for Meta's form (--to meta); leave it out")
    with ExitStack() as files:
        model = open_model(base, files)
        opened = [read_adapter(path, files) for path in adapters]
        places = [adapter.path.resolve() for adapter in opened]
        if twice := next((place for place in places if places.count(place) > 1), None):
            raise ModelLoadError(f"{twice}: this adapter is given twice; give each once")
        ordered = in_order(opened)
        tensors, rows = adapted(model, ordered, dtype)
        norms = [norm_of(adapter) for adapter in ordered]
        tokenizer = _tokenizer(model, ordered)
        count = parts or (len(model.files) if model.meta else usual_parts(model.sizes) if model.sizes else 1)
        if form == "meta":
            check_meta(model, tensors, rows, count)
        total = size_of(tensors)
        check_space(output, total)
        own = [file for adapter in ordered for file in (adapter.file, adapter.path / "adapter_config.json")]
        report.sources += hashed([*model.files, *own, *small_files(model, tokenizer)], progress)
        _refuse_copies(ordered, report)
        warnings = _told(report, model, opened, ordered, norms, tokenizer, form)
        before, after = _perplexities(model, tensors, progress, warnings) if check else (0.0, 0.0)
        report.step("perplexity", sentences=len(SENTENCES), before=before, after=after, checked=bool(before))
        settings = [model.config, *(adapter.config for adapter in ordered)]
        hashes = [source.sha256 for source in report.sources]
        key = json.dumps([__version__, form, count, dtype, shard, settings, hashes], sort_keys=True, default=str)
        with output_folder(output, key) as folder:
            progress.begin("merging", total)
            if form == "meta":
                write_meta(folder, model, tensors, rows, count, key, progress)
            else:
                write_hub(folder, model, tensors, rows, key, progress, shard)
            if tokenizer is not None:
                copy_tokenizer(tokenizer, folder, form, llama=model.sizes is not None)
            source, report.template = _template(model, ordered, report.template)
            copy_template(source, folder, other=source != model.folder)
            copy_licence(model.folder, folder)
            report.step("written", form=form, parts=count if form == "meta" else 1, bytes=total, warnings=warnings)
            report.write(folder)
    return Merge([adapter.path for adapter in ordered], before, after, warnings)


def _refuse_copies(adapters: Sequence[Adapter], report: Report) -> None:
    """Raise ModelLoadError where two folders hold the same adapter: it would be merged twice."""
    hashes = {source.path: source.sha256 for source in report.sources}
    seen: dict[str, Adapter] = {}
    for adapter in adapters:
        first = seen.setdefault(hashes[str(adapter.file)], adapter)
        if first is not adapter:
            raise ModelLoadError(f"{adapter.path}: this is the adapter in {first.path} once more; give each once")


def in_order(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Those that bring a vocabulary by its rows, the smallest first; the others stay at their places."""
    by_rows = iter(sorted((adapter for adapter in adapters if adapter.rows), key=lambda adapter: adapter.rows))
    return [next(by_rows) if adapter.rows else adapter for adapter in adapters]


def _tokenizer(model: OpenModel, adapters: Sequence[Adapter]) -> Path | None:
    """Where the merged model's tokenizer is: that of the last adapter that brings a vocabulary, else the model's."""
    brought = [adapter.path for adapter in adapters if adapter.rows and adapter.about.tokens]
    return brought[-1] if brought else model.tokenizer


def _template(model: OpenModel, adapters: Sequence[Adapter], given: str) -> tuple[Path, str]:
    """The folder whose chat template the merged model gets, and the preset that its report names, "" for none.

    The last adapter that has a template or names one was trained with that. What is only guessed by an adapter's name
    does not count where the base has a template of its own.
    """
    for adapter in reversed(adapters):
        if adapter.about.preset == "model":
            return adapter.path, given
        if adapter.about.preset and adapter.about.preset_source != GUESSED:
            return model.folder, given or adapter.about.preset
    if model.about.preset == "model":
        return model.folder, given
    guessed = [adapter.about.preset for adapter in reversed(adapters) if adapter.about.preset]
    return model.folder, given or next(iter(guessed), model.about.preset)


# --- what people are told --------------------------------------------------------------------------------------------


def _told(
    report: Report,
    model: OpenModel,
    given: Sequence[Adapter],
    ordered: Sequence[Adapter],
    norms: Sequence[float],
    tokenizer: Path | None,
    form: FolderForm,
) -> list[str]:
    """Write down what is merged; what people should know of it."""
    warnings = []
    names = ", ".join(adapter.path.name for adapter in ordered)
    if list(given) != list(ordered):
        warnings.append(f"the adapters are merged in the order of their vocabularies: {names}")
    report.step("order", adapters=[str(adapter.path) for adapter in ordered], changed=list(given) != list(ordered))
    for adapter, norm in zip(ordered, norms, strict=True):
        about = adapter.about.adapter
        report.step(
            "adapter", path=str(adapter.path), layers=len(adapter.deltas), rank=list(about.rank) if about else [],
            alpha=about.alpha if about else 0, norm=norm, replaces=list(adapter.whole),
            trained_on=about.base if about else "",
        )  # fmt: skip
        warnings += [f"{adapter.path}: {note}" for note in adapter.notes]
        if adapter.config.get("fan_in_fan_out") and model.about.architecture not in SIDEWAYS:
            warnings.append(f"{adapter.path}: fan_in_fan_out is set, and means nothing for this model's layers")
    if form == "hf" and model.meta and model.sizes and "max_seq_len" not in model.config:
        warnings.append(context_note(model.sizes.context))
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
        why = "the model is no LLaMA as Meta's, or lacks its tokenizer.model, or stretches positions"
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
    """The sentences as ids of the base's vocabulary, which a larger one begins with; empty where its logits would not
    be right, or it has no tokenizer that is read here."""
    sizes, folder = model.sizes, model.tokenizer
    if sizes is None or folder is None or not (folder / "tokenizer.model").is_file():
        return []
    rotary = model.config.get("rope_parameters") or model.config.get("rope_scaling")
    stretched = isinstance(rotary, dict) and rotary.get("rope_type", rotary.get("type")) not in (None, "default")
    if sizes.scaled or stretched or not set(model.tensors) <= set(sizes.names):
        return []
    read = read_sentencepiece(folder / "tokenizer.model").pieces[: sizes.rows]
    texts = [encode([(text, score) for text, score, _ in read], sentence) for sentence in SENTENCES]
    return texts if min(map(len, texts)) > 1 else []
