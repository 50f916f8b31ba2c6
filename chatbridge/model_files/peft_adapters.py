"""Describes PEFT adapters from their configuration, names and shapes: rank, targets, and the sizes of their base.

An adapter that is empty, partial or changes nothing is a fault. Reads headers alone, so it can't see that all of an
adapter's numbers are zero; the transformers backend does when it loads one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatbridge.model_files.config_values import adapter_faults
from chatbridge.model_files.description import AdapterDescription, Severity, disagreement
from chatbridge.model_files.drafts import AGAIN, Draft
from chatbridge.model_files.families import EMBEDDINGS, LLAMA_ROWS, LLAMA_SIZES
from chatbridge.model_files.shapes import Sizes, Tensors
from chatbridge.model_files.tensors import TensorInfo

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_LAYER = re.compile(r"\.(?:layers|h|blocks|layer)\.(\d{1,6})\.")
_WHOLE = (*EMBEDDINGS, "lm_head.weight", "embed_out.weight")
_DOWN = (".lora_A.weight", ".lora_embedding_A")
_PROMPTS = {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "MULTITASK_PROMPT_TUNING", "CPT"}
"""Adapters that put vectors before the prompt, which take no part in caches here."""
_READ_WIDTH = ("q_proj", "query_key_value", "wq", "Wqkv", "c_attn", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Layers that take the model's width."""


def adapter_file(folder: Path) -> Path | None:
    """Where an adapter's weights are; None where there are none."""
    return next((folder / name for name in _FILES if (folder / name).exists()), None)


def describe_peft(draft: Draft) -> None:
    """A folder with adapter_config.json."""
    written = draft.json("adapter_config.json")
    kind = str(written.get("peft_type") or "LORA")[:50].upper()
    draft.facts |= {"layout": "peft", "family": "PEFT adapter", "architecture": kind.lower()}
    file = adapter_file(draft.path)
    if file is None:
        draft.whole = False
        draft.say("error", f"there is neither {' nor '.join(_FILES)}", "download the adapter's weights, too")
    headers = draft.read([file] if file else [])
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        for name, tensor in header.weights.items():
            if tensors.setdefault(short_name(name), tensor) is not tensor:
                told = f"two of its tensors are {short_name(name)[:200]}, for one layer"
                draft.say("error", told, "take another copy, that holds one adapter alone")
    if headers and not tensors:
        draft.say(
            "error",
            f"{headers[0].path.name} has no tensors ({headers[0].size:,} bytes): it was saved by a script that took "
            f"the model's state apart before, as early alpaca-lora's did",
            "save it again with PEFT's save_pretrained, or take another copy",
        )
    about = _about(kind, written, tensors)
    draft.facts |= {
        "adapter": about,
        "parameters": sum(tensor.size for tensor in tensors.values()),
        "layers": about.layers,
        "width": about.width,
        "vocabulary": about.vocabulary,
        "variant": LLAMA_ROWS.get(about.vocabulary, ""),
    }
    if size := LLAMA_SIZES.get((about.layers, about.width)):
        draft.details["base"] = f"has the sizes of LLaMA {size}"
    draft.quantized(Sizes(), [tensors], {})
    _check(draft, written, tensors, about)
    draft.tokenized(draft.path, needed=bool(about.vocabulary))


def _about(kind: str, written: Mapping[str, Any], tensors: Tensors) -> AdapterDescription:
    downs = {name: tensor for name, tensor in tensors.items() if name.endswith(_DOWN) and len(tensor.shape) == 2}
    stacked = _with_parameters(written)
    numbers = {int(found[1]) for name in tensors if (found := _LAYER.search(name))}
    whole = {name: tensor for name, tensor in tensors.items() if name.endswith(_WHOLE) and len(tensor.shape) == 2}
    width = next((tensor.shape[1] for name, tensor in downs.items() if _target(name) in _READ_WIDTH), 0)
    return AdapterDescription(
        kind=kind,
        rank=tuple(sorted({tensor.shape[0] for name, tensor in downs.items() if _target(name) not in stacked})),
        alpha=_number(written.get("lora_alpha")),
        targets=tuple(sorted({_target(name) for name in downs})),
        tensors=len(tensors),
        layers=1 + max(numbers, default=-1),
        width=width or next((tensor.shape[1] for tensor in whole.values()), 0),
        vocabulary=next((tensor.shape[0] for tensor in whole.values()), 0),
        base=str(written.get("base_model_name_or_path") or "")[:200],
    )


