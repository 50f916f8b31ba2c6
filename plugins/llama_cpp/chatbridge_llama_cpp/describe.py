"""Says what a loaded model is and what is really in use: the `ModelInfo`, from what llama.cpp itself tells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from chatbridge import GgufStrings, ModelInfo, chat_template_of, default_threads, thread_waiting
from chatbridge_llama_cpp.adapters import Adapters
from chatbridge_llama_cpp.loading import Loaded
from chatbridge_llama_cpp.memory import size
from chatbridge_llama_cpp.native import build_flags, lib
from chatbridge_llama_cpp.options import LlamaOptions
from chatbridge_llama_cpp.smoke import survives_repacking
from chatbridge_llama_cpp.state import Layout
from chatbridge_llama_cpp.tokenizer import LlamaTokenizer

_BUFFER = re.compile(r"(\S+) (model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_NOT_ARITHMETIC = {
    "path", "gpu_layers", "main_gpu", "split_mode", "tensor_split", "threads", "threads_batch", "numa", "mmap", "mlock",
    "context_length", "sequences", "total_context", "batch", "ubatch", "mirostat", "mirostat_tau", "mirostat_eta",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_window", "dry_breakers", "xtc_probability",
    "xtc_threshold", "grammar", "json_schema", "draft", "draft_tokens", "draft_least", "draft_gpu_layers",
    "keep_states", "keep_states_gib", "lora", "control_vectors", "adapters",
}  # fmt: skip
"""Options that change no number of a state. Adapters count by the fingerprints of their files."""


def layout(loaded: Loaded, options: LlamaOptions) -> Layout:
    """How the context keeps its sequences."""
    needs = loaded.plan.needs
    recurrent = lib.llama_model_is_recurrent(loaded.model)
    return Layout(
        count=loaded.plan.sequences,
        cell_bytes=needs.cell,
        fixed_bytes=needs.fixed,
        pass_bytes=needs.weights,
        adjacent=loaded.plan.sequences > 1 and (recurrent or not options.unified),
        cheap_copy=recurrent or options.unified,
        append_only=_append_only(loaded, options),
    )


def _append_only(loaded: Loaded, options: LlamaOptions) -> bool:
    """Whether all that was read stays in memory as it is, so that a state can also forget its last tokens."""
    model = loaded.model
    attends_only = not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
    return attends_only and not _windowed(loaded, options)


def _windowed(loaded: Loaded, options: LlamaOptions) -> bool:
    """Whether only the last tokens are kept."""
    return bool(lib.llama_model_n_swa(loaded.model) > 0 and not options.swa_full)


def fingerprint(loaded: Loaded, options: LlamaOptions, adapters: Adapters) -> str:
    """A hash of all that the arithmetic depends on, but for named adapters, which have fingerprints of their own."""
    changes = options.model_dump(mode="json", exclude=_NOT_ARITHMETIC)
    parts = [file.fingerprint() for file in loaded.files] + [one.fingerprint for one in adapters.own]
    # What llama.cpp saves of a sequence goes only into a context of as many streams.
    streams = 1 if options.unified else loaded.plan.sequences
    text = repr((parts, sorted(changes.items()), loaded.flash_attention, streams, build_flags()["llama-cpp-python"]))
    return f"llama_cpp-{blake2b(text.encode(), digest_size=16).hexdigest()}"


def vocabulary_fingerprint(metadata: Mapping[str, Any]) -> str:
    """A hash of everything in `metadata` that decides how text is cut."""
    digest = blake2b(digest_size=16)
    for key in sorted(key for key in metadata if key.startswith(("tokenizer.ggml.", "chatbridge.tokenizer."))):
        value = metadata[key]
        if isinstance(value, GgufStrings):
            value = value.raw
        elif isinstance(value, np.ndarray):
            value = value.tobytes()
        digest.update(f"{key}:".encode())
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return f"gguf-ggml-{digest.hexdigest()}"


def describe(
    loaded: Loaded, options: LlamaOptions, tokenizer: LlamaTokenizer, adapters: Adapters, fingerprint: str
) -> ModelInfo:
    """What `LlamaModel.info` tells. `fingerprint`: as `fingerprint` gives it."""
    metadata = loaded.files[0].metadata
    return ModelInfo(
        name=str(metadata.get("general.name") or loaded.files[0].path.stem),
        architecture=loaded.files[0].architecture,
        context_length=loaded.plan.context_length,
        vocab_size=tokenizer.size,
        fingerprint=fingerprint,
        vocabulary=vocabulary_fingerprint(metadata),
        eos=tokenizer.ends(),
        bos=tokenizer.begin(),
        add_bos=tokenizer.adds_begin,
        max_batch=loaded.plan.sequences,
        can_trim=_append_only(loaded, options),
        specials=tokenizer.specials,
        controls=tokenizer.controls,
        lstrip=tokenizer.lstrip,
        rstrip=tokenizer.rstrip,
        adapters=adapters.fingerprints,
        chat_template=chat_template_of(metadata).source or None,
        details=_details(loaded, options, tokenizer, adapters),
    )


def _details(loaded: Loaded, options: LlamaOptions, tokenizer: LlamaTokenizer, adapters: Adapters) -> dict[str, str]:
    flags, plan, model, context = build_flags(), loaded.plan, loaded.model, loaded.context
    parameters = lib.llama_model_n_params(model)
    kind = lib.llama_ftype_name(lib.llama_model_ftype(model)).decode()
    details = {
        **chat_template_of(loaded.files[0].metadata).details,
        "file": str(loaded.files[0].path) + (f" and {len(loaded.files) - 1} more" if len(loaded.files) > 1 else ""),
        "quantisation": kind.removeprefix("(guessed) "),
        "parameters": f"{parameters / 1e6:,.1f} M" if parameters < 1e9 else f"{parameters / 1e9:,.2f} B",
        "context": f"{plan.context_length} tokens for each of {plan.sequences} conversations at once, "
        + (f"{lib.llama_n_ctx(context)} cells in one pool" if options.unified else "cells of their own"),
        "memory": _memory(loaded.log_lines),
        "layers on gpu": _offloaded(loaded),
        "threads": _threads(options, lib.llama_n_threads(context), lib.llama_n_threads_batch(context)),
        "waiting threads": thread_waiting(),
        "flash attention": ("on" if loaded.flash_attention else "off")
        + (f" ({loaded.attention})" if loaded.attention is not None else ""),
        "kv cache": f"{options.kv_type_k} keys, {options.kv_type_v} values",
        "tokenizer": tokenizer.kind,
        "llama.cpp": f"{flags['llama.cpp']} (llama-cpp-python {flags['llama-cpp-python']}), {flags['instructions']}, "
        f"gpu {flags['gpu']}, blas {flags['blas']}",
    }
    if not survives_repacking():
        details["amx"] = "off, since this build crashes with it: build llama-cpp-python with GCC 13.2 or newer"
    if _windowed(loaded, options):
        details["sliding window"] = "only its last tokens are kept, so histories are read again after an edit"
    for kind in ("lora", "control vector"):
        if some := [str(one) for one in adapters.own if one.kind == kind]:
            details[kind] = "; ".join(some)
    for name, applied in adapters.named.items():
        details[f"adapter {name}"] = "; ".join(f"{one.kind} {one}" for one in applied)
    if options.keep_states is not None:
        details["kept states"] = f"{options.keep_states}, at most {options.keep_states_gib:g} GiB"
    if options.draft:
        details["draft"] = f"{options.draft}, {options.draft_tokens} tokens at once"
    return details


def _threads(options: LlamaOptions, answering: int, reading: int) -> str:
    """How many threads compute, and why where nobody said."""
    return f"{answering if options.threads else default_threads()}, {reading} for prompts"


def _memory(log_lines: Sequence[str]) -> str:
    """The memory that llama.cpp allocated, by kind and device."""
    allocated: dict[tuple[str, str], float] = {}
    for device, kind, mib in (match.groups() for line in log_lines if (match := _BUFFER.search(line))):
        allocated[kind, device] = allocated.get((kind, device), 0.0) + float(mib)
    words = {"model": "weights", "KV": "cache", "RS": "recurrent state", "compute": "computing", "output": "output"}
    return ", ".join(
        f"{size(mib * 2**20)} {words[kind]} on {device}" for (kind, device), mib in allocated.items() if mib
    )


def _offloaded(loaded: Loaded) -> str:
    for line in loaded.log_lines:
        if found := _OFFLOADED.search(line):
            cards = ", ".join(device.name for device in loaded.devices if device.is_gpu)
            return f"{found[1]} of {found[2]} ({cards})"
    return f"0 of {len(loaded.plan.needs.layers) + 1}"
