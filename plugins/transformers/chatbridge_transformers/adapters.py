"""PEFT adapters as they lie in their folders: configuration, tensors, tokenizer; and whether they fit a model.

Knows what adapters' files of all years look like; applies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from chatbridge import ModelLoadError, check_adapter_config, check_model_file, read_json_object
from chatbridge_transformers import checkpoint, folder
from chatbridge_transformers.options import Adapter

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PROMPTS = {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "MULTITASK_PROMPT_TUNING", "CPT"}
_NUMBERS = ("lora_", "ia3_", "hada_", "lokr_", "vera_", "oft_", "boft_", "hra_", "fourierft_", "ln_tuning_", "vblora_")
_EMBEDDINGS = ("embed_tokens", "word_embeddings", "wte", "embed_in")
_HEADS = ("lm_head", "embed_out")


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter. `config`: what PEFT takes of adapter_config.json.

    `tensors`: those that change layers, by the layer's name and their own, as PEFT writes them. `embedding`, `head`:
    whole matrices that take the place of the model's, [ids, width]. `tokenizer`: whether one lies beside it.
    """

    path: Path
    kind: str
    config: Any
    scale: float
    tensors: Mapping[str, Any]
    embedding: Any | None
    head: Any | None
    tokenizer: bool
    fingerprint: str

    @property
    def rows(self) -> int | None:
        """Ids of the vocabulary that it brings along."""
        found = self.embedding if self.embedding is not None else self.head
        return None if found is None else int(found.shape[0])

    def pairs(self) -> dict[str, tuple[Any, Any]]:
        """LoRA's two matrices of each layer, [rank, in] and [out, rank]."""
        downs = {
            name[: -len(".lora_A.weight")]: t for name, t in self.tensors.items() if name.endswith("lora_A.weight")
        }
        return {
            layer: (down, self.tensors[f"{layer}.lora_B.weight"])
            for layer, down in downs.items()
            if f"{layer}.lora_B.weight" in self.tensors
        }


def read(adapter: Adapter, key: str, progress: folder.Progress) -> AdapterFile:
    """The adapter that an option names. `key`: which one, for messages. Raises ModelLoadError."""
    from chatbridge_transformers.tokenizer import has_tokenizer

    path = folder.locate(adapter.path, adapter.revision, progress, key)
    file = _file(path, key)
    written = read_json_object(path / "adapter_config.json")
    kind = str(written.get("peft_type") or "LORA").upper()
    if kind in _PROMPTS:
        raise ModelLoadError(
            f"{path}: a {kind} adapter puts vectors before the prompt, which takes no part in caches here; take a LoRA"
        )
    if written.get("enable_lora") not in (None, False):
        raise ModelLoadError(
            f"{path}: enable_lora is {written['enable_lora']!r}: an early PEFT made this for joined matrices, and no "
            f"PEFT of today reads it; train it again, or merge it with the PEFT that made it"
        )
    found = {_name(name): tensor for name, tensor in checkpoint.tensors(file).items()}
    if not found:
        raise ModelLoadError(
            f"{file}: the adapter has no tensors ({file.stat().st_size} bytes): it was saved by a script that took the "
            f"model's state apart before, as early alpaca-lora's did; save it again with PEFT's save_pretrained, or "
            f"take another copy"
        )
    if broken := [name for name, tensor in found.items() if not bool(torch.isfinite(tensor.float()).all())]:
        raise ModelLoadError(f"{file}: {broken[0]} holds numbers that are none (NaN or infinite); train it again")
    embedding, head, others = _parted(found)
    loose = [name for name in others if not any(part in name for part in _NUMBERS)]
    if loose:
        raise ModelLoadError(f"{file}: {loose[0]} is no part of an adapter that can be used here")
    return AdapterFile(
        path=path,
        kind=kind,
        config=_config(path, kind, written, others),
        scale=adapter.scale,
        tensors=others,
        embedding=embedding,
        head=head,
        tokenizer=has_tokenizer(path),
        fingerprint=f"{checkpoint.fingerprint((file,))}*{adapter.scale!r}",
    )


def effect(adapter: AdapterFile, model: Any) -> tuple[float, float]:
    """How large the change of all its layers is, and how large these are themselves (Frobenius norms).

    The second is 0 where weights are packed. Raises ModelLoadError where the adapter is for another model.
    """
    modules = dict(model.named_modules())
    changed = whole = 0.0
    for layer, (down, up) in adapter.pairs().items():
        module = modules.get(layer)
        if module is None:
            raise ModelLoadError(
                f"{adapter.path}: the adapter changes {layer}, which this model ({_about(model)}) does not have; take "
                f"the model that it was trained on"
            )
        weight = _weight(module)
        sizes = _sizes(module)
        if sizes is not None and sizes != (down.shape[1], up.shape[0]):
            raise ModelLoadError(
                f"{adapter.path}: the adapter is for another model: its {layer} takes {down.shape[1]:,} numbers and "
                f"gives {up.shape[0]:,}, and the model's ({_about(model)}) takes {sizes[0]:,} and gives {sizes[1]:,}"
            )
        if down.shape[0] != up.shape[1]:
            raise ModelLoadError(f"{adapter.path}: {layer} has the ranks {down.shape[0]} and {up.shape[1]}")
        scale = adapter.scale * scaling(adapter, layer, down.shape[0])
        a, b = down.float(), up.float()
        changed += scale**2 * float(((b.T @ b) * (a @ a.T)).sum())
        if weight is not None and weight.is_floating_point() and not weight.is_meta:
            whole += float(torch.linalg.vector_norm(weight.detach().float())) ** 2
    return changed**0.5, whole**0.5


