"""Loads the small model that guesses for a large one, and sees that the two fit. Knows files; guesses nothing."""

from __future__ import annotations

from contextlib import ExitStack

from chatbridge import GgufHeader, GgufStrings, ModelInfo, ModelLoadError
from chatbridge_llama_cpp import describe, loading
from chatbridge_llama_cpp.decoder import Decoder
from chatbridge_llama_cpp.draft import Draft
from chatbridge_llama_cpp.loading import Loaded
from chatbridge_llama_cpp.native import lib
from chatbridge_llama_cpp.options import LOOKUP, LlamaOptions
from chatbridge_llama_cpp.state import Sequences

MIN_PROBABILITY = 0.75
"""Of a guessed token; a less likely one costs more time than it saves, as in llama.cpp."""

_MAX_PADDING = 128
"""Vocabularies of one family may differ by so many unused ids at the end, as in llama.cpp."""

_SHARED = (
    *("mmap", "mlock", "sequences", "batch", "ubatch", "threads", "threads_batch", "unified", "flash_attention"),
    *("main_gpu", "split_mode", "tensor_split", "offload_kqv"),
)
"""Options that the small model shares with the large one."""


def load_draft(options: LlamaOptions, large: Loaded, info: ModelInfo, undo: ExitStack) -> Draft | None:
    """The small model that the options name, or None; `undo` gets what frees it. Raises ModelLoadError."""
    if options.draft is None:
        return None
    if not info.can_trim:
        raise ModelLoadError(
            f"draft: {options.draft} needs a model that can forget wrong guesses; {info.name} can't: leave it out"
        )
    if options.draft == LOOKUP:
        return None
    asked = {name: getattr(options, name) for name in _SHARED}
    asked |= {"path": options.draft, "context_length": info.context_length, "sequences": large.plan.sequences}
    asked |= {"gpu_layers": "auto" if options.draft_gpu_layers is None else options.draft_gpu_layers}
    small_options = LlamaOptions.model_validate(asked)
    try:
        small = loading.load(small_options, lambda share, doing: None)
    except ModelLoadError as error:
        raise ModelLoadError(f"draft: {error}") from error
    undo.callback(small.free)
    if lib.llama_model_is_recurrent(small.model) or lib.llama_model_is_hybrid(small.model):
        raise ModelLoadError(f"draft: {options.draft} can't forget wrong guesses; take one with attention alone")
    vocab_size = _common_ids(large.files[0], small.files[0])
    sequences = Sequences(small.context, describe.layout(small, small_options), "draft", info.context_length, {})
    decoder = Decoder(
        small.context, sequences, lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(small.model)), small.plan.sequences
    )
    return Draft(
        decoder,
        vocab_size,
        options.draft_tokens,
        MIN_PROBABILITY if options.draft_least is None else options.draft_least,
    )


def _common_ids(large: GgufHeader, small: GgufHeader) -> int:
    """How many ids both have. Raises ModelLoadError where they mean different texts."""
    tokens = [file.metadata.get("tokenizer.ggml.tokens") for file in (large, small)]
    one, other = (list(found) if isinstance(found, GgufStrings) else [] for found in tokens)
    both = min(len(one), len(other))
    same = large.metadata.get("tokenizer.ggml.model") == small.metadata.get("tokenizer.ggml.model")
    if same and both and abs(len(one) - len(other)) <= _MAX_PADDING and one[:both] == other[:both]:
        return both
    raise ModelLoadError(
        f"draft: {small.path} has another vocabulary than {large.path.name}, and can guess nothing for it; take a "
        f"smaller model of the same family"
    )
