"""From options to a model in memory: looks at the folder, plans, refuses in words, and lets transformers load.

Knows the library's `from_pretrained`; leaves adapters, tokenizers and conversations to others.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from chatbridge import ModelLoadError, TensorInfo, refuse_what_does_not_fit, this_machine
from chatbridge_transformers import memory, planning
from chatbridge_transformers.folder import Folder, Progress, tensors_of
from chatbridge_transformers.options import TransformersOptions

_USELESS = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias", ".attention.bias")
"""Ends of names of tensors that older files hold and no model of today needs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. `took`: bytes of main memory, as measured. `unused`: tensors of the files without a use."""

    folder: Folder
    model: Any
    tensors: Mapping[str, TensorInfo]
    dtype: str
    took: int
    unused: tuple[str, ...]


def load(options: TransformersOptions, found: Folder, progress: Progress) -> Loaded:
    """Load the model in a folder. Raises ModelLoadError, if it can before any weights are read."""
    tensors = tensors_of(found)
    _check_tensors(found, tensors)
    _check_options(options)
    config = _config(options, found)
    machine = this_machine()
    device = device_of(options)
    dtype = planning.dtype_for(options, found.config, tensors, machine, device)
    refuse_what_does_not_fit(planning.memory_plan(options, planning.Model.of(found, tensors), machine, device))
    progress(0.1, "reading weights")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Else bitsandbytes tells at each layer of each token that it rounds what goes in, as 8 bits are meant to.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    before = memory.resident()
    model, report = _read(options, found, config, dtype)
    model.eval()
    model.requires_grad_(requires_grad=False)
    took = max(0, memory.resident() - before)
    unused = _check_report(found.path, report)
    progress(0.8, "checking the arithmetic")
    return Loaded(found, model, tensors, dtype, took, unused)


def _check_tensors(found: Folder, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise ModelLoadError for files without weights, or with some that another program packed."""
    if not tensors:
        raise ModelLoadError(
            f"{found.shards[0]}: it holds no tensors by name; a checkpoint of a training is to be saved again by "
            f"save_pretrained"
        )
    whole = (name for name, one in tensors.items() if one.dtype.startswith(("int", "uint")))
    packed = next((name for name in whole if name.endswith(".weight")), None)
    if packed is not None and "quantization_config" not in found.config:
        raise ModelLoadError(
            f"{found.path}: {packed} holds whole numbers, and config.json does not say how they are packed "
            f"(quantization_config); take both from the same place, or weights that are not packed"
        )


def _check_options(options: TransformersOptions) -> None:
    """Raise ModelLoadError where this machine or installation can't honour an option."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if options.device.startswith("cuda") and int(options.device.partition(":")[2] or 0) >= cards:
        seen = f"{cards} card{'s' * (cards > 1)}" if cards else "no NVIDIA card"
        raise ModelLoadError(
            f"device: {options.device}: torch {torch.__version__} sees {seen}; install a torch with CUDA, or write cpu"
        )
    if options.device == "mps" and not torch.backends.mps.is_available():
        raise ModelLoadError("device: mps: this is no Apple GPU, or this torch can't use it; write cpu")
    if options.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelLoadError(
            f"quantization: {options.quantization} needs another package: pip install 'bitsandbytes>=0.46'"
        )
    if options.device == "xpu" and not torch.xpu.is_available():
        raise ModelLoadError("device: xpu: there is no Intel GPU that this torch can use; write cpu")
    if missing := _absent_cards(options, cards):
        seen = f"{cards} card{'s' * (cards > 1)}" if cards else "no NVIDIA card"
        raise ModelLoadError(f"{missing}, and torch {torch.__version__} sees {seen}")
    if options.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ModelLoadError("attention: flash_attention_2 needs another package: pip install flash-attn")


def _absent_cards(options: TransformersOptions, cards: int) -> str:
    """Which option names a card that isn't there; empty for none."""
    map_ = options.device_map if isinstance(options.device_map, dict) else {}
    for name, places in (("device_map", map_.values()), ("max_memory", options.max_memory or ())):
        for place in map(str, places):
            card = re.fullmatch(r"(?:cuda:)?(\d+)|cuda", place)
            if card is not None and int(card[1] or 0) >= cards:
                return f"{name} names the card {place}"
    return ""


def _config(options: TransformersOptions, found: Folder) -> Any:
    """The model's configuration as transformers reads it. Raises ModelLoadError."""
    known = found.kind in transformers.CONFIG_MAPPING
    if "auto_map" in found.config and not known and not options.trust_remote_code:
        raise ModelLoadError(
            f"{found.path}: transformers {transformers.__version__} does not know {found.kind!r}, and the model brings "
            f"Python of its own along. trust_remote_code: true would run it, with all rights of this program: it could "
            f"read your tokens and files. Say so only where you have read it, or trust who wrote it; else take a model "
            f"that transformers knows"
        )
    if not known and "auto_map" not in found.config:
        raise ModelLoadError(
            f"{found.path}: transformers {transformers.__version__} does not know the architecture {found.kind!r}; pip "
            f"install -U transformers, or take another model"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(found.path), trust_remote_code=options.trust_remote_code, local_files_only=True
        )
    except Exception as error:  # whatever a configuration's class may raise
        raise ModelLoadError(f"{found.path / 'config.json'}: transformers does not take it: {_line(error)}") from error
    if options.attention != "auto":
        config._attn_implementation = options.attention
    if "auto_map" not in found.config and type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise ModelLoadError(
            f"{found.path}: {found.kind} is no causal language model by itself (of those that transformers "
            f"{transformers.__version__} knows), but one of pictures, sounds or other tasks; take a model that goes on "
            f"with text"
        )
    packed = found.config.get("quantization_config")
    if isinstance(packed, dict) and options.quantization is not None:
        raise ModelLoadError(
            f"{found.path}: the weights are packed already, by {packed.get('quant_method', 'another program')}, so "
            f"quantization: {options.quantization} can't be; leave it out, or take the model as it was before"
        )
    return config


