"""Brings in the rwkv package, for one model at a time: it reads environment variables when it is imported.

So its module is executed anew for each model, under the switches that this model needs: a process can hold RWKV-4 and
RWKV-7 side by side, with globals of their own. Knows switches; knows no file and no strategy.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from chatbridge import ModelLoadError


@dataclass(frozen=True, slots=True)
class Switches:
    """What the package is told by its variables. `v7`, `deep_embedding`: what the file is. `directml`: the device."""

    v7: bool
    jit: bool = True
    cuda_kernels: bool = False
    deep_embedding: bool = False
    directml: bool = False

    def variables(self) -> dict[str, str]:
        values = {
            "RWKV_V7_ON": self.v7,
            "RWKV_JIT_ON": self.jit,
            "RWKV_CUDA_ON": self.cuda_kernels,
            "RWKV_DE_VERSION": self.deep_embedding,
            "RWKV_DML_ON": self.directml,
        }
        return {name: str(int(value)) for name, value in values.items()}


def folder() -> Path:
    """Where the package lies, with its vocabulary; found without importing it."""
    spec = importlib.util.find_spec("rwkv")
    if spec is None or not spec.submodule_search_locations:
        raise ModelLoadError("the package rwkv is missing: pip install 'rwkv>=0.8.32,<0.9'")
    return Path(next(iter(spec.submodule_search_locations)))


def module(switches: Switches) -> ModuleType:
    """The package's `rwkv.model` under these switches. The variables stay set: it reads some of them later, too."""
    os.environ.update(switches.variables())
    path = folder() / "model.py"
    spec = importlib.util.spec_from_file_location("rwkv.model", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    with quiet():
        try:
            spec.loader.exec_module(made)
        except Exception as error:
            hint = "; cuda_kernels needs a C++ compiler and the CUDA toolkit" if switches.cuda_kernels else ""
            raise ModelLoadError(f"the package rwkv can't be used: {type(error).__name__}: {error}{hint}") from error
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """What the package prints, and torch's warnings about what the package uses, go nowhere while this lasts.

    It also collects garbage after each layer, which takes seconds unless what is there already is left alone.
    """
    gc.freeze()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():  # noqa: PTH123
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            gc.unfreeze()


def missing(name: str) -> bool:
    """Whether a package is not installed; imports nothing."""
    return importlib.util.find_spec(name) is None
