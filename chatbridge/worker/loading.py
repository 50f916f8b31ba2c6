"""Has a fresh worker process load its model, and waits until it has. Knows no request and no death afterwards."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from chatbridge.engine.backend import BackendType
from chatbridge.errors import ModelLoadError
from chatbridge.types import ModelInfo
from chatbridge.worker.process import Process
from chatbridge.worker.protocol import FromWorker, Load, Loaded, LoadFailed, Loading, plain_options


class DiedLoading(ModelLoadError):
    """The process ended, or hung, while the model loaded."""


def load_message(
    kind: BackendType,
    options: BaseModel,
    max_batch: int | None,
    memory_limit: int | None,
    kept_states: int,
    states_folder: Path | None,
) -> Load:
    """What tells a worker which model to load, and what it may have; see `WorkerBackend`."""
    function = kind.load
    assert function is not None, f"backend {kind.name!r} has no load="
    return Load(
        module=function.__module__,
        function=function.__qualname__,
        options_module=type(options).__module__,
        options_class=type(options).__qualname__,
        options=plain_options(options),
        max_batch=max_batch,
        paths=sys.path,
        memory_limit=memory_limit,
        kept_states=kept_states,
        states_folder=None if states_folder is None else str(states_folder),
    )


async def load_model(
    worker: Process, load: Load, name: str, on_progress: Callable[[float, str], None] | None, limit: float
) -> ModelInfo:
    """What the model says of itself, by the name that bots.yaml gives it. `limit`: seconds without a sign of life.

    Raises: ModelLoadError; DiedLoading where another try may go better.
    """
    worker.send(load)
    while (message := await _receive(worker, name, limit)) is not None:
        if isinstance(message, Loaded):
            return replace(message.info, name=name)
        if isinstance(message, LoadFailed):
            error = message.failure.error()
            raise error if isinstance(error, ModelLoadError) else ModelLoadError(f"{name}: {error}")
        if isinstance(message, Loading) and on_progress is not None:
            on_progress(message.share, message.doing)
    raise DiedLoading(f"the model {name!r} could not be loaded: {await worker.exit_reason()}")


async def _receive(worker: Process, name: str, limit: float) -> FromWorker | None:
    try:
        return await asyncio.wait_for(worker.receive(), limit)
    except TimeoutError:
        raise DiedLoading(
            f"the model {name!r} could not be loaded: nothing has come of it for {limit:g} s; raise its hang_timeout "
            "if it needs longer"
        ) from None
