"""What a GLM checkpoint is, told from its files: the configuration, where each tensor lies, and in which form.

Knows the keys of both families and the two layouts on disk: a Hugging Face folder (ChatGLM-6B), and SAT's shards
(GLM-130B), whose tensor-parallel degree is the number of files. Reads no weights by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError, TensorInfo
from chatbridge_glm import files
from chatbridge_glm.config import Config, read_config, sat_config
from chatbridge_glm.files import WeightFile

EMBEDDING = "transformer.word_embeddings"
HEAD = "lm_head"
FINAL_NORM = "transformer.final_layernorm"
PREFIX = "transformer.prefix_encoder."
MATRICES = (
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)

_LAYER = re.compile(r"transformer\.layers\.(\d+)\.")
_NORMS = ("input_layernorm", "post_attention_layernorm")


def layer_key(number: int, name: str) -> str:
    return f"transformer.layers.{number}.{name}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A GLM model in files.

    `files`: in the order in which they are read; where `parallel` is more than 1, each holds a part of every tensor.
    `tensors`: of the whole model, as one of a file's where `parallel` is more than 1. `embedding_bits`: 0, or those of
    a packed embedding. `prefix`: whether it brings a P-Tuning prefix. `anchor`: a token of the vocabulary with its id,
    by which the others' are told; `specials`: control tokens that the vocabulary's file may not have.
    """

    path: Path
    config: Config
    files: Sequence[WeightFile]
    tensors: Mapping[str, TensorInfo]
    parallel: int
    bits: int
    embedding_bits: int
    prefix: bool
    tokenizer: Path
    anchor: tuple[str, int]
    specials: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """Weights of the model, each counted once."""
        config = self.config
        hidden, inner = config.hidden_size, config.inner_hidden_size * (2 if config.glu else 1)
        layer = 3 * hidden * hidden + hidden * hidden + hidden * inner + config.inner_hidden_size * hidden
        biases = 3 * hidden + hidden + inner + hidden + 4 * hidden
        return config.layers * (layer + biases) + config.vocab_size * hidden + 2 * hidden


def read(path: Path, config_file: Path | None = None, tokenizer: Path | None = None) -> Checkpoint:
    """Look at a checkpoint. Raises ModelLoadError for what is none, or not whole."""
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such folder; fetch the model first")
    if path.is_file():
        raise ModelLoadError(f"{path} is a file; name the folder that it is in, which holds the configuration, too")
    if (path / "latest").exists() or list(path.glob("mp_rank_*_model_states.pt")):
        return _read_sat(path, config_file, tokenizer)
    if not (path / "config.json").exists():
        raise ModelLoadError(
            f"{path}: there is neither config.json, as in ChatGLM-6B's folder, nor `latest`, as in GLM-130B's"
        )
    return _read_hub(path, tokenizer)


def _read_hub(path: Path, tokenizer: Path | None) -> Checkpoint:
    config = read_config(path / "config.json")
    found = [files.look(file) for file in files.data_files(path)]
    tensors: dict[str, TensorInfo] = {}
    for file in found:
        tensors.update(file.tensors)
    if EMBEDDING + ".weight" not in tensors and any(name.startswith(PREFIX) for name in tensors):
        raise ModelLoadError(
            f"{path}: this is a P-Tuning prefix and no model; give it under adapters: NAME: prefix:, beside the model "
            "that it was trained on"
        )
    config = _by_rows(config, _checked(path, config, tensors))
    return Checkpoint(
        path=path,
        config=config,
        files=found,
        tensors=tensors,
        parallel=1,
        bits=bits_of(path, tensors, layer_key(0, MATRICES[0]), config.hidden_size),
        embedding_bits=bits_of(path, tensors, EMBEDDING, config.hidden_size),
        prefix=any(name.startswith(PREFIX) for name in tensors),
        tokenizer=tokenizer or path / "ice_text.model",
        anchor=("<sop>", config.sop),
        specials={},
    )


def _by_rows(config: Config, rows: int) -> Config:
    """The configuration for a vocabulary of so many rows, as the weights have them.

    The first ChatGLM-6B had 20,000 tokens of pictures before all others; the "slim" one is without. Where the weights
    were made slim and config.json was left as it was, its ids are too great by just the rows that are missing.
    """
    gone = max(0, config.vocab_size - rows)
    return replace(
        config,
        vocab_size=rows,
        sop=config.sop - gone,
        ends=tuple(end - gone for end in config.ends),
        gmask=config.gmask - gone,
        masks=tuple(mask - gone for mask in config.masks),
    )


