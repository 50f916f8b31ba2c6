"""Describes models whose weights are torch's or safetensors files, in each form that projects publish them.

Hugging Face's folders, Meta's shards, SAT's shards (GLM-130B), and single files (RWKV). What differs by family stands
in `families.py`; here is what differs by form. Reads headers alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatbridge.model_files.config_values import model_faults
from chatbridge.model_files.description import Severity, disagreement, listed
from chatbridge.model_files.drafts import AGAIN, Draft
from chatbridge.model_files.families import GENERIC, Family
from chatbridge.model_files.reading import WHOLE, expected_files, files_in, missing, read_json_object
from chatbridge.model_files.shapes import Sizes, Tensors, family_of, from_config, measure, uneven_layers, without_prefix
from chatbridge.model_files.tensors import TensorFile

_PREFIX = "prefix_encoder.embedding.weight"
_MAX_PARTS = 1000
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_ALL_FILES = "download all of them into this folder"


def describe_hub(draft: Draft) -> None:
    """A folder with config.json."""
    config = _settings(draft, "config.json")
    files = draft.attempt(expected_files, draft.path) or []
    if gone := missing(files):
        draft.say("error", f"the weights have {len(files)} parts, and {gone}", _ALL_FILES)
    elif len(files) > 1 and not any((draft.path / f"{name}.index.json").exists() for name in WHOLE):
        told = f"{files[0].name} is there, and the index of the parts is not"
        severity: Severity = "error" if _layout(draft.path, config) == "huggingface" else "note"
        draft.say(severity, told, "download its …index.json, too")
    headers = draft.read(files)
    _check_index(draft, headers)
    if not files and not any(problem.severity == "error" for problem in draft.problems):
        draft.say("error", "there are no weights here", _no_weights(draft.path))
    tensors, aliases = _merged(headers)
    kind = str(config.get("model_type") or "")[:50]
    draft.aliases.append(str(config.get("_name_or_path") or "")[:200])
    if any(name.endswith(_PREFIX) for name in tensors) and not any("embeddings." in name for name in tensors):
        return _describe_prefix(draft, tensors, config)
    draft.facts |= {"layout": _layout(draft.path, config), "family": _spoken(kind), "architecture": kind}
    family = family_of(tensors, (draft.facts["layout"],)) or GENERIC
    even = bool(family.name)
    if kind not in ("", family.architecture) and family.architecture:
        even = False  # others with these names may have experts in some layers, or no keys
        family = _renamed(family, kind)  # a family with LLaMA's names, as Mistral's
    named = without_prefix(family, tensors)
    sizes = measure(family, [named], {name.removeprefix(family.prefix) for name in aliases})
    more = config.get("num_nextn_predict_layers")  # layers behind the last that guess tokens, as DeepSeek-V3's
    if isinstance(more, int) and more > 0 and sizes.layers - more == from_config(config).get("layers"):
        sizes = replace(sizes, numbers=tuple(n for n in sizes.numbers if n < sizes.layers - more))
    draft.measured(family, sizes)
    draft.quantized(sizes, [named], config)
    bits = config.get("quantization_bit")
    if isinstance(bits, int) and bits and sizes.bits and bits != sizes.bits:
        draft.say("error", disagreement("bits", ("config.json", bits), ("the shapes", sizes.bits)), AGAIN)
    draft.against("config.json", from_config(config), sizes, vocabulary="note" if kind == "chatglm" else "error")
    if even:
        _check_heads(draft, config, named, sizes)
    if even and draft.whole and (lost := uneven_layers(family, named)):
        draft.say("error", lost, AGAIN)
    if not kind and "config.json" not in "".join(problem.message for problem in draft.problems):
        draft.say("error", "config.json has no model_type", "download it again")
    draft.tokenized(draft.path)
    return None


def _check_heads(draft: Draft, config: Mapping[str, Any], named: Tensors, sizes: Sizes) -> None:
    """Of a LLaMA: that its heads, and those of its keys, have the rows that the configuration says."""
    heads, own, shared = (config.get(key) for key in ("num_attention_heads", "head_dim", "num_key_value_heads"))
    if not isinstance(heads, int) or heads < 1 or not sizes.width or not sizes.numbers:
        return
    size = own if isinstance(own, int) and own > 0 else sizes.width // heads
    for name, count in (("q_proj", heads), ("k_proj", shared if isinstance(shared, int) else heads)):
        tensor = named.get(f"layers.{sizes.numbers[0]}.self_attn.{name}.weight")
        if tensor is None or tensor.dtype not in _FLOATS or len(tensor.shape) != 2:
            continue
        if tensor.shape[0] != count * size:
            told = disagreement(f"rows of {name}", ("config.json", count * size), ("the weights", tensor.shape[0]))
            draft.say("error", told, AGAIN)


def describe_meta(draft: Draft) -> None:
    """A folder with Meta's consolidated.*.pth and params.json."""
    draft.facts |= {"layout": "meta", "family": "LLaMA", "architecture": "llama"}
    params = _settings(draft, "params.json")
    if not (draft.path / "params.json").exists():
        draft.say("warning", "there is no params.json", "download it from where the weights are")
    if (sizes := _describe_parts(draft, "consolidated.{:02}.pth")) is not None:
        draft.against("params.json", from_config(params), sizes)
    draft.tokenized(draft.path, draft.path.parent)


