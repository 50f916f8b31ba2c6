"""From options to a model in memory: looks at the folder, plans, refuses in words, and lets transformers load.

Knows the library's `from_pretrained`; leaves adapters, tokenizers and conversations to others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from chatbridge import ModelLoadError, free_memory
from chatbridge_transformers import checkpoint, memory
from chatbridge_transformers.checkpoint import Tensor
from chatbridge_transformers.folder import Folder, Progress
from chatbridge_transformers.options import TransformersOptions

_USELESS = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias", ".attention.bias")
"""Ends of names of tensors that older files hold and no model of today needs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. `took`: bytes of main memory, as measured. `unused`: tensors of the files without a use."""

    folder: Folder
    model: Any
    tensors: Mapping[str, Tensor]
    dtype: str
    took: int
    unused: tuple[str, ...]


def load(options: TransformersOptions, found: Folder, progress: Progress) -> Loaded:
    """Load the model in a folder. Raises ModelLoadError, if it can before any weights are read."""
    tensors = checkpoint.shapes(found.shards)
    _check_options(options)
    config = _config(options, found)
    on_card = _on_card(options)
    published = str(found.config.get("torch_dtype") or found.config.get("dtype") or "")
    dtype = options.dtype if options.dtype != "auto" else memory.choose_dtype(tensors, published, on_card)
    if options.quantization is not None and options.dtype == "auto" and not on_card:
        dtype = "bfloat16" if options.quantization != "int8" else "float32"
    if options.device_map is None:
        size = memory.needed(tensors, dtype, options.quantization)
        free = _free_on_card(options) if on_card else free_memory()
        memory.refuse_what_does_not_fit(found.path, size, free, "the card" if on_card else "main memory")
    progress(0.1, "reading weights")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    before = memory.resident()
    model, report = _read(options, found, config, dtype)
    model.eval()
    model.requires_grad_(requires_grad=False)
    took = max(0, memory.resident() - before)
    unused = _check_report(found.path, report)
    progress(0.8, "checking the arithmetic")
    return Loaded(found, model, tensors, dtype, took, unused)


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
            f"quantization: {options.quantization} needs another package: pip install "
            f"'chatbridge-transformers[quantization]'"
        )
    if options.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ModelLoadError("attention: flash_attention_2 needs another package: pip install flash-attn")


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
    return config


def _on_card(options: TransformersOptions) -> bool:
    if options.device == "auto" or options.device_map is not None:
        return bool(torch.cuda.is_available() or torch.backends.mps.is_available())
    return options.device != "cpu"


def device_of(options: TransformersOptions) -> str:
    """The one device that everything goes to."""
    if options.device != "auto":
        return options.device
    return "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _free_on_card(options: TransformersOptions) -> int:
    device = device_of(options)
    return int(torch.cuda.mem_get_info(torch.device(device))[0]) if device.startswith("cuda") else 0


def _read(options: TransformersOptions, found: Folder, config: Any, dtype: str) -> tuple[Any, dict[str, Any]]:
    places: dict[str, Any] = {"device_map": {"": device_of(options)}}
    if options.device_map is not None:
        places = {"device_map": options.device_map}
        if options.max_memory is not None:
            places["max_memory"] = {_device(key): value for key, value in options.max_memory.items()}
        if options.offload_folder is not None:
            options.offload_folder.mkdir(parents=True, exist_ok=True)
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
        raise ModelLoadError(f"{found.path}: transformers can't load it: {_line(error)}") from error
    return model, report


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
    if missing := sorted(report.get("missing_keys") or ()):
        raise ModelLoadError(
            f"{path}: {len(missing)} tensors are missing in the files, as {missing[0]}, and transformers would make "
            f"them up; download all parts of the model again"
        )
    if errors := report.get("error_msgs"):
        raise ModelLoadError(f"{path}: transformers can't load it: {next(iter(errors))}")
    unexpected = sorted(report.get("unexpected_keys") or ())
    return tuple(name for name in unexpected if not name.endswith(_USELESS))


def _device(key: str | int) -> str | int:
    return int(key) if isinstance(key, str) and key.isdigit() else key


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] if lines else type(error).__name__
