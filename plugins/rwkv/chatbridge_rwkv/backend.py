"""What the backend is called, which keys it takes, and how the worker loads a model; imports torch only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatbridge import BackendType, DiskCache, ModelLoadError, default_threads, limit_blas_threads
from chatbridge_rwkv.options import RwkvOptions

if TYPE_CHECKING:
    from chatbridge import Machine, MemoryPlan, PlanRequest
    from chatbridge_rwkv.model import RwkvModel
    from chatbridge_rwkv.sampler import Rules
    from chatbridge_rwkv.tokenizer import RwkvTokenizer


def load(options: RwkvOptions, progress: Callable[[float, str], None]) -> RwkvModel:
    """Load the model and return it with everything asked for in use. Raises ModelLoadError."""
    _use_threads(options.threads)
    from chatbridge_rwkv import describe, initial, loading
    from chatbridge_rwkv.model import RwkvModel
    from chatbridge_rwkv.state import States
    from chatbridge_rwkv.tokenizer import choose

    loaded = loading.load(options, progress)
    checkpoint = loaded.checkpoint
    tokenizer = choose(options.tokenizer, checkpoint.path, checkpoint.vocab_size)
    rules = sampling_rules(options, tokenizer, checkpoint.vocab_size)
    initials = {
        name: initial.read(adapter.init_state, checkpoint, loaded.layout) for name, adapter in options.adapters.items()
    }
    fingerprint = describe.fingerprint(loaded)
    digests = {name: initial.digest(tensors) for name, tensors in initials.items()}
    if loaded.initial is not None:
        initials[""] = loaded.initial
    info = describe.describe(loaded, options, tokenizer, digests, fingerprint)
    states = States(loaded.layout, fingerprint, checkpoint.fingerprint, info.context_length)
    kept = DiskCache.from_options(options, fingerprint)
    model = RwkvModel(info, tokenizer, loaded.arithmetic, loaded.dtypes, states, rules, initials, kept)
    progress(1.0, "ready")
    return model


def plan(options: RwkvOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """What the model takes of a machine, from its header alone. Raises ModelLoadError."""
    from chatbridge_rwkv import planning

    return planning.plan(options, machine, request)


def sampling_rules(options: RwkvOptions, tokenizer: RwkvTokenizer, vocab_size: int) -> Rules:
    """The options' rules for sampling, by ids of this tokenizer. Raises ModelLoadError for what it has no id for."""
    from chatbridge_rwkv.sampler import Rules

    if outside := [token for token in options.token_ban if token >= vocab_size]:
        raise ModelLoadError(f"token_ban: {outside[0]} is outside the vocabulary of {vocab_size} ids")
    avoid = set()
    for character in options.avoid_repeat:
        ids = tokenizer.encode(character, start=False)
        if len(ids) != 1:
            raise ModelLoadError(f"avoid_repeat: {character!r} is {len(ids)} tokens in this vocabulary, and not one")
        avoid.add(ids[0])
    line_end = tokenizer.encode("\n", start=False)
    light = frozenset(
        token
        for token in range(tokenizer.size)
        if options.uncounted and tokenizer.decode([token]).decode("utf-8", "replace") in options.uncounted
    )
    return Rules(
        decay=options.alpha_decay or None,
        light=light,
        bans=options.token_ban,
        avoid=frozenset(avoid),
        chat_length=options.chat_length,
        line_end=line_end[-1],
    )


def build_info() -> dict[str, str]:
    """What `chatbridge doctor` tells: the package's version and torch's, and which cards it sees."""
    from importlib.metadata import version

    import torch

    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "rwkv": version("rwkv"),
        "torch": str(torch.__version__),
        "cards": ", ".join(cards) or "none that torch can use",
        "threads": str(torch.get_num_threads()),
    }


def _use_threads(count: int | None) -> None:
    if count is not None:
        limit_blas_threads(count, before=("torch", "numpy"))
    import torch

    # Torch knows of cores, and not of a container that may use fewer of them, nor of small ones.
    torch.set_num_threads(count or min(torch.get_num_threads(), default_threads().count))


rwkv = BackendType(
    "rwkv",
    RwkvOptions,
    "RWKV-4 to RWKV-7 by strategy strings: a small state for each conversation instead of a cache",
    load=load,
    build_info=build_info,
    plan=plan,
)
