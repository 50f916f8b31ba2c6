"""What a loaded model says about itself: sizes, vocabulary, and what is really in use, where, and how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import torch

from chatbridge import ModelInfo, ModelLoadError, Sampling
from chatbridge_transformers import checkpoint
from chatbridge_transformers.applying import Adapters
from chatbridge_transformers.loading import Loaded
from chatbridge_transformers.memory import LENGTHS, gib
from chatbridge_transformers.options import TransformersOptions
from chatbridge_transformers.planning import DEFAULT_CONTEXT
from chatbridge_transformers.tokenizer import Found
from chatbridge_transformers.ways import Chosen


def fingerprint(loaded: Loaded, options: TransformersOptions, adapters: Adapters, chosen: Chosen) -> str:
    """A hash of all that the arithmetic depends on, but for named adapters, which have fingerprints of their own."""
    depends = repr(
        (
            checkpoint.fingerprint(loaded.folder.shards),
            sorted((key, repr(value)) for key, value in loaded.folder.config.items() if key != "_name_or_path"),
            loaded.dtype,
            options.quantization,
            options.attention,
            type(chosen.way).__name__,
            sorted(set(map(str, _places(loaded.model)))),
            [one.fingerprint for one in adapters.own],
            version("transformers"),
        )
    )
    return f"transformers-{blake2b(depends.encode(), digest_size=16).hexdigest()}"


def context_length(loaded: Loaded, options: TransformersOptions) -> int:
    """Tokens per conversation: what is set, or up to 4096 of what the model takes. Raises ModelLoadError for more."""
    config = loaded.model.config
    takes = next((int(value) for name in LENGTHS if (value := getattr(config, name, None))), None)
    if options.context_length is None:
        return min(takes or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if takes is not None and options.context_length > takes:
        raise ModelLoadError(
            f"{loaded.folder.path}: context_length: {options.context_length} is more than the {takes} tokens that this "
            f"model takes; lower it, or stretch positions by rope_scaling in its config.json"
        )
    return options.context_length


def describe(
    loaded: Loaded,
    options: TransformersOptions,
    found: Found,
    ids: tuple[int | None, tuple[int, ...], Sequence[str]],
    adapters: Adapters,
    chosen: Chosen,
    fingerprint: str,
) -> ModelInfo:
    """What `TransformersModel.info` tells. `ids`: as `tokenizer.special_ids` gives them."""
    bos, eos, _ = ids
    tokenizer = found.tokenizer
    return ModelInfo(
        name=str(loaded.folder.path.name),
        architecture=loaded.folder.kind,
        context_length=context_length(loaded, options),
        vocab_size=_rows(loaded.model),
        fingerprint=fingerprint,
        vocabulary=tokenizer.fingerprint,
        eos=eos,
        bos=bos,
        add_bos=tokenizer.add_bos,
        max_batch=options.sequences,
        can_trim=chosen.can_trim,
        specials=tokenizer.specials,
        controls=tokenizer.controls,
        lstrip=tokenizer.lstrip,
        rstrip=tokenizer.rstrip,
        adapters=adapters.fingerprints,
        chat_template=found.template.source or None,
        sampling=_recommended(loaded.folder.generation),
        details=_details(loaded, options, found, ids[2], adapters, chosen),
    )


def _rows(model: Any) -> int:
    head = model.get_output_embeddings()
    return int((head if head is not None else model.get_input_embeddings()).weight.shape[0])


def _recommended(generation: Mapping[str, Any]) -> Sampling | None:
    """What generation_config.json recommends, where the model's makers have set it to draw at all."""
    if not generation.get("do_sample"):
        return None
    named = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "repetition_penalty": "repeat_penalty"}
    values = {ours: generation[theirs] for theirs, ours in named.items() if generation.get(theirs) is not None}
    try:
        return Sampling.model_validate(values) if values else None
    except ValueError:
        return None


def _places(model: Any) -> Mapping[Any, int]:
    """Bytes of the weights on each device; "disk" for those that accelerate reads when they are needed."""
    offloaded = [name for name, place in (getattr(model, "hf_device_map", None) or {}).items() if place == "disk"]
    placed = [name for name, place in (getattr(model, "hf_device_map", None) or {}).items() if place == "cpu"]
    found: dict[Any, int] = {}
    seen: set[int] = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        place = str(tensor.device)
        if tensor.is_meta:
            on_disk = any(name.startswith(f"{part}.") or not part for part in offloaded)
            on_cpu = any(name.startswith(f"{part}.") or not part for part in placed)
            place = "disk" if on_disk else "cpu" if on_cpu else "meta"
        found[place] = found.get(place, 0) + tensor.numel() * tensor.element_size()
    return found


def _details(
    loaded: Loaded,
    options: TransformersOptions,
    found: Found,
    wrong_ids: Sequence[str],
    adapters: Adapters,
    chosen: Chosen,
) -> dict[str, str]:
    model, tokenizer = loaded.model, found.tokenizer
    parameters = sum(tensor.size for tensor in loaded.tensors.values())
    took = f"; loading took {gib(loaded.took)} of main memory" if loaded.took else ""
    together = chosen.way.summary
    if chosen.batched:
        together = f"up to {options.sequences} conversations, {together}"
    details = {
        "folder": str(loaded.folder.path),
        "parameters": f"{parameters / 1e6:,.1f} M" if parameters < 1e9 else f"{parameters / 1e9:,.2f} B",
        "weights": f"{options.quantization} by bitsandbytes, computed in {loaded.dtype}"
        if options.quantization
        else loaded.dtype,
        "memory": ", ".join(f"{gib(size)} on {place}" for place, size in _places(model).items()) + took,
        "layers": _layers(model),
        "together": together + (f" ({chosen.why})" if chosen.why else ""),
        **found.template.details,
        "tokenizer": f"{tokenizer.kind}, {tokenizer.size} ids for {_rows(model)} rows, {found.file}",
        "threads": str(torch.get_num_threads()),
        "transformers": f"{version('transformers')} on torch {torch.__version__}",
    }
    if wrong_ids:
        details["wrong ids"] = "; ".join(wrong_ids)
    if loaded.unused:
        details["unused tensors"] = f"{len(loaded.unused)}, as {loaded.unused[0]}"
    if adapters.own:
        details["lora"] = "; ".join(map(str, adapters.own))
    for name, applied in adapters.named.items():
        details[f"adapter {name}"] = "; ".join(map(str, applied))
    if options.trust_remote_code:
        details["remote code"] = "Python that came with the model may run"
    if options.keep_states is not None:
        details["kept states"] = f"{options.keep_states}, at most {options.keep_states_gib:g} GiB"
    return details


def _layers(model: Any) -> str:
    """Where each part lies, in accelerate's words; one place where there is no map."""
    placed = getattr(model, "hf_device_map", None)
    if not placed or len(set(placed.values())) == 1:
        return f"all on {model.get_input_embeddings().weight.device if not placed else next(iter(placed.values()))}"
    runs: list[tuple[str, list[str]]] = []
    for name, place in placed.items():
        if not runs or runs[-1][0] != str(place):
            runs.append((str(place), []))
        runs[-1][1].append(name)
    return "; ".join(
        f"{names[0]} to {names[-1]} on {place}" if len(names) > 1 else f"{names[0]} on {place}" for place, names in runs
    )
