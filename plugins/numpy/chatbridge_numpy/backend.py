"""What the backend is called, which keys it takes, and how the worker loads a model; imports NumPy only then.

Knows neither the file format nor the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from chatbridge import BackendType, ConfigPath, Options, guide_path, limit_blas_threads

if TYPE_CHECKING:
    from chatbridge import Machine, MemoryPlan, PlanRequest
    from chatbridge_numpy.model import NumpyModel


class NumpyOptions(Options, defer_build=True):
    """Keys that a model of the `numpy` backend accepts."""

    path: Annotated[
        ConfigPath | None, Field(description="A LLaMA-architecture GGUF file; without it, the bundled guide.")
    ] = None
    context_length: Annotated[
        int | None, Field(ge=8, description="Tokens per conversation; without it, what the model was trained for.")
    ] = None
    lora: Annotated[
        ConfigPath | None, Field(description="A LoRA adapter as a GGUF file; it is merged into the weights.")
    ] = None
    threads: Annotated[
        int, Field(ge=1, le=1024, description="Processor cores to use; 1 is fastest for a few megabytes.")
    ] = 1


def load(options: NumpyOptions, progress: Callable[[float, str], None]) -> NumpyModel:
    """Read the file and return the model, with weights as float32. Raises ModelLoadError."""
    limit_blas_threads(options.threads, before=("numpy",))
    from chatbridge_numpy.model import load_model

    return load_model(options.path or guide_path(), options.context_length, options.lora, progress)


def plan(options: NumpyOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """What the model takes of a machine, from its header alone. Raises ModelLoadError."""
    from chatbridge_numpy import planning

    return planning.plan(options.path or guide_path(), options.context_length, machine, request)


def build_info() -> dict[str, str]:
    """What `chatbridge doctor` tells: NumPy's version, and the library that multiplies its matrices."""
    from numpy import __version__

    from chatbridge_numpy.describe import blas

    return {"NumPy": __version__, "BLAS": blas()}


numpy = BackendType(
    "numpy",
    NumpyOptions,
    "LLaMA-architecture GGUF files in plain NumPy; small models, no compiler",
    load=load,
    build_info=build_info,
    plan=plan,
    cards=False,
)
