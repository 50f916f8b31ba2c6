"""What a LLaMA model takes of main memory in NumPy, told from its header or from published sizes; loads no weights.

The one place that reckons it: `chatbridge model plan` tells it, and loading refuses by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path

from chatbridge import (
    GgufHeader,
    Machine,
    MemoryPlan,
    ModelLoadError,
    PlanRequest,
    device_plan,
    with_changes,
)  # fmt: skip
from chatbridge_numpy.gguf_file import GgufFile
from chatbridge_numpy.params import Params, read_params

PROGRAM = 64 << 20
"""What Python and NumPy take before there is a model; measured with NumPy 2."""

DEFAULT_CONTEXT = 4096
"""Tokens of a conversation that are reckoned with where nobody has set a length: a cache grows as it is needed."""

_STEP_TOKENS = 512
_LEAST_CONTEXT = 256
_OTHERWISE = "use backend: llama_cpp, which keeps weights quantised, or take a smaller model"


def plan(path: Path, context_length: int | None, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """See `BackendType.plan`. Raises ModelLoadError."""
    if request.quantization.lower() not in ("", "f32", "fp32", "float32"):
        raise ModelLoadError(f"{request.quantization!r}: the numpy backend has weights in float32 alone")
    if request.model is not None and not request.model.runs_as_gguf:
        raise ModelLoadError(f"{request.model.name}: this is not known as a model of the numpy backend")
    file = GgufFile(path) if request.model is None else request.model.gguf()
    return memory_plan(file, read_params(file.metadata, file.path), context_length, machine, request.conversations or 1)


def memory_plan(
    file: GgufHeader, params: Params, context_length: int | None, machine: Machine, conversations: int = 1
) -> MemoryPlan:
    """The plan and, where it does not fit, what would. `context_length`: what is set, if anything."""
    context = context_length or min(params.context_length, DEFAULT_CONTEXT)
    planned = partial(_plan, file, params, machine)
    return with_changes(planned(context, conversations), _changes(planned, context, conversations))


def _plan(file: GgufHeader, params: Params, machine: Machine, context: int, conversations: int) -> MemoryPlan:
    sizes = {name: 4 * prod(tensor.shape) for name, tensor in file.tensors.items()}
    # A head that repeats the embedding is kept once more, turned round.
    weights = sum(sizes.values()) + (0 if "output.weight" in sizes else sizes.get("token_embd.weight", 0))
    rows = min(_STEP_TOKENS, context)
    working = 4 * rows * (6 * params.dim + 3 * params.hidden + params.heads * context)
    main = device_plan(
        machine,
        "cpu",
        {
            "weights": weights,
            "cache": conversations * context * 8 * params.layers * params.kv_heads * params.head_dim,
            "working memory": working,
            "program": PROGRAM,
        },
        # While a matrix is unpacked and turned round, it is there twice.
        loading=weights + 2 * max(sizes.values(), default=0) + PROGRAM,
        holds=f"layers 1 to {params.layers}",
    )
    return MemoryPlan(
        model=str(file.path), backend="numpy", quantization="float32", context=context, conversations=conversations,
        devices=(main,), otherwise=_OTHERWISE,
    )  # fmt: skip


def _changes(
    planned: Callable[[int, int], MemoryPlan], context: int, conversations: int
) -> Iterator[tuple[str, Callable[[], MemoryPlan]]]:
    while conversations > 1:
        conversations //= 2
        yield (
            f"{conversations} conversation{'s' * (conversations > 1)} at once",
            partial(planned, context, conversations),
        )
    while context // 2 >= _LEAST_CONTEXT:
        context //= 2
        yield f"context_length: {context}", partial(planned, context, 1)