def describe_sat(draft: Draft) -> None:
    """A folder with SAT's mp_rank_*_model_states.pt, or with the name of such a one in `latest`."""
    draft.facts |= {"layout": "glm-130b", "family": "GLM-130B", "architecture": "glm-130b"}
    within = ""
    if (draft.path / "latest").is_file():
        with (draft.path / "latest").open("rb") as file:
            within = file.read(100).decode("utf-8", "replace").strip()
        if not within or Path(within).name != within or "\0" in within or not (draft.path / within).is_dir():
            draft.say("error", f"`latest` names {within[:80]!r}, and there is no such folder", AGAIN)
            return
    _describe_parts(draft, "mp_rank_{:02}_model_states.pt", within, "module")
    draft.facts["context"] = 2048
    draft.tokenized(draft.path)


def describe_file(draft: Draft) -> None:
    """One file that is a model by itself, or only a part of something."""
    headers = draft.read([draft.path])
    tensors = headers[0].weights if headers else {}
    family = family_of(tensors)
    if family is None:
        draft.facts["layout"] = ""
        if headers:
            draft.say("error", *_of_no_family(tensors))
        return
    draft.facts["layout"] = family.layout if family.layout == "rwkv" else "safetensors"
    named = without_prefix(family, tensors)
    sizes = measure(family, [named])
    draft.measured(family, sizes)
    draft.quantized(sizes, [named], {})
    if lost := uneven_layers(family, named):
        draft.say("error", lost, AGAIN)
    if family.layout == "rwkv":
        _describe_rwkv(draft, headers[0])


def _settings(draft: Draft, name: str) -> dict[str, Any]:
    """A configuration, with what can't be in it told."""
    config = draft.json(name)
    for fault in model_faults(config):
        draft.say("error", f"{name}: {fault}", "take the file that was published with the weights")
    return config


def _describe_rwkv(draft: Draft, header: TensorFile) -> None:
    context = re.search(r"ctx-?(\d{3,7})", draft.path.stem)
    draft.facts["context"] = int(context[1]) if context else 0
    _find_rwkv_tokenizer(draft, draft.facts["vocabulary"])
    if isinstance(strategy := header.values.get("_strategy"), str):
        draft.details["converted"] = f"for the strategy {strategy[:100]!r}, and for no other"
        if device := re.search(r"cuda|dml|mps", strategy[:1000]):
            draft.details["needs"] = f"a graphics card ({device[0]}), as its strategy says"
        draft.facts["quantization"] = "int8" if "i8" in strategy else draft.facts["quantization"]