def scaling(adapter: AdapterFile, layer: str, rank: int) -> float:
    """What LoRA's product is multiplied by: alpha / rank (Hu et al. 2021), or alpha / sqrt(rank) (rsLoRA)."""
    pattern = getattr(adapter.config, "alpha_pattern", None) or {}
    alpha = next((value for key, value in pattern.items() if layer.endswith(key)), adapter.config.lora_alpha)
    return float(alpha / (rank**0.5 if getattr(adapter.config, "use_rslora", False) else rank))


def _file(path: Path, key: str) -> Path:
    if not path.exists():
        raise ModelLoadError(f"{key}: {path}: there is no such folder; give the adapter's")
    if path.is_file():
        other = " (one as a GGUF file is for `backend: llama_cpp`)" if path.suffix == ".gguf" else ""
        raise ModelLoadError(
            f"{key}: {path}: this is a file; give the folder of the adapter, with adapter_config.json{other}"
        )
    if not (path / "adapter_config.json").exists():
        what = "a whole model: give it as path" if (path / "config.json").exists() else "no PEFT adapter"
        if (below := folder.folder_below(path, "adapter_config.json")) is not None:
            what = f"no adapter, but {below} is: give that folder"
        raise ModelLoadError(f"{key}: {path}: there is no adapter_config.json, so this is {what}")
    file = next((path / name for name in _FILES if (path / name).exists()), None)
    if file is None:
        raise ModelLoadError(
            f"{key}: {path}: there is an adapter_config.json, and no {' or '.join(_FILES)}; download that, too"
        )
    check_model_file(file)
    return file


def _name(name: str) -> str:
    """A tensor's name without what PEFT puts before it, and without the adapter's own."""
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.", ".")
    for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"):
        name = name.replace(f"{part}.default", part)
    return name.replace("modules_to_save.default.", "")


def _parted(found: Mapping[str, Any]) -> tuple[Any | None, Any | None, dict[str, Any]]:
    """The embedding, the head, and all others."""
    embedding = head = None
    others = {}
    for name, tensor in found.items():
        module = name.removesuffix(".weight").rpartition(".")[2]
        if name.endswith(".weight") and module in _EMBEDDINGS:
            embedding = tensor
        elif name.endswith(".weight") and module in _HEADS:
            head = tensor
        elif "original_module" not in name:
            others[name] = tensor
    return embedding, head, others


def _config(path: Path, kind: str, written: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    """What this PEFT takes of the configuration; matrices that replace the model's are ours to put in."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    made = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    if made is None:
        raise ModelLoadError(f"{path}: this PEFT knows no adapters of the type {kind!r}; pip install -U peft")
    check_adapter_config(path / "adapter_config.json", written, _ranks(written, tensors))
    known = {field.name for field in fields(made)}
    given = {name: value for name, value in written.items() if name in known and name != "peft_type"}
    given |= {"modules_to_save": None, "inference_mode": True}
    try:
        return made(**given)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"{path / 'adapter_config.json'}: PEFT does not take it: {error}") from error


def _ranks(written: Mapping[str, Any], tensors: Mapping[str, Any]) -> set[int]:
    """Of its layers' matrices; those of `target_parameters` are stacked, and so left out."""
    downs = [tensor for name, tensor in tensors.items() if name.endswith("lora_A.weight")]
    return set() if written.get("target_parameters") else {int(tensor.shape[0]) for tensor in downs}


def _weight(module: Any) -> Any | None:
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    return getattr(base, "weight", None)


def _sizes(module: Any) -> tuple[int, int] | None:
    """What a layer takes and gives; None where it doesn't say."""
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    if hasattr(base, "in_features"):
        return int(base.in_features), int(base.out_features)
    if hasattr(base, "num_embeddings"):
        return int(base.num_embeddings), int(base.embedding_dim)
    weight = getattr(base, "weight", None)  # GPT-2's Conv1D holds it the other way round
    return (int(weight.shape[0]), int(weight.shape[1])) if weight is not None and weight.dim() == 2 else None


def _about(model: Any) -> str:
    config = model.config
    layers, width = getattr(config, "num_hidden_layers", "?"), getattr(config, "hidden_size", "?")
    return f"{config.model_type}, {layers} layers of {width}"
