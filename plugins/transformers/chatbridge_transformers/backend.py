"""What the backend is called, which keys it takes, and how the worker loads a model; imports torch only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatbridge import BackendType, DiskCache, ModelLoadError, limit_blas_threads, usable_cores
from chatbridge_transformers.options import TransformersOptions

if TYPE_CHECKING:
    from chatbridge import Machine, MemoryPlan, PlanRequest
    from chatbridge_transformers.adapters import AdapterFile
    from chatbridge_transformers.loading import Loaded
    from chatbridge_transformers.model import TransformersModel
    from chatbridge_transformers.tokenizer import Found


_LEAST_SHARE = 0.5
"""Of a model's rows, the ids that its tokenizer has at least: models have some rows to spare, but not so many."""


def load(options: TransformersOptions, progress: Callable[[float, str], None]) -> TransformersModel:
    """Load the model and return it with everything asked for in use. Raises ModelLoadError."""
    from chatbridge_transformers import folder

    progress(0.0, "looking at the files")
    model_folder = folder.read(folder.locate(options.path, options.revision, progress))
    _use_threads(options.threads)
    from chatbridge_transformers import adapters, describe, loading, products, tokenizer, ways
    from chatbridge_transformers.applying import Adapters
    from chatbridge_transformers.causal import Causal
    from chatbridge_transformers.model import TransformersModel
    from chatbridge_transformers.state import KvStates

    own = [adapters.read(adapter, "lora", progress) for adapter in options.lora]
    named = {
        name: [adapters.read(adapter, f"adapters: {name}", progress) for adapter in one.lora]
        for name, one in options.adapters.items()
    }
    loaded = loading.load(options, model_folder, progress)
    found = _tokenizer(options, loaded, own)
    causal = Causal(loaded.model)
    applied = Adapters(causal, merge=options.quantization is None and options.device_map is None)
    for adapter in own:
        applied.add_own(adapter)
    for name, files in named.items():
        applied.add_named(name, files)
    rows = int(loaded.model.get_input_embeddings().weight.shape[0])
    _check_vocabulary(found, rows, own, [file for files in named.values() for file in files])
    ids = tokenizer.special_ids(found.tokenizer, loaded.folder, rows)
    products.quicken(loaded.model)
    chosen = ways.choose(
        causal,
        batched=options.batched,
        replace_attention=options.attention == "auto",
        exact=loaded.dtype == "float32" and options.quantization is None,
    )
    fingerprint = describe.fingerprint(loaded, options, applied, chosen)
    info = describe.describe(loaded, options, found, ids, applied, chosen, fingerprint)
    states = KvStates(fingerprint, info.context_length)
    model = TransformersModel(
        info, found.tokenizer, chosen, states, applied, DiskCache.from_options(options, fingerprint)
    )
    progress(1.0, "ready")
    return model


def plan(options: TransformersOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """What the model takes of a machine, from headers alone. Raises ModelLoadError."""
    from chatbridge_transformers import planning

    return planning.plan(options, machine, request)


def build_info() -> dict[str, str]:
    """What `chatbridge doctor` tells: versions, and which cards torch sees."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        **{name: installed(name) for name in ("transformers", "peft", "accelerate", "bitsandbytes")},
        "torch": str(torch.__version__),
        "cards": ", ".join(cards) or "none that torch can use",
        "threads": str(torch.get_num_threads()),
    }


def _tokenizer(options: TransformersOptions, loaded: Loaded, own: list[AdapterFile]) -> Found:
    """The tokenizer that is named, or the last adapter's that has one, or the model's."""
    from chatbridge_transformers import folder, tokenizer

    if options.tokenizer is not None:
        path = folder.locate(options.tokenizer, None, lambda share, doing: None, "tokenizer")
    else:
        path = next((one.path for one in reversed(own) if one.tokenizer), loaded.folder.path)
    return tokenizer.read(path, trust_remote_code=options.trust_remote_code)


def _check_vocabulary(found: Found, rows: int, own: list[AdapterFile], named: list[AdapterFile]) -> None:
    """Raise ModelLoadError where tokenizer, model and adapters are not of one vocabulary."""
    from chatbridge_transformers import tokenizer

    size = found.tokenizer.size
    brought = next((one for one in reversed(own) if one.rows is not None), None)
    if brought is not None and brought.rows != size:
        raise ModelLoadError(
            f"{brought.path}: the adapter is for a vocabulary of {brought.rows:,} ids, and the tokenizer {found.file} "
            f"has {size:,}: take the adapter's own tokenizer, by putting it into its folder or naming it by tokenizer:"
        )
    if size > rows:
        raise ModelLoadError(
            f"{found.file}: the tokenizer has {size:,} ids, and the model has rows for {rows:,}: they do not belong "
            f"together; take the model's own tokenizer, or the adapter that brings these rows along as lora"
        )
    if size < rows * _LEAST_SHARE:
        raise ModelLoadError(
            f"{found.file}: the tokenizer has {size:,} ids, and the model has rows for {rows:,}: it is another "
            f"model's, or only a part; take the model's own tokenizer"
        )
    for one in (*own, *named):
        if one.rows is None and one.tokenizer:
            theirs = tokenizer.read(one.path).tokenizer.size
            if theirs != size:
                raise ModelLoadError(
                    f"{one.path}: the adapter was made with a vocabulary of {theirs:,} ids, and the model has "
                    f"{size:,} here: it is for another base model"
                )


def _use_threads(count: int | None) -> None:
    if count is not None:
        limit_blas_threads(count, before=("torch", "numpy"))
    import torch

    # Torch knows of cores, and not of a container that may use fewer of them.
    torch.set_num_threads(count or min(torch.get_num_threads(), usable_cores()))


transformers = BackendType(
    "transformers",
    TransformersOptions,
    "every causal language model of Hugging Face's transformers, with PEFT adapters, on processors and cards",
    load=load,
    build_info=build_info,
    plan=plan,
)
