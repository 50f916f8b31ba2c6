"""Models opened and written as folders, in Hugging Face's form or Meta's: weights, settings, tokenizer, template.

What is opened is seen by Hugging Face's names, whatever form it has. Reads and writes weights slice by slice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import Weights
from chatbridge.model_files.description import ModelDescription, at
from chatbridge.model_files.inspect import sound_model
from chatbridge.model_files.reading import files_in, read_json_object, weight_files
from chatbridge.model_files.tokenizer_files import chat_template_in
from chatbridge.model_tools.matrices import Matrices, nbytes, to_write
from chatbridge.model_tools.merging.llama_layouts import (
    TOKENIZER_FILES,
    LlamaSizes,
    check_for_meta,
    config_for,
    from_meta,
    params_for,
    sizes_of,
    to_meta,
)
from chatbridge.model_tools.output import NewTensor, write_tensors
from chatbridge.model_tools.progress import WorkProgress
from chatbridge.model_tools.safetensors_file import SafetensorsFile
from chatbridge.model_tools.torch_file import TorchFile
from chatbridge.operations.printable import as_json

FolderForm = Literal["hf", "meta"]

SHARD = 5_000_000_000
"""Bytes that a file of weights in Hugging Face's form has at most, but for one tensor that is larger."""

_TOKENIZER = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_DROPPED = (".rotary_emb.inv_freq",)
"""Ends of names of what programs compute anew."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model whose files are open. `folder`: where they are; `config`: config.json or params.json.

    `tensors`: by Hugging Face's names; `sizes`: of a LLaMA, None for any other. `tokenizer`: the folder of it, if any.
    """

    folder: Path
    about: ModelDescription
    files: Sequence[Path]
    config: Mapping[str, Any]
    tensors: Matrices
    sizes: LlamaSizes | None
    tokenizer: Path | None

    @property
    def meta(self) -> bool:
        """Whether it is in Meta's form."""
        return self.about.layout == "meta"


def open_model(path: Path, files: ExitStack) -> OpenModel:
    """The model at a path, open as long as `files` is. Raises ModelLoadError for one that is not sound, or in neither
    form."""
    about = sound_model(path)
    if about.layout not in ("huggingface", "meta"):
        if about.layout == "peft":
            raise ModelLoadError(f"{about.path}: this is an adapter; give the model first, and its adapters behind it")
        what = about.family or about.format or "a model"
        raise ModelLoadError(
            f"{about.path}: this is {what} ({about.layout or 'no whole model'}); give a folder in Hugging Face's form "
            f"(config.json) or Meta's (consolidated.*.pth)"
        )
    folder = about.path
    try:
        return _open_meta(about, files) if about.layout == "meta" else _open_hub(about, files)
    except ModelLoadError as error:
        raise ModelLoadError(at(folder, str(error))) from error


def _open_hub(about: ModelDescription, files: ExitStack) -> OpenModel:
    folder = about.path
    paths = weight_files(folder)
    weights = files.enter_context(Weights.of_files(paths))
    tensors = {name: tensor for name, tensor in weights.items() if not name.endswith(_DROPPED)}
    config = read_json_object(folder / "config.json")
    sizes = sizes_of(config, tensors) if _usual(about, config) else None
    return OpenModel(folder, about, paths, config, tensors, sizes, folder if about.tokens else None)


def _usual(about: ModelDescription, config: Mapping[str, Any]) -> bool:
    """Whether it is a LLaMA whose heads share its width, as in all that Meta has published."""
    width, heads, own = (config.get(name) for name in ("hidden_size", "num_attention_heads", "head_dim"))
    odd = isinstance(own, int) and isinstance(width, int) and isinstance(heads, int) and own * heads != width
    return about.architecture == "llama" and not odd


def _open_meta(about: ModelDescription, files: ExitStack) -> OpenModel:
    folder = about.path
    if not (folder / "params.json").exists():
        raise ModelLoadError(f"{folder}: there is no params.json; download it from where the weights are")
    params = read_json_object(folder / "params.json")
    paths = [file for file in files_in(folder) if file.match("consolidated.*.pth")]
    parts = [files.enter_context(Weights.of_files([file])) for file in paths]
    tensors = from_meta(parts, params)
    beside = next((place for place in (folder, folder.parent) if (place / "tokenizer.model").is_file()), None)
    return OpenModel(folder, about, paths, params, tensors, sizes_of(params, tensors), beside)


def small_files(model: OpenModel, tokenizer: Path | None) -> list[Path]:
    """What is read of a model besides weights: its settings, and its tokenizer in that folder."""
    settings = model.folder / ("params.json" if model.meta else "config.json")
    beside = [tokenizer / name for name in _TOKENIZER] if tokenizer is not None else []
    return [settings, *(file for file in beside if file.is_file())]


def size_of(tensors: Matrices) -> int:
    """Bytes of all tensors."""
    return sum(map(nbytes, tensors.values()))


# --- writing ---------------------------------------------------------------------------------------------------------


