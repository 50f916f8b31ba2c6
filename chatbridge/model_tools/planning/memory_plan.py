"""What a model takes of each device, whether that is there, and what would make it fit; the values and their words.

A backend makes a plan from headers (`BackendType.plan`), and refuses by the same plan what does not fit when it loads.
Knows no backend and no format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.planning.known_models import KnownModel
from chatbridge.model_tools.planning.machine import MAIN, Machine

Part = Literal["weights", "cache", "working memory", "program"]
PARTS: tuple[Part, ...] = ("weights", "cache", "working memory", "program")
"""Weights; what conversations are remembered by; what a step needs besides; what libraries take for themselves."""

MAX_TRIED = 100
"""Changes that are planned before it is given up that one makes the model fit."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked of a plan besides a backend's options.

    `conversations`: of full length, held at once; 0 for what the backend takes by itself. `quantization`: what the
    weights are to be in, by the backend's word for it ("int4", "nf4", "q4_0"); "" for what files and options say.
    `model`: the sizes of a well-known model, whose files need not be there.
    """

    conversations: int = 0
    quantization: str = ""
    model: KnownModel | None = None


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device. `device`: as options call it; `name`: as people do. `free`: in bytes, None where it can't be told.

    `parts`: bytes for good. `loading`: the most bytes while the model is read. `holds`: which layers, in words.
    """

    device: str
    name: str
    free: int | None
    parts: Mapping[Part, int]
    loading: int = 0
    holds: str = ""

    @property
    def needed(self) -> int:
        """Bytes for good."""
        return sum(self.parts.values())

    @property
    def peak(self) -> int:
        """Bytes at most, while loading or later."""
        return max(self.needed, self.loading)

    @property
    def fits(self) -> bool:
        return self.free is None or self.peak <= self.free


@dataclass(frozen=True, slots=True)
class Change:
    """Something that might make a model fit, as bots.yaml says it ("quantization: int4"), and its plan."""

    change: str
    plan: MemoryPlan


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where a model goes. `model`: a path or a name. `quantization`: what its weights are in.

    `context`: tokens of one conversation; `conversations`: held at once, each of full length. `tried`: changes that
    were planned because it does not fit, in order; the last one fits, or none does. `otherwise`: what to do then.
    """

    model: str
    backend: str
    quantization: str
    context: int
    conversations: int
    devices: tuple[DevicePlan, ...]
    notes: tuple[str, ...] = ()
    tried: tuple[Change, ...] = ()
    otherwise: str = "take a smaller model, or free memory"

    @property
    def fits(self) -> bool:
        return all(device.fits for device in self.devices)

    @property
    def remedy(self) -> Change | None:
        """The change that makes it fit."""
        return next((one for one in self.tried if one.plan.fits), None)

    def on(self, device: str) -> DevicePlan | None:
        """A device's share; None where nothing goes there."""
        return next((one for one in self.devices if one.device == device), None)

    def shortage(self) -> str:
        """What is too little, in words; "" where all fits."""
        for one in self.devices:
            if one.fits:
                continue
            free = f"{gib(one.free or 0)} are free"
            if one.device != MAIN:
                return f"{one.device} would need {gib(one.peak)}, and {free}"
            doing = "loading needs" if one.loading > one.needed else "it needs"
            return f"{doing} {gib(one.peak)} of main memory, and {free}"
        return ""

    def advice(self) -> str:
        """What to do where it does not fit."""
        return f"{self.remedy.change} would fit" if self.remedy is not None else self.otherwise

    def as_json(self) -> dict[str, Any]:
        """The plan for programs, by the names that the README gives."""
        return {
            "model": self.model, "backend": self.backend, "quantization": self.quantization, "context": self.context,
            "conversations": self.conversations, "fits": self.fits, "shortage": self.shortage(),
            "devices": [_device_json(one) for one in self.devices], "notes": list(self.notes),
            "suggestions": [{"change": one.change, **one.plan.as_json()} for one in self.tried],
            "otherwise": "" if self.fits or self.remedy else self.otherwise,
        }  # fmt: skip


def device_plan(
    machine: Machine, device: str, parts: Mapping[Part, int], *, loading: int = 0, holds: str = ""
) -> DevicePlan:
    """A device's share, with what the machine has there. Parts of no bytes are left out."""
    kept: dict[Part, int] = {part: parts[part] for part in PARTS if parts.get(part, 0)}
    return DevicePlan(device, machine.name(device), machine.free(device), kept, loading, holds)


def with_changes(plan: MemoryPlan, changes: Iterable[tuple[str, Callable[[], MemoryPlan]]]) -> MemoryPlan:
    """The plan; where it does not fit, with changes planned one after another until one fits.

    Changes that a backend refuses by ModelLoadError are left out.
    """
    if plan.fits:
        return plan
    tried: list[Change] = []
    for change, planned in changes:
        try:
            tried.append(Change(change, planned()))
        except ModelLoadError:
            continue
        if tried[-1].plan.fits or len(tried) >= MAX_TRIED:
            break
    return replace(plan, tried=tuple(tried))


def refuse_what_does_not_fit(plan: MemoryPlan) -> None:
    """Raise ModelLoadError, with what would fit, where a plan takes more than there is."""
    if not plan.fits:
        raise ModelLoadError(f"{plan.model}: {plan.shortage()}; {plan.advice()}")


def gib(count: float) -> str:
    """Bytes for people, in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _device_json(one: DevicePlan) -> dict[str, Any]:
    return {
        "device": one.device, "name": one.name, "free": one.free, "needed": one.needed, "loading": one.loading,
        "fits": one.fits, "holds": one.holds, "parts": {part: one.parts.get(part, 0) for part in PARTS},
    }  # fmt: skip
