"""Describes GGUF files, of any architecture and in any number of parts, and llama.cpp's files from before them.

Reads headers alone; what `gguf.py` and `ggml.py` read is put into the words of a description here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatbridge.model_files.chat_templates import chat_template_of
from chatbridge.model_files.description import disagreement
from chatbridge.model_files.drafts import AGAIN, Draft
from chatbridge.model_files.families import LLAMA_ROWS
from chatbridge.model_files.ggml import GgmlFile, read_ggml
from chatbridge.model_files.reading import missing
from chatbridge.model_files.template_notes import KEY

if TYPE_CHECKING:
    from chatbridge.model_files.gguf import GgufHeader

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_BLOCK = re.compile(r"(?:\w+\.)?blk\.(\d{1,6})\.")
_SPOKEN = {"llama": "LLaMA", "bloom": "BLOOM", "chatglm": "ChatGLM"}
_CONTROL, _USER_DEFINED = 3, 4
_KEYS = {"layers": "block_count", "width": "embedding_length", "heads": "attention.head_count",
         "inner": "feed_forward_length", "context": "context_length"}  # fmt: skip
_SIZES = {"block_count": True, "context_length": True, "embedding_length": True, "feed_forward_length": False,
          "attention.head_count": False, "attention.key_length": False, "attention.value_length": False,
          "rope.dimension_count": False}  # fmt: skip
"""Sizes in a model's metadata, and whether each model has one."""

_ANEW = "download or convert it again"
_MAX_PARTS = 1000
_ALIASES = ("general.basename", "general.finetune", "general.base_model.0.name")


def describe_gguf(draft: Draft) -> None:
    """A GGUF file, or one part of several."""
    from chatbridge.model_files.gguf import GgufHeader

    paths = _parts(draft)
    headers: list[GgufHeader] = []
    for path in paths:
        if path.exists() and (header := draft.attempt(_header, path, GgufHeader)) is not None:
            headers.append(header)
    draft.facts |= {
        "layout": "gguf",
        "format": f"GGUF, {len(paths)} file{'s' * (len(paths) != 1)}",
        "files": len(paths),
        "nbytes": sum(header.size for header in headers),
    }
    if not headers:
        return
    metadata, architecture = headers[0].metadata, headers[0].architecture[:100]
    draft.facts |= {
        "architecture": architecture,
        "family": _SPOKEN.get(architecture, architecture),
        "parameters": sum(tensor.size for header in headers for tensor in header.tensors.values()),
        "quantization": _quantization(headers),
        **{ours: _natural(headers[0].number(key)) for ours, key in _KEYS.items()},
    }
    if name := _word(metadata, "general.name"):
        draft.details["name"] = name[:200]
    draft.noted = _word(metadata, KEY)
    draft.aliases += [_word(metadata, key)[:200] for key in _ALIASES]
    _check_kind(draft, headers, architecture)
    _check_layers(draft, headers, architecture)
    _check_values(draft, headers, architecture)
    if draft.facts["layout"] == "gguf":
        _vocabulary(draft, headers)


def describe_ggml(draft: Draft) -> None:
    """A file from before GGUF."""
    found = draft.attempt(read_ggml, draft.path)
    draft.facts |= {"layout": "ggml", "family": "LLaMA", "format": "GGML, from before GGUF", "files": 1}
    if found is None:
        return
    draft.facts |= {"format": f"{found.kind}, from before GGUF", "nbytes": found.size}
    if found.program:
        draft.details["written for"] = found.program
        draft.facts |= {"layout": "ggml-other", "family": ""}
        return
    _describe_old(draft, found)