def write_hub(
    folder: Path, model: OpenModel, tensors: Matrices, rows: int, key: str, progress: WorkProgress, shard: int = SHARD
) -> None:
    """The weights and settings of a model in Hugging Face's form. `model`: what it was made from; `tensors`: what is
    written; `rows`: of its vocabulary; `shard`: bytes of a file. Files that are there already are whole. Raises
    ModelLoadError."""
    shards = _shards([to_write(name, matrix) for name, matrix in tensors.items()], shard)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    )
    for name, own in zip(names, shards, strict=True):
        _write_file(folder / name, SafetensorsFile(own), own, key, progress)
    if len(shards) > 1:
        placed = {tensor.name: name for name, own in zip(names, shards, strict=True) for tensor in own}
        total = sum(tensor.nbytes for own in shards for tensor in own)
        _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": placed})
    _json(folder / "config.json", _config(model, tensors, rows))
    if not _copied(model.folder, folder, ("generation_config.json",)) and model.sizes:
        given = TOKENIZER_FILES["generation_config.json"]
        _json(folder / "generation_config.json", {name: model.config.get(name, given[name]) for name in given})


def write_meta(
    folder: Path, model: OpenModel, tensors: Matrices, rows: int, count: int, key: str, progress: WorkProgress
) -> None:
    """The weights and settings of a LLaMA in Meta's form, in `count` parts. Raises ModelLoadError."""
    sizes = _llama(model, rows)
    for number, part in enumerate(to_meta(tensors, sizes, count)):
        shard = [to_write(name, matrix) for name, matrix in part.items()]
        _write_file(folder / f"consolidated.{number:02}.pth", TorchFile(shard), shard, key, progress)
    params = dict(model.config) if model.meta else params_for(sizes)
    unlike = not model.meta and sizes == model.sizes and model.about.tokens not in (0, rows)
    params["vocab_size"] = rows if unlike or params.get("vocab_size", -1) not in (-1, None) else -1
    _json(folder / "params.json", params)


def check_meta(model: OpenModel, tensors: Matrices, rows: int, count: int) -> None:
    """Raise ModelLoadError where that can't be written."""
    sizes = _llama(model, rows)
    try:
        to_meta(tensors, sizes, count)
        if not model.meta:
            check_for_meta(model.config, sizes, tensors)
    except ModelLoadError as error:
        raise ModelLoadError(at(model.folder, str(error))) from error


def copy_tokenizer(source: Path, folder: Path, form: FolderForm, *, llama: bool) -> None:
    """The files of a tokenizer, with the settings that Hugging Face's form needs and Meta's lacks."""
    _copied(source, folder, _TOKENIZER)
    if form == "hf" and llama and not (folder / "tokenizer.json").exists():
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if not (folder / name).exists():
                _json(folder / name, TOKENIZER_FILES[name])


def copy_template(source: Path, folder: Path, *, other: bool = False) -> None:
    """A model's chat template, where none has come with the tokenizer. `other`: in the place of what has, too."""
    if (other or not chat_template_in(folder)) and (template := chat_template_in(source)):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def copy_licence(source: Path, folder: Path) -> None:
    """What says under which terms a model is published."""
    _copied(source, folder, [file.name for file in files_in(source) if file.name.upper().startswith("LICENSE")])


def _llama(model: OpenModel, rows: int) -> LlamaSizes:
    if model.sizes is None:
        what = model.about.family or "model"
        raise ModelLoadError(f"{model.folder}: this {what} has no form of Meta's; make Hugging Face's (--to hf)")
    return replace(model.sizes, rows=rows)


def _config(model: OpenModel, tensors: Matrices, rows: int) -> dict[str, Any]:
    dtype = max(tensors.values(), key=nbytes).dtype
    if model.meta:
        return config_for(_llama(model, rows), dtype) | {"tie_word_embeddings": "lm_head.weight" not in tensors}
    written = dict(model.config)
    if rows != model.about.vocabulary:
        written["vocab_size"] = rows
    written["dtype" if "dtype" in written else "torch_dtype"] = dtype
    if written.get("tie_word_embeddings") is True and "lm_head.weight" in tensors:
        written["tie_word_embeddings"] = False
    return written


def _shards(tensors: Sequence[NewTensor], most: int) -> list[list[NewTensor]]:
    shards: list[list[NewTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(one.nbytes for one in shards[-1]) + tensor.nbytes > most:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _write_file(
    path: Path, container: SafetensorsFile | TorchFile, shard: Sequence[NewTensor], key: str, progress: WorkProgress
) -> None:
    if path.exists():  # by a run that was killed
        progress.advance(sum(tensor.nbytes for tensor in shard))
    else:
        write_tensors(path, container, shard, key, progress)


def _copied(source: Path, folder: Path, names: Sequence[str]) -> int:
    """Copies those files that are there; how many."""
    there = [name for name in names if (source / name).is_file()]
    for name in there:
        shutil.copyfile(source / name, folder / name)
    return len(there)


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(as_json(value, 2) + "\n", encoding="utf-8")
