"""What the backend is called, which keys it takes, and how the worker loads a model; imports NumPy only then.

Knows neither the file format nor the arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from chatbridge import BackendType, ConfigPath, Options, guide_path

if TYPE_CHECKING:
    from chatbridge_numpy.model import NumpyModel

_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",  # NumPy's wheels
    "OMP_NUM_THREADS",  # other builds of OpenBLAS, BLIS
    "MKL_NUM_THREADS",  # conda
    "VECLIB_MAXIMUM_THREADS",  # macOS
)


class NumpyOptions(Options):
    """Keys that a model of the `numpy` backend accepts."""

    path: Annotated[
        ConfigPath | None, Field(description="A LLaMA-architecture GGUF file; without it, the bundled guide.")
    ] = None
    context_length: Annotated[
        int | None, Field(ge=8, description="Tokens per conversation; without it, what the model was trained for.")
    ] = None
    threads: Annotated[
        int, Field(ge=1, le=1024, description="Processor cores to use; for models of a few megabytes, 1 is fastest.")
    ] = 1


def load(options: NumpyOptions, progress: Callable[[float, str], None]) -> NumpyModel:
    """Read the file and return the model, with weights as float32. Raises ModelLoadError."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(options.threads)  # BLAS reads these once, when NumPy is first imported
    from chatbridge_numpy.model import load_model

    path = guide_path() if options.path is None else Path(options.path)
    return load_model(path, options.context_length, progress)


numpy = BackendType(
    "numpy", NumpyOptions, "LLaMA-architecture GGUF files in plain NumPy; small models, no compiler", load=load
)