def device_of(options: TransformersOptions) -> str:
    """The one device that everything goes to."""
    if options.device != "auto":
        return options.device
    return "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _read(options: TransformersOptions, found: Folder, config: Any, dtype: str) -> tuple[Any, dict[str, Any]]:
    places: dict[str, Any] = {"device_map": {"": device_of(options)}}
    if options.device_map is not None:
        places = {"device_map": options.device_map}
        if options.max_memory is not None:
            places["max_memory"] = {_device(key): value for key, value in options.max_memory.items()}
        if options.offload_folder is not None:
            try:
                options.offload_folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ModelLoadError(
                    f"offload_folder: {options.offload_folder} can't be used: {error.strerror or error}"
                ) from error
            places["offload_folder"] = str(options.offload_folder)
    elif device_of(options) == "cpu" and options.quantization is None:
        places = {}
    kind = getattr(torch, dtype)
    if options.quantization is not None:
        places["quantization_config"] = _quantized(options.quantization, kind)
    if options.attention != "auto":
        places["attn_implementation"] = options.attention
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            str(found.path),
            config=config,
            dtype=kind,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            weights_only=True,
            ignore_mismatched_sizes=True,  # the report has them with their sizes, and is an error below
            **places,
        )
    except ModelLoadError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{found.path}: the card is too small for this model in {dtype}; take quantization: nf4, or device_map"
        ) from error
    except Exception as error:  # whatever a model's class may raise
        why = _line(error)
        if "offload_folder" in why:
            why = "device_map puts weights on disk here, and they need a place: name one by offload_folder"
        raise ModelLoadError(f"{found.path}: transformers can't load it: {why}") from error
    if isinstance(options.device_map, dict):
        _check_map(options.device_map, model)
    return model, report


def _check_map(given: Mapping[str, Any], model: Any) -> None:
    """Raise ModelLoadError where `device_map` names no part of the model, or leaves some out; nobody else does."""
    modules = {name for name, _ in model.named_modules()}
    if strange := [name for name in given if name not in modules]:
        some = ", ".join(name for name, _ in model.named_children())
        raise ModelLoadError(f"device_map: the model has no part {strange[0]!r}; it has {some}, and the parts of these")
    for name, _ in model.named_parameters():
        if not any(part == "" or name.startswith(f"{part}.") for part in given):
            raise ModelLoadError(f"device_map: it says nothing of {name}; name all parts, or write auto")


def _quantized(kind: str, dtype: Any) -> Any:
    if kind == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)


def _check_report(path: Path, report: Mapping[str, Any]) -> tuple[str, ...]:
    """Raise ModelLoadError where the library has filled a part of the model with chance; return what it left aside."""
    if wrong := sorted(report.get("mismatched_keys") or (), key=str):
        name, *sizes = wrong[0] if isinstance(wrong[0], tuple) else (wrong[0],)
        told = f" ({list(sizes[0])} in the files, {list(sizes[1])} in config.json)" if len(sizes) > 1 else ""
        raise ModelLoadError(
            f"{path}: {name} has another shape than config.json says{told}; take all files from the same place"
        )
    unexpected = sorted(report.get("unexpected_keys") or ())
    if missing := sorted(report.get("missing_keys") or ()):
        raise ModelLoadError(f"{path}: {_missing(missing, unexpected)}")
    if errors := report.get("error_msgs"):
        raise ModelLoadError(f"{path}: transformers can't load it: {next(iter(errors))}")
    return tuple(name for name in unexpected if not name.endswith(_USELESS))


def _missing(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """What is to be said of tensors that the files do not have. `unexpected`: those that they have instead."""
    heads = {name.split(".")[0] for name in missing}
    if len(heads) == 1 and heads <= {"lm_head", "embed_out"}:
        other = f", but {unexpected[0]}" if unexpected else ""
        return (
            f"the files have no {missing[0]}{other}, so this is a model without a head that says words, as those are "
            f"that sort texts, rate answers or make embeddings; take the one for text generation"
        )
    many = len(missing) > 1
    told = (
        f"{len(missing)} tensor{'s' * many} {'are' if many else 'is'} missing in the files, as {missing[0]}, and "
        f"transformers would make {'them' if many else 'it'} up"
    )
    if unexpected:
        return f"{told}; there are others without a use, as {unexpected[0]}: take files and config.json of one model"
    return f"{told}; download all parts of the model again"


def _device(key: str | int) -> str | int:
    return int(key) if isinstance(key, str) and key.isdigit() else key


def _line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it knows no {error}, which config.json names"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] if lines else type(error).__name__