def _check(draft: Draft, written: Mapping[str, Any], tensors: Tensors, about: AdapterDescription) -> None:
    if about.kind in _PROMPTS:
        draft.say(
            "error", f"a {about.kind} adapter puts vectors before the prompt, which no backend does", "take a LoRA"
        )
    for name, tensor in tensors.items():
        if name.endswith(".lora_A.weight"):
            _check_pair(draft, name, tensor, tensors.get(name.replace("lora_A", "lora_B")))
        for up, down in (("lora_B.weight", "lora_A.weight"), ("lora_embedding_B", "lora_embedding_A")):
            layer = name.removesuffix(f".{up}")
            if layer != name and f"{layer}.{down}" not in tensors:
                words = f"{up.removesuffix('.weight')} without {down.removesuffix('.weight')}"
                draft.say("error", f"{layer[:200]} has {words}: it has no effect", AGAIN)
    if written:
        for fault in adapter_faults(written, about.rank):
            file = "" if "adapter_config.json" in fault else "adapter_config.json: "
            draft.say("error", file + fault, "take the file that was saved with the adapter")
    rows = {tensor.shape[0] for name, tensor in tensors.items() if name.endswith(_WHOLE) and len(tensor.shape) == 2}
    if len(rows) > 1:
        first, second = sorted(rows)[:2]
        told = disagreement("vocabulary", ("its embedding or head", first), ("the other", second))
        draft.say("error", told, AGAIN)
    if not tensors:
        return
    wanted = written.get("target_modules")
    named = {str(one).rpartition(".")[2] for one in wanted} if isinstance(wanted, list) else set()
    if absent := sorted(named - set(about.targets)) if about.targets else []:
        draft.say(
            "error" if not named & set(about.targets) else "warning",
            f"target_modules names {', '.join(absent)[:200]}, of which there are no tensors",
            AGAIN,
        )
    if about.targets and named and (more := sorted(set(about.targets) - named - _with_parameters(written))):
        draft.say("error", f"there are tensors of {', '.join(more)[:200]}, which target_modules does not name", AGAIN)
    _check_saved(draft, written, tensors)
    if written.get("enable_lora") not in (None, False):
        draft.say("error", "it was made by an early PEFT for joined matrices (enable_lora)", "train or merge it again")
    if not about.targets and about.kind == "LORA":
        draft.say("error", "none of its tensors changes a layer: it has no effect", "take another copy")


def _check_saved(draft: Draft, written: Mapping[str, Any], tensors: Tensors) -> None:
    """Modules that were trained as a whole: without them the adapter is not the one that was trained.

    For classifiers PEFT names heads by itself, of which a model has one at most.
    """
    saved = written.get("modules_to_save")
    names = [str(one).rpartition(".")[2] for one in saved] if isinstance(saved, list) else []
    there = {part for name in tensors for part in name.split(".")}
    if absent := [name for name in names if name not in there]:
        severity: Severity = "error" if written.get("task_type") in (None, "CAUSAL_LM") else "warning"
        told = f"modules_to_save names {', '.join(absent)[:200]}, of which there are no tensors"
        draft.say(severity, told, "take the file that was saved with all of them")


def _with_parameters(written: Mapping[str, Any]) -> set[str]:
    """The layers of which `target_parameters` names parameters, as "experts"; their matrices are stacked there."""
    given = written.get("target_parameters")
    return {str(one).rpartition(".")[0].rpartition(".")[2] for one in given} if isinstance(given, list) else set()


def _check_pair(draft: Draft, name: str, down: TensorInfo, up: TensorInfo | None) -> None:
    layer = name.removesuffix(".lora_A.weight")
    if up is None:
        draft.say("error", f"{layer} has lora_A without lora_B: it has no effect", AGAIN)
    elif len(down.shape) == len(up.shape) == 2 and down.shape[0] != up.shape[1]:
        draft.say("error", disagreement(f"rank of {layer}", ("lora_A", down.shape[0]), ("lora_B", up.shape[1])), AGAIN)


def short_name(name: str) -> str:
    """A tensor's name without what PEFT puts before it, and without the adapter's own name."""
    name = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
    return (
        name.replace("lora_A.default.", "lora_A.").replace("lora_B.default.", "lora_B.").replace("modules_to_save.", "")
    )


def _target(name: str) -> str:
    """The layer's own name: `q_proj` of `model.layers.0.self_attn.q_proj.lora_A.weight`."""
    layer = name.removesuffix(_DOWN[0]).removesuffix(_DOWN[1])
    while layer.endswith(".base_layer"):  # of several parameters in one layer
        layer = layer.removesuffix(".base_layer")
    return layer.rpartition(".")[2]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e9 else 0.0