def bits_of(path: Path, tensors: Mapping[str, TensorInfo], name: str, width: int) -> int:
    """In how many bits a matrix with `width` columns is packed, told from its shape; 0 where it is not."""
    if f"{name}.weight_scale" not in tensors:
        return 0
    columns = tensors[f"{name}.weight"].shape[1]
    if columns not in (width, width // 2):
        raise ModelLoadError(f"{path}: {name}.weight has {columns} columns for {width} weights; neither 8 nor 4 bits")
    return 8 if columns == width else 4


def _checked(path: Path, config: Config, tensors: Mapping[str, TensorInfo]) -> int:
    """Hold names and shapes against the configuration. Returns the vocabulary's size, which the weights alone know."""
    for name, shape in _wanted(config):
        if name not in tensors:
            raise ModelLoadError(f"{path}: {name} is in none of the files; a part of the download is missing")
        if tensors[name].shape[: len(shape)] != shape:
            raise ModelLoadError(
                f"{path}: {name} has the shape {list(tensors[name].shape)}, and config.json says {list(shape)}: they "
                "do not belong together"
            )
    if (more := _layers_of(tensors)) != config.layers:
        raise ModelLoadError(f"{path}: the files hold {more} layers, and config.json says {config.layers}")
    return tensors[f"{EMBEDDING}.weight"].shape[0]


def _wanted(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a model and how their shapes begin; one by one, since config.json may say any number of layers."""
    hidden, inner = config.hidden_size, config.inner_hidden_size * (2 if config.glu else 1)
    rows = {MATRICES[0]: 3 * hidden, MATRICES[1]: hidden, MATRICES[2]: inner, MATRICES[3]: hidden}
    yield f"{EMBEDDING}.weight", ()
    for end in ("weight", "bias"):
        yield f"{FINAL_NORM}.{end}", (hidden,)
    for number in range(config.layers):
        for end in ("weight", "bias"):
            yield from ((layer_key(number, f"{norm}.{end}"), (hidden,)) for norm in _NORMS)
            yield from ((layer_key(number, f"{name}.{end}"), (rows[name],)) for name in MATRICES)


def _layers_of(names: Mapping[str, Any]) -> int:
    return 1 + max((int(found[1]) for name in names if (found := _LAYER.match(name))), default=-1)


def shards_of(path: Path) -> list[WeightFile]:
    """The shards of a checkpoint in SAT's form, by their ranks. Raises ModelLoadError where they are not all there."""
    folder = path
    if (path / "latest").exists():
        iteration = (path / "latest").read_text(encoding="utf-8").strip()
        folder = path / iteration
        if Path(iteration).name != iteration or not folder.is_dir():
            raise ModelLoadError(f"{path}/latest names {iteration!r}, and there is no such folder")
    shards = sorted(folder.glob("mp_rank_*_model_states.pt"))
    numbers = [int(shard.name.split("_")[2]) for shard in shards]
    if not shards or numbers != [*range(len(shards))]:
        raise ModelLoadError(
            f"{folder}: there are the shards {', '.join(map(str, numbers)) or 'none'}; the ranks count from 0 without "
            "gaps: a part of the download is missing"
        )
    found = [files.look(shard, "module") for shard in shards]
    first = found[0]
    for other in found[1:]:
        if other.tensors != first.tensors:
            raise ModelLoadError(f"{other.path}: its tensors have other shapes than those of {first.path.name}")
    return found


def _read_sat(path: Path, config_file: Path | None, tokenizer: Path | None) -> Checkpoint:
    found = shards_of(path)
    first = found[0]
    values = _values(config_file)
    config = _sat_sizes(path, first.tensors, len(found), values)
    return Checkpoint(
        path=path,
        config=config,
        files=found,
        tensors=first.tensors,
        parallel=len(found),
        bits=bits_of(path, first.tensors, layer_key(0, MATRICES[0]), config.hidden_size),
        embedding_bits=0,
        prefix=False,
        tokenizer=tokenizer or path / "ice_text.model",
        anchor=("</s>", config.ends[-1]),
        specials={
            "[gMASK]": config.masks[0], "[MASK]": config.masks[1], "[sMASK]": config.masks[2], "<sop>": config.sop,
            "<eop>": config.ends[0], "</s>": config.ends[1],
        },
    )  # fmt: skip


def _values(config_file: Path | None) -> Mapping[str, Any]:
    if config_file is None:
        return {}
    try:
        return dict(json.loads(config_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelLoadError(f"config: {config_file} can't be read: {error}") from error


def _sat_sizes(path: Path, tensors: Mapping[str, TensorInfo], parallel: int, values: Mapping[str, Any]) -> Config:
    try:
        layers = _layers_of(tensors)
        vocabulary, hidden = tensors[f"{EMBEDDING}.weight"].shape
        inner = tensors[layer_key(0, "mlp.dense_h_to_4h.bias")].shape[0] * parallel
        turned = tensors.get(layer_key(0, "attention.rotary_emb.inv_freq"))
        heads = hidden // (2 * turned.shape[0]) if turned else int(values.get("num_attention_heads", hidden // 128))
        config = sat_config(layers, hidden, heads, inner // 2, vocabulary * parallel, values)
    except (KeyError, ValueError) as error:
        raise ModelLoadError(f"{path}: this is no GLM-130B: {error} is missing in the shards") from error
    if max(config.sop, *config.ends, *config.masks) >= config.vocab_size:
        raise ModelLoadError(
            f"{path}: its vocabulary has {config.vocab_size} ids, and GLM-130B's control tokens begin at 150000; name "
            "a file with its special_ids by config:"
        )
    return config
