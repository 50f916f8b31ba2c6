"""What a loaded model says about itself: sizes, vocabulary, what is really in use, what its makers recommend."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import version

import torch

from chatbridge import ModelInfo, Sampling, thread_waiting
from chatbridge_rwkv.checkpoint import trained_context
from chatbridge_rwkv.loading import Loaded
from chatbridge_rwkv.options import RwkvOptions
from chatbridge_rwkv.planning import DEFAULT_CONTEXT
from chatbridge_rwkv.tokenizer import END, RwkvTokenizer

MAX_BATCH = 32

_RECOMMENDED = {
    # ChatRWKV's v2/chat.py, and its API_DEMO_CHAT.py for those that came later.
    4: {"temperature": 1.2, "top_p": 0.5, "presence_penalty": 0.4, "frequency_penalty": 0.4},
    5: {"temperature": 1.0, "top_p": 0.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
}


def fingerprint(loaded: Loaded) -> str:
    """Identifies all that a state depends on: the file, and where each layer is computed in which type."""
    depends = repr((loaded.checkpoint.fingerprint, loaded.slots, type(loaded.arithmetic).__name__, version("rwkv")))
    return f"rwkv-{blake2b(depends.encode(), digest_size=16).hexdigest()}"


def describe(
    loaded: Loaded, options: RwkvOptions, tokenizer: RwkvTokenizer, adapters: Mapping[str, str], fingerprint: str
) -> ModelInfo:
    """What `RwkvModel.info` tells. `adapters`: the digest of each by its name."""
    checkpoint = loaded.checkpoint
    return ModelInfo(
        name=checkpoint.path.stem,
        architecture=checkpoint.name,
        context_length=context_length(loaded, options),
        vocab_size=checkpoint.vocab_size,
        fingerprint=fingerprint,
        vocabulary=tokenizer.fingerprint,
        eos=(END,),
        bos=None,
        max_batch=MAX_BATCH,
        can_trim=False,
        specials=tokenizer.specials,
        sampling=recommended(loaded, options),
        adapters=dict(adapters),
        details=_details(loaded, options, tokenizer, adapters),
    )


def context_length(loaded: Loaded, options: RwkvOptions) -> int:
    """Tokens of a conversation before its beginning is left out: what is set, or was trained, or 4096."""
    return options.context_length or trained_context(loaded.checkpoint.path) or DEFAULT_CONTEXT


def recommended(loaded: Loaded, options: RwkvOptions) -> Sampling:
    """ChatRWKV's own values, with the options' names for two of them on top."""
    values: dict[str, float] = {**_RECOMMENDED[4 if loaded.checkpoint.version == 4 else 5], "top_k": 0, "min_p": 0}
    if options.alpha_presence is not None:
        values["presence_penalty"] = options.alpha_presence
    if options.alpha_frequency is not None:
        values["frequency_penalty"] = options.alpha_frequency
    return Sampling.model_validate(values)


def _details(
    loaded: Loaded, options: RwkvOptions, tokenizer: RwkvTokenizer, adapters: Mapping[str, str]
) -> dict[str, str]:
    checkpoint = loaded.checkpoint
    parameters = checkpoint.parameters
    details = {
        "file": str(checkpoint.path),
        "parameters": f"{parameters / 1e6:,.1f} M" if parameters < 1e9 else f"{parameters / 1e9:,.2f} B",
        "strategy": loaded.strategy,
        "memory": loaded.report,
        "state": f"{loaded.layout.nbytes / 2**20:.2f} MiB for each conversation",
        "together": loaded.unbatched or f"up to {MAX_BATCH} conversations in one batch",
        "tokenizer": f"{tokenizer.kind}, {tokenizer.size} ids for {checkpoint.vocab_size} rows",
        "threads": str(torch.get_num_threads()),
        "waiting threads": thread_waiting(),
        "rwkv": f"{version('rwkv')} on torch {torch.__version__}, JIT {'on' if loaded.jit else 'off'}, CUDA kernels "
        + ("on" if options.cuda_kernels else "off"),
    }
    if loaded.converted is not None:
        details["converted"] = str(loaded.converted)
    if adapters:
        details["adapters"] = ", ".join(adapters)
    if options.keep_states:
        details["kept states"] = f"{options.keep_states}, at most {options.keep_states_gib:g} GiB"
    return details
