"""Plans and conversions for tests of plugins: by a well-known name, and with a progress that counts or kills.

Knows no backend and no converter but those that it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chatbridge.engine.backend import BackendType
from chatbridge.model_files.inspect import inspect_model
from chatbridge.model_tools.converter import Conversion, Converter
from chatbridge.model_tools.planning.known_models import known_model
from chatbridge.model_tools.planning.machine import Machine, parse_devices
from chatbridge.model_tools.planning.memory_plan import MemoryPlan, PlanRequest
from chatbridge.model_tools.report import Report


class KilledWork(BaseException):
    """What ends a program, and not only its work."""


class CountedProgress:
    """A `WorkProgress` that keeps what it is told. `kill_at`: the call of `advance` that raises KilledWork.

    `stages`: for each what was done, the bytes in all, and those that were done. `calls`: of `advance`.
    """

    def __init__(self, kill_at: int = 0) -> None:
        self.stages: list[list[Any]] = []
        self.calls, self._kill_at = 0, kill_at

    def begin(self, doing: str, total: int) -> None:
        """A new stage."""
        self.stages.append([doing, total, 0])

    def advance(self, nbytes: int) -> None:
        """So many bytes more of it, unless this is the end."""
        self.calls += 1
        if self.calls == self._kill_at:
            raise KilledWork
        self.stages[-1][2] += nbytes


def run_converter(
    converters: Iterable[Converter], source: Path, target: str, output: Path, progress: CountedProgress | None = None
) -> CountedProgress:
    """Convert as `chatbridge model convert` does, by the first that fits. Raises ModelLoadError, KilledWork."""
    found, progress = inspect_model(source), progress or CountedProgress()
    converter = next(one for one in converters if one.reads(found) and one.writes(target))
    work = Conversion(found, target, output, {}, progress, Report(f"model convert --to {target}"))
    if converter.check is not None:
        converter.check(work)
    converter.convert(work)
    return progress


def plan_known(
    backend: BackendType,
    name: str,
    devices: str | Machine,
    quantization: str = "",
    conversations: int = 0,
    **options: Any,
) -> MemoryPlan:
    """What a backend plans for a well-known model on a machine, as "8xA100-40G". `options`: of the backend."""
    model = known_model(name)
    assert model is not None, f"{name} is no well-known model"
    assert backend.plan is not None, f"{backend.name} tells no plan"
    machine = parse_devices(devices) if isinstance(devices, str) else devices
    asked = backend.options.model_validate({"path": name, **options})
    return backend.plan(asked, machine, PlanRequest(conversations, quantization, model))