def _describe_old(draft: Draft, found: GgmlFile) -> None:
    parameters = sum(prod(tensor.shape) for tensor in found.tensors.values())
    draft.facts |= {
        "family": "LLaMA",
        "architecture": "llama",
        "variant": LLAMA_ROWS.get(found.vocabulary, ""),
        "parameters": parameters,
        "layers": found.layers,
        "width": found.width,
        "heads": found.heads,
        "vocabulary": found.vocabulary,
        "tokens": found.vocabulary,
        "tokenizer": "in the file",
        "quantization": ", ".join(kind for kind, _ in Counter(found.types).most_common(3)),
    }
    first = found.tensors.get("tok_embeddings.weight")
    embedding = first.shape if first else (found.vocabulary, found.width)
    if embedding[-1] < found.width and found.width % embedding[-1] == 0:
        parts = found.width // embedding[-1]
        others = range(1, min(parts, _MAX_PARTS))
        names = [draft.path, *(draft.path.with_name(f"{draft.path.name}.{number}") for number in others)]
        draft.details["parts"] = f"{parts:,} files, of which this is one"
        if gone := missing(names):
            draft.say("error", f"the model has {parts:,} parts, and {gone}", "download all of them into this folder")
    elif embedding != (found.vocabulary, found.width):
        told = disagreement("vocabulary", ("the header", found.vocabulary), ("the embedding", embedding[0]))
        draft.say("error", told, AGAIN)
    layers = {int(name.split(".")[1]) for name in found.tensors if re.match(r"layers\.\d{1,6}\.", name)}
    if len(layers) != found.layers:
        told = disagreement("layers", ("the header", found.layers), ("the tensors", len(layers)))
        draft.say("error", told, "download it again")


def _header(path: Path, kind: type[GgufHeader]) -> GgufHeader:
    return kind(path, reader="this")


def _parts(draft: Draft) -> list[Path]:
    """All files of a model in parts, those that are missing, too."""
    found = _PART.fullmatch(draft.path.name)
    if found is None:
        return [draft.path]
    count = min(int(found[3]), _MAX_PARTS)
    parts = [draft.path.with_name(f"{found[1]}-{number:05}-of-{found[3]}.gguf") for number in range(1, count + 1)]
    if gone := missing(parts):
        draft.say("error", f"the model has {int(found[3])} parts, and {gone}", "download all of them into one folder")
        draft.whole = False
    return parts


def _check_kind(draft: Draft, headers: list[GgufHeader], architecture: str) -> None:
    metadata = headers[0].metadata
    kind = _word(metadata, "general.type")
    if kind == "adapter":
        draft.facts |= {"layout": "gguf-adapter", "family": f"LoRA adapter for {draft.facts['family']}"}
        tensors = [tensor for header in headers for tensor in header.tensors.values()]
        ranks = sorted({tensor.shape[0] for tensor in tensors if tensor.name.endswith("lora_a")})
        draft.details["rank"] = ", ".join(map(str, ranks[:10])) or "not told"
        if not ranks:
            draft.say("error", "it has no LoRA matrices: it has no effect", "convert it again")
        alpha = metadata.get("adapter.lora.alpha")
        if ranks and not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
            told = f"adapter.lora.alpha is {alpha!r:.60}, and should be a number above 0"
            draft.say("error", told, "convert it again")
    elif kind == "mmproj" or architecture == "clip":
        draft.facts |= {"layout": "gguf-pictures", "family": "the picture part of a model"}
        draft.say("warning", "this is the picture part of a model", "give the file of its text part")
    elif not architecture:
        draft.say("error", "its metadata lack general.architecture", _ANEW)
    count = metadata.get("split.count")
    if isinstance(count, int) and count > 1 and not _PART.fullmatch(draft.path.name):
        told = f"it is one of {count:,} parts, and its name does not say which"
        draft.say("error", told, "give the parts their names back, as NAME-00001-of-00003.gguf")
        draft.whole = False


def _check_layers(draft: Draft, headers: list[GgufHeader], architecture: str) -> None:
    names = (name for header in headers for name in header.tensors)
    numbers = {int(found[1]) for name in names if (found := _BLOCK.match(name))}
    said = draft.facts["layers"]
    if draft.facts["layout"] == "gguf" and draft.whole and said and (len(numbers) < said):
        told = disagreement("layers", ("the metadata", said), ("the tensors", len(numbers)))
        draft.say("error" if architecture in _SPOKEN else "warning", told, _ANEW)


