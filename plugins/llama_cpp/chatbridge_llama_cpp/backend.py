"""What the backend is called, which keys it takes, and how the worker loads a model; imports llama.cpp only then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from chatbridge import BackendType, DiskCache
from chatbridge_llama_cpp.options import LlamaOptions

if TYPE_CHECKING:
    from chatbridge import Machine, MemoryPlan, PlanRequest
    from chatbridge_llama_cpp.model import LlamaModel


def load(options: LlamaOptions, progress: Callable[[float, str], None], outputs: int | None = None) -> LlamaModel:
    """Load the model and return it with everything asked for in use. Raises ModelLoadError.

    `outputs`: tokens of one call whose logits are wanted, for `LlamaModel.logits`; else as many as answering takes.
    """
    from chatbridge_llama_cpp import describe, loading
    from chatbridge_llama_cpp.adapters import Adapters
    from chatbridge_llama_cpp.decoder import Decoder
    from chatbridge_llama_cpp.load_draft import load_draft
    from chatbridge_llama_cpp.model import LlamaModel
    from chatbridge_llama_cpp.native import lib
    from chatbridge_llama_cpp.sampler import Samplers
    from chatbridge_llama_cpp.state import Sequences
    from chatbridge_llama_cpp.tokenizer import LlamaTokenizer

    with ExitStack() as undo:
        loaded = loading.load(options, progress, outputs)
        undo.callback(loaded.free)
        adapters = Adapters(options, loaded.model, loaded.context, loaded.files[0])
        vocabulary = lib.llama_model_get_vocab(loaded.model)
        tokenizer = LlamaTokenizer(vocabulary, loaded.files[0].metadata)
        fingerprint = describe.fingerprint(loaded, options, adapters)
        info = describe.describe(loaded, options, tokenizer, adapters, fingerprint)
        draft = load_draft(options, loaded, info, undo)
        samplers = Samplers(options, vocabulary, tokenizer.size, info.context_length)
        sequences = Sequences(
            loaded.context, describe.layout(loaded, options), fingerprint, info.context_length, adapters.fingerprints
        )
        decoder = Decoder(loaded.context, sequences, tokenizer.size, loaded.max_outputs)
        disk_cache = DiskCache.from_options(options, fingerprint)
        free = undo.pop_all().close
    progress(1.0, "ready")
    return LlamaModel(info, tokenizer, decoder, samplers, adapters, free, draft=draft, disk_cache=disk_cache)


def plan(options: LlamaOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """What the model takes of a machine, from its header alone. Raises ModelLoadError."""
    from chatbridge_llama_cpp import planning

    return planning.plan(options, machine, request)


def build_info() -> dict[str, str]:
    """What `chatbridge doctor` tells: the engine's version, and what it was built for."""
    from chatbridge_llama_cpp.native import build_flags

    return build_flags()


llama_cpp = BackendType(
    "llama_cpp",
    LlamaOptions,
    "every GGUF model through llama.cpp, quantised, on processors and graphics cards",
    load=load,
    build_info=build_info,
    plan=plan,
)
