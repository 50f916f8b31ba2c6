"""Plans what lies at a path, or what a well-known name stands for, by the backend that runs it.

Knows backends by what they offer (`BackendType.plan`), and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatbridge.errors import ChatbridgeError, ModelLoadError, PluginError
from chatbridge.model_files.kinds import exists
from chatbridge.model_tools.fetching.catalogue import catalogue, named
from chatbridge.model_tools.planning.known_models import MODELS, KnownModel, known_model
from chatbridge.model_tools.planning.machine import Machine
from chatbridge.model_tools.planning.memory_plan import MemoryPlan, PlanRequest
from chatbridge.operations.folders import models_folder
from chatbridge.suggest import did_you_mean

if TYPE_CHECKING:
    from chatbridge.config.settings import ModelSettings
    from chatbridge.engine.backend import BackendType

_ADAPTERS = ("peft", "gguf-adapter", "ptuning")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of the command line: 0 and "" for what a backend takes by itself.

    `context`: tokens of a conversation; `conversations`: at once; `quantization`: of the weights; `backend`: its name.
    `devices`: whether the machine was written down, so that each device of it is to be used.
    """

    context: int = 0
    conversations: int = 0
    quantization: str = ""
    backend: str = ""
    devices: bool = False


def plan_place(place: str, backends: Mapping[str, BackendType], machine: Machine, wish: Wish) -> MemoryPlan:
    """The plan for a file, a folder, a well-known name, or one of the catalogue that was fetched.

    Raises ModelLoadError, or PluginError.
    """
    path, model = Path(place), None
    if not exists(path) and (model := known_model(place)) is None and (entry := named(place)) is not None:
        models = models_folder()
        if (fetched := entry.path(models) if models is not None else None) is None:
            raise ModelLoadError(f"{entry.missing}; it is planned by its files")
        path, place = fetched, str(fetched)
    if not exists(path) and model is None:
        hint = did_you_mean(place.lower(), {*MODELS, *catalogue()})
        raise ModelLoadError(
            f"{place}: there is no such file or folder, and no model of that name is known here{hint}"
            f"{'' if hint else '; names are such as chatglm-6b, glm-130b, llama-7b and rwkv-4-14b'}"
        )
    if model is not None:
        names = _backends_of_known(model)
    else:
        place, names = _backends_of_files(path, backends)
    chosen = [wish.backend] if wish.backend else names
    if wish.devices and machine.cards and not wish.backend:
        _refuse_without_cards(place, chosen, backends)
    there = [name for name in chosen if name in backends]
    if not there:
        raise ModelLoadError(f"{place}: {_not_installed(chosen)}")
    refused: ChatbridgeError | None = None
    for name in there:
        try:
            plan = _planned(backends[name], place, model, machine, wish)
            return _with_idle(plan, machine, wish, cards=backends[name].cards)
        except ModelLoadError as error:  # another backend may have the weights in what is asked for
            refused = refused or error
            if not wish.quantization:
                break
    assert refused is not None
    raise refused


def _refuse_without_cards(place: str, chosen: Sequence[str], backends: Mapping[str, BackendType]) -> None:
    """Raise ModelLoadError where the backend that would use the cards is not installed, and what is there uses none."""
    from chatbridge.plugins.packages import install_command

    missing = [name for name in chosen if name not in backends]
    there = [name for name in chosen if name in backends]
    if there and missing and not any(backends[name].cards for name in there):
        ways = {name: install_command("backend", name) for name in missing}
        words = " or ".join(f"{name} ({way})" if way else name for name, way in ways.items())
        none = "which is not" if len(missing) == 1 else "of which none is"
        raise ModelLoadError(
            f"{place}: a plan for these cards needs the backend {words}, {none} installed; --backend {there[0]} plans "
            f"it in main memory alone"
        )