def _find_rwkv_tokenizer(draft: Draft, rows: int) -> None:
    """World's is in the package, that of Raven and Pile lies beside the model, of others nothing is known."""
    if rows == 65536:
        draft.facts["tokenizer"] = "world"
        draft.details["tokenizer"] = "World, which the rwkv package brings along"
    elif rows == 50277:
        names = ("20B_tokenizer.json", "tokenizer.json")
        draft.facts["tokenizer"] = next((name for name in names if draft.path.with_name(name).exists()), "")
        draft.details["tokenizer"] = f"that of Raven and Pile ({draft.facts['tokenizer'] or names[0]})"
        if not draft.facts["tokenizer"]:
            remedy = f"put {names[0]} of BlinkDL/ChatRWKV beside it"
            draft.say("warning", "there is no tokenizer beside it", remedy)
    else:
        draft.details["tokenizer"] = "neither World's nor that of Raven and Pile"
        draft.say("warning", "its tokenizer is not known", "name its file by tokenizer: in bots.yaml")


def _describe_parts(draft: Draft, name: str, within: str = "", group: str = "") -> Sizes | None:
    """A model in tensor-parallel parts. `name`: of a part by its number; `within`, `group`: the folder that they are
    in, and the group of tensors in each. Returns what the shapes say, None where that is nothing."""
    folder = draft.path / within
    pattern = re.compile(re.escape(name.split("{")[0]) + r"(\d{2,4})" + re.escape(name.split("}")[1]))
    files = draft.attempt(files_in, folder) or []
    numbers = {int(found[1]): file for file in files if (found := pattern.fullmatch(file.name))}
    headers = draft.read([numbers[number] for number in sorted(numbers)])
    parts = [header.groups.get(group, {}) if group else header.tensors for header in headers]
    family = family_of(parts[0], (draft.facts["layout"],)) if parts else None
    if family is None:
        if headers or not numbers:
            draft.say("error", f"the shards hold no weights of {draft.facts['family']}", AGAIN)
        return None
    named = [without_prefix(family, part) for part in parts]
    sizes = measure(family, named)
    if sizes.degree != len(numbers):
        wanted = range(min(sizes.degree, _MAX_PARTS))
        gone = [name.format(number) for number in wanted if number not in numbers]
        told = disagreement("shards", ("the folder", len(numbers)), ("the shapes in them", sizes.degree))
        lost = f"; {listed(gone, 4)} missing" if gone else ""
        draft.say("error", told + lost, _ALL_FILES if gone else "keep the files of one model alone in the folder")
        draft.whole = False
    draft.measured(family, sizes)
    draft.quantized(sizes, named, {})
    if sizes.degree > 1:
        draft.details["tensor-parallel parts"] = f"{sizes.degree:,}"
    for header, part in zip(headers, named, strict=True):
        if why := _unlike(family, named[0], part):
            draft.say(
                "error", f"{header.path.name} is no part of the same model as {headers[0].path.name}: {why}", AGAIN
            )
        elif lost := uneven_layers(family, part):
            draft.say("error", f"{header.path.name}: {lost}", AGAIN)
    return sizes


def _unlike(family: Family, first: Tensors, other: Tensors) -> str:
    """What another part has differently; vocabularies may be cut unevenly."""
    if apart := sorted(first.keys() ^ other.keys()):
        return f"{apart[0]} is in one of them alone"
    free = (family.embedding, family.head)
    for name, tensor in first.items():
        if name not in free and tensor.shape != other[name].shape:
            return f"{name} has the shapes {list(tensor.shape)} and {list(other[name].shape)}"
    return ""


