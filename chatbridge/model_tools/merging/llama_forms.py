"""Converts LLaMA between Meta's form and Hugging Face's, without touching a number: other names, another order of rows.

What comes out is a complete folder. Knows the two forms by `model_folders.py`, which reads and writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.converter import Conversion
from chatbridge.model_tools.matrices import Matrices, Matrix, spans
from chatbridge.model_tools.merging.model_folders import (
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
from chatbridge.model_tools.output import check_space, output_folder
from chatbridge.model_tools.report import NOTE, hashed
from chatbridge.model_tools.tables import context_note

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def convert(work: Conversion) -> None:
    """Write the folder. `options["parts"]`: tensor-parallel parts of Meta's form. Raises ModelLoadError."""
    form: FolderForm = "meta" if work.target.lower() == "meta" else "hf"
    parts = work.options.get("parts")
    count = int(parts or 1)
    with ExitStack() as files:
        model = open_model(work.source.path, files)
        tensors = _tensors(model, form)
        _check(model, tensors, form, count, asked=parts is not None)
        check_space(work.output, size_of(tensors))
        work.report.sources.extend(hashed([*model.files, *small_files(model, model.tokenizer)], work.progress))
        key = repr((form, count, [source.sha256 for source in work.report.sources]))
        rows = tensors[_EMBEDDING].shape[0]
        with output_folder(work.output, key) as folder:
            work.progress.begin("writing", size_of(tensors))
            if form == "hf":
                write_hub(folder, model, tensors, rows, key, work.progress)
            else:
                write_meta(folder, model, tensors, rows, count, key, work.progress)
            assert model.tokenizer is not None  # or it was refused
            copy_tokenizer(model.tokenizer, folder, form, llama=True)
            copy_template(model.folder, folder)
            copy_licence(model.folder, folder)
            work.report.step(
                "convert", form=model.about.layout, parts=len(model.files), to=form, parts_made=count,
                tensors=len(tensors), nbytes=size_of(tensors),
            )  # fmt: skip
            if form == "hf" and model.sizes is not None and "max_seq_len" not in model.config:
                work.report.step(NOTE, note=context_note(model.sizes.context))
            work.report.write(folder)


def _check(model: OpenModel, tensors: Matrices, form: FolderForm, count: int, *, asked: bool) -> None:
    """Raises ModelLoadError for what can't be had, or is there already."""
    if form == "hf" and asked:
        raise ModelLoadError("--parts is for Meta's form (--to meta); leave it out")
    same = (model.meta and count == len(model.files)) if form == "meta" else not model.meta
    if same:
        parts = f" in {count} part{'s' * (count != 1)}" if form == "meta" else ""
        raise ModelLoadError(f"{model.folder}: it has that form{parts} already; there is nothing to do")
    if model.tokenizer is None or not (model.tokenizer / "tokenizer.model").is_file():
        raise ModelLoadError(
            f"{model.folder}: there is no tokenizer.model beside it, and without one the folder would not be complete; "
            f"put it there"
        )
    if form == "meta":
        check_meta(model, tensors, tensors[_EMBEDDING].shape[0], count)


def _tensors(model: OpenModel, form: FolderForm) -> Mapping[str, Matrix]:
    """In one order, whatever the source's. A head that is the embedding stands there once in Hugging Face's form."""
    if model.sizes is None:
        raise ModelLoadError(f"{model.folder}: its heads have a width of their own (head_dim); Meta's have not")
    order = {name: number for number, name in enumerate(model.sizes.names)}
    found = {name: model.tensors[name] for name in sorted(model.tensors, key=lambda name: order.get(name, len(order)))}
    said = model.config.get("tie_word_embeddings")
    if not model.meta and said is not True and _HEAD not in found:
        raise ModelLoadError(f"{model.folder}: {_HEAD} is not among its tensors, and by config.json it should be")
    if form == "hf" and _HEAD in found and _alike(found[_EMBEDDING], found[_HEAD]):
        del found[_HEAD]
    if form == "meta" and said is True:
        found[_HEAD] = found[_EMBEDDING]
    return found


def _alike(one: Matrix, other: Matrix) -> bool:
    """Whether two hold the same; ends at the first slice that differs."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return all(np.array_equal(one.read(*span), other.read(*span)) for span in spans(one))