def _check_values(draft: Draft, headers: list[GgufHeader], architecture: str) -> None:
    """What any program that loads it would stumble over: sizes that are none, and numbers that are none."""
    metadata = headers[0].metadata
    if draft.facts["layout"] != "gguf" or not architecture:
        return
    for key, value in metadata.items():
        if isinstance(value, float) and not (math.isfinite(value) and (value >= 0 or "epsilon" not in key)):
            draft.say("error", f"{key:.100} is {value}", _ANEW)
    if not isinstance(named := metadata["general.architecture"], str):
        draft.say("error", f"general.architecture is {named!r:.60}, and should be a word", _ANEW)
        return
    for key, needed in _SIZES.items():
        value = metadata.get(f"{architecture}.{key}")
        if value is None and needed:
            draft.say("error", f"its metadata lack {architecture}.{key}", _ANEW)
        elif value is not None and not _is_size(value, one=needed):
            told = f"{architecture}.{key} is {value!r:.60}, and should be a whole number above 0"
            draft.say("error", told, _ANEW)
    embedding = next((found for one in headers if (found := one.tensors.get("token_embd.weight")) is not None), None)
    said = draft.facts["width"]
    if embedding is not None and said and embedding.shape[-1] != said:
        draft.say("error", disagreement("width", ("the metadata", said), ("the weights", embedding.shape[-1])), _ANEW)


def _is_size(value: object, *, one: bool) -> bool:
    """`one`: it can't differ from layer to layer, where 0 stands for layers that have none."""
    if not one and getattr(value, "ndim", 0) == 1:
        numbers: Any = value
        return numbers.dtype.kind in "iu" and bool((numbers >= 0).all() and (numbers > 0).any())
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _vocabulary(draft: Draft, headers: list[GgufHeader]) -> None:
    from chatbridge.model_files.gguf import GgufStrings

    metadata = headers[0].metadata
    embeddings = [header.tensors["token_embd.weight"] for header in headers if "token_embd.weight" in header.tensors]
    rows = embeddings[0].shape[0] if embeddings else 0
    tokens = metadata.get("tokenizer.ggml.tokens")
    draft.facts |= {"vocabulary": rows, "variant": LLAMA_ROWS.get(rows, "")}
    if not isinstance(tokens, GgufStrings) or not tokens.count:
        draft.say("error", "the file has no tokenizer", "get one that was converted with its vocabulary")
        return
    for key in ("scores", "token_type"):
        value: Any = metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and (getattr(value, "ndim", 0) != 1 or len(value) != tokens.count):
            told = f"tokenizer.ggml.{key} is no list of {tokens.count:,} numbers, one for each token"
            draft.say("error", told, _ANEW)
    draft.facts |= {"tokens": tokens.count, "tokenizer": _word(metadata, "tokenizer.ggml.model")[:50]}
    if rows and tokens.count > rows:
        told = disagreement("vocabulary", ("the tokenizer", tokens.count), ("the weights", rows))
        draft.say("error", told, "convert it again, with the tokenizer of these weights")
    draft.template = chat_template_of(metadata).source
    draft.facts["chat_template"] = bool(draft.template)
    kinds: Any = metadata.get("tokenizer.ggml.token_type")
    if getattr(kinds, "ndim", 0) == 1 and len(kinds) == tokens.count:
        special = {int(number) for number in ((kinds == _CONTROL) | (kinds == _USER_DEFINED)).nonzero()[0][:1000]}
        draft.specials = {
            token[:200].decode("utf-8", "replace"): number for number, token in enumerate(tokens) if number in special
        }


def _quantization(headers: list[GgufHeader]) -> str:
    """The types of the tensors, by how many bytes are of each."""
    kinds: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors.values():
            kinds[tensor.kind] += tensor.nbytes
    return ", ".join(kind for kind, _ in kinds.most_common(3))


def _word(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key)
    return value if isinstance(value, str) else ""


def _natural(number: float) -> int:
    return int(number) if 0 < number < 1 << 31 else 0