def _with_idle(plan: MemoryPlan, machine: Machine, wish: Wish, *, cards: bool) -> MemoryPlan:
    """The plan, with a note of devices that were named and hold nothing."""
    idle = [f"cuda:{n} {card.name}" for n, card in enumerate(machine.cards) if not _holds_something(plan, n)]
    if not wish.devices or not idle:
        return plan
    which = "the cards that --devices names hold" if len(idle) == len(machine.cards) else f"{', '.join(idle)} holds"
    why = "puts nothing there by its settings" if cards else "uses no card"
    return replace(plan, notes=(*plan.notes, f"{which} nothing of it: the {plan.backend} backend {why}"))


def _holds_something(plan: MemoryPlan, number: int) -> bool:
    return any(one.device == f"cuda:{number}" or (one.device == "cuda" and not number) for one in plan.devices)


def plan_options(backend: BackendType, options: Any, machine: Machine, request: PlanRequest) -> MemoryPlan | None:
    """What a backend says of a model with these options; None where it tells no plan.

    Raises ModelLoadError for what can't be, PluginError for a backend that fails.
    """
    if backend.plan is None:
        return None
    try:
        return backend.plan(options, machine, request)
    except ChatbridgeError:
        raise
    except Exception as error:  # whatever a plugin may raise
        raise PluginError(f"backend {backend.name}: its plan failed: {type(error).__name__}: {error}") from error


def too_large(
    models: Iterable[ModelSettings], backends: Mapping[str, BackendType], machine: Machine
) -> Iterator[tuple[str, MemoryPlan]]:
    """Names of models of bots.yaml that do not fit, each taken for itself, with their plans.

    Models that can't be planned at all are left to the load, which says why.
    """
    for model in models:
        backend = backends.get(model.backend)
        with suppress(ChatbridgeError):
            plan = plan_options(backend, model.options, machine, PlanRequest()) if backend is not None else None
            if plan is not None and not plan.fits:
                yield model.name, plan


def _planned(backend: BackendType, place: str, model: KnownModel | None, machine: Machine, wish: Wish) -> MemoryPlan:
    keys: dict[str, Any] = {"path": place}
    if wish.context:
        keys["context_length"] = wish.context
    if strange := [key for key in keys if key not in backend.options.model_fields]:
        raise ModelLoadError(f"{place}: the backend {backend.name} has no key {strange[0]}, so it can't be planned")
    try:
        options = backend.options.model_validate(keys)
    except ValueError as error:
        lines = " ".join(str(error).split())
        raise ModelLoadError(f"{place}: the backend {backend.name} does not take this: {lines[:300]}") from None
    found = plan_options(backend, options, machine, PlanRequest(wish.conversations, wish.quantization, model))
    if found is None:
        raise ModelLoadError(f"{place}: the backend {backend.name} tells no plan")
    return found


def _backends_of_known(model: KnownModel) -> list[str]:
    from chatbridge.model_files.running import RUNS

    words = {model.layout, *(("gguf", "gguf/llama") if model.runs_as_gguf else ())}
    own = [name for name, runs in RUNS.items() if model.layout in runs]
    return own + [name for name, runs in RUNS.items() if name not in own and words.intersection(runs)]


def _backends_of_files(path: Path, backends: Mapping[str, BackendType]) -> tuple[str, list[str]]:
    """What a backend is to be given, as the one GGUF file of a folder, and the backends that run it."""
    from chatbridge.model_files.inspect import sound_model

    found = sound_model(path, {name: backend.runs for name, backend in backends.items() if backend.runs})
    if found.layout in _ADAPTERS:
        raise ModelLoadError(f"{found.path}: this is an adapter and no model; plan the model that it is for")
    if not found.backends:
        raise ModelLoadError(
            f"{found.path}: nothing runs it as it is; `chatbridge model inspect` says what can be made of it"
        )
    return str(found.path), [*found.backends]


def _not_installed(names: list[str]) -> str:
    from chatbridge.plugins.packages import install_command

    commands = [command for name in names if (command := install_command("backend", name))]
    what = " or ".join(names)
    return f"the backend {what} is not installed" + (f": {commands[0]}" if commands else "")
