"""What the backend is called, which keys it takes, and how the worker loads a model; imports torch only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatbridge import BackendType, DiskCache, ModelLoadError, limit_blas_threads, usable_cores
from chatbridge_glm.options import GlmOptions

if TYPE_CHECKING:
    from chatbridge import Machine, MemoryPlan, PlanRequest
    from chatbridge_glm.loading import Loaded
    from chatbridge_glm.local_model import GlmModel
    from chatbridge_glm.tokenizer import GlmTokenizer


def load(options: GlmOptions, progress: Callable[[float, str], None]) -> GlmModel:
    """Load the model and return it with everything asked for in use. Raises ModelLoadError."""
    _use_threads(options.threads)
    from chatbridge_glm import describe, loading
    from chatbridge_glm.local_model import GlmModel
    from chatbridge_glm.memory import PIECE, PIECE_ON_CARDS

    tokenizer = tokenizer_for(options)
    loaded = loading.load(options, progress)
    _fits(tokenizer, loaded)
    info = describe.describe(loaded, options, tokenizer)
    kept = DiskCache.from_options(options, info.fingerprint)
    piece = PIECE if set(loaded.plan.devices) == {"cpu"} else PIECE_ON_CARDS
    model = GlmModel(info, tokenizer, loaded.model, loaded.layout, loaded.prefixes, piece, kept)
    progress(1.0, "ready")
    return model


def plan(options: GlmOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """What the model takes of a machine, from headers alone. Raises ModelLoadError."""
    from chatbridge_glm import planning

    return planning.plan(options, machine, request)


def tokenizer_for(options: GlmOptions) -> GlmTokenizer:
    """The vocabulary of the model that the options name. Raises ModelLoadError."""
    from chatbridge_glm import checkpoint
    from chatbridge_glm.tokenizer import GlmTokenizer

    about = checkpoint.read(options.path, options.config, options.tokenizer)
    return GlmTokenizer(about.tokenizer, about.anchor, about.specials)


def build_info() -> dict[str, str]:
    """What `chatbridge doctor` tells: torch's version, which cards it sees, and what helps with packed weights."""
    import torch

    from chatbridge_glm.quantization import kernel_works

    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    kernels = [f"int{bits}" for bits in (8, 4) if kernel_works(bits)]
    return {
        "torch": str(torch.__version__),
        "cards": ", ".join(cards) or "none that torch can use",
        "packed kernels (dtype: bf16)": ", ".join(kernels) or "none",
        "threads": str(torch.get_num_threads()),
    }


def _fits(tokenizer: GlmTokenizer, loaded: Loaded) -> None:
    """Raises ModelLoadError where the vocabulary and the model don't belong together."""
    config = loaded.checkpoint.config
    if tokenizer.size > config.vocab_size:
        raise ModelLoadError(
            f"{loaded.checkpoint.tokenizer}: it has ids up to {tokenizer.size - 1}, and the model has "
            f"{config.vocab_size} rows: they do not belong together. ChatGLM-6B's first files count 20,000 pictures "
            "more; take tokenizer and weights of one date"
        )
    if config.sop not in tokenizer.specials.values():
        raise ModelLoadError(
            f"{loaded.checkpoint.tokenizer}: the model begins its answers with id {config.sop}, which is no control "
            "token of this vocabulary: they do not belong together"
        )


def _use_threads(count: int | None) -> None:
    if count is not None:
        limit_blas_threads(count, before=("torch", "numpy"))
    import torch

    # Torch knows of cores, and not of a container that may use fewer of them.
    torch.set_num_threads(count or min(torch.get_num_threads(), usable_cores()))


glm = BackendType(
    "glm",
    GlmOptions,
    "ChatGLM-6B and GLM-130B in torch, whole or in 8 or 4 bits, with P-Tuning prefixes",
    load=load,
    build_info=build_info,
    plan=plan,
)