def _describe_prefix(draft: Draft, tensors: Tensors, config: Mapping[str, Any]) -> None:
    """What P-Tuning v2 has trained: a vector for each of the first positions, layer by layer."""
    name = next(name for name in tensors if name.endswith(_PREFIX))
    shape = tensors[name].shape
    length, numbers = (shape[0], shape[-1]) if shape else (0, 0)
    said = from_config(config)
    draft.facts |= {"layout": "ptuning", "family": "P-Tuning v2 prefix", "architecture": "chatglm",
                    "parameters": sum(tensor.size for tensor in tensors.values())}  # fmt: skip
    draft.facts |= {key: said[key] for key in ("layers", "width") if key in said}
    draft.details["prefix"] = f"{length:,} positions of {numbers:,} numbers"
    projected = any(".trans." in other for other in tensors)
    wanted = 2 * said.get("layers", 0) * said.get("width", 0)
    if wanted and numbers != wanted and not projected:
        draft.say(
            "error", disagreement("numbers for a position", ("config.json", wanted), ("the prefix", numbers)), AGAIN
        )
    declared = config.get("pre_seq_len")
    if isinstance(declared, int) and declared != length:
        draft.say(
            "error", disagreement("positions", ("pre_seq_len in config.json", declared), ("the prefix", length)), AGAIN
        )


def _check_index(draft: Draft, headers: Sequence[TensorFile]) -> None:
    """Each shard has the tensors that the index says; shards of two models, or with changed names, have not."""
    for header in headers:
        form = "model.safetensors" if header.format == "safetensors" else "pytorch_model.bin"
        index = draft.path / f"{form}.index.json"
        if (len(headers) == 1 and header.path.name == form) or not index.exists():
            continue
        named = (draft.attempt(read_json_object, index) or {}).get("weight_map")
        own = [key for key, file in named.items() if file == header.path.name] if isinstance(named, dict) else []
        if lost := [key for key in own if key not in header.tensors]:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            draft.say(
                "error", f"{header.path.name}: {lost[0]:.200}{more} should be in it by {index.name}, and is not", AGAIN
            )


def _merged(headers: Sequence[TensorFile]) -> tuple[Tensors, set[str]]:
    """The tensors of all shards, and the names of those that lie where another of their file does."""
    found, aliases = {}, set()
    for header in headers:
        seen = set()
        for name, tensor in header.weights.items():
            found[name] = tensor
            if (tensor.start, tensor.shape) in seen and tensor.nbytes:
                aliases.add(name)
            seen.add((tensor.start, tensor.shape))
    return found, aliases


def _layout(folder: Path, config: Mapping[str, Any]) -> str:
    if config.get("model_type") == "chatglm":
        first = (
            "inner_hidden_size" in config or "position_encoding_2d" in config or (folder / "ice_text.model").exists()
        )
        return "chatglm" if first else "chatglm2"
    return "encoder-decoder" if config.get("is_encoder_decoder") is True else "huggingface"


def _renamed(family: Family, kind: str) -> Family:
    return replace(family, name=_spoken(kind), architecture=kind, rows={})


def _spoken(kind: str) -> str:
    return {"llama": "LLaMA", "bloom": "BLOOM", "chatglm": "ChatGLM"}.get(kind, kind)


def _no_weights(folder: Path) -> str:
    if any((folder / name).exists() for name in ("tf_model.h5", "flax_model.msgpack")):
        return "those here are TensorFlow's or Flax's; take a model with safetensors or pytorch_model.bin"
    return "download model.safetensors or pytorch_model.bin into this folder, with all its parts and their index"


def _of_no_family(tensors: Tensors) -> tuple[str, str]:
    """What weights by themselves may be, and what to do with them."""
    if not tensors:
        return "this file holds no weights by name", "take the file that the model's page names"
    if any(name.endswith("att.time_state") for name in tensors):
        return "this is an initial state of RWKV and no model", "give it under adapters: NAME: init_state:"
    if any("lora_" in name for name in tensors):
        return "these are an adapter's tensors without its adapter_config.json", "give the adapter's folder"
    if any(name.endswith(_PREFIX) for name in tensors):
        return "this is a P-Tuning prefix", "give it under adapters: NAME: prefix:, beside its ChatGLM-6B"
    first = next(iter(tensors))
    return f"weights of no family that can be told by them ({first:.100}, …)", "give the folder with its config.json"
