"""Where a model goes on a machine and what it takes there, told from headers or from published sizes.

The one place that reckons it: `chatbridge model plan` tells it, and loading refuses by it. Loads nothing, not even
torch. Where `device_map` leaves it to accelerate, the plan fills cards in order, as accelerate does, about as full.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from chatbridge import (
    KnownModel,
    Machine,
    MemoryPlan,
    ModelLoadError,
    PlanRequest,
    TensorInfo,
    device_plan,
    with_changes,
)
from chatbridge_transformers import folder, memory
from chatbridge_transformers.folder import Folder
from chatbridge_transformers.options import TransformersOptions

DEFAULT_CONTEXT = 4096
_LEAST_CONTEXT = 512
_MAIN, _DISK = "cpu", "disk"
_SHORT = {"fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "bf16": "bfloat16"}
_PACKED = ("int8", "nf4", "fp4")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Model:
    """What is planned: config.json and the tensors of a model that is called so."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def of(cls, found: Folder, tensors: Mapping[str, TensorInfo]) -> Model:
        return cls(str(found.path), found.config, tensors)


def plan(options: TransformersOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """See `BackendType.plan`. Raises ModelLoadError; also for a model that would have to be downloaded first."""
    if request.quantization:
        options = _quantized(options, request.quantization)
    if request.model is not None:
        model = known(request.model)
    else:
        here = folder.located(options.path, options.revision)
        if here is None:
            raise ModelLoadError(f"{options.path}: the model is not here yet, and a plan downloads nothing")
        found = folder.read(here)
        model = Model.of(found, folder.tensors_of(found))
    device = options.device
    if device == "auto":
        device = "cuda:0" if machine.cards else _MAIN
    return memory_plan(options, model, machine, device, request.conversations or 1)


def memory_plan(
    options: TransformersOptions, model: Model, machine: Machine, device: str, conversations: int = 1
) -> MemoryPlan:
    """The plan and, where it does not fit, what would. `device`: where all goes unless `device_map` spreads it."""
    first = _plan(options, model, machine, device, conversations)
    return with_changes(first, _changes(options, model, machine, device, conversations))


def dtype_for(
    options: TransformersOptions, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], machine: Machine,
    device: str,
) -> str:  # fmt: skip
    """The type of weights that are not packed."""
    on_card = bool(machine.cards) if options.device_map is not None else device != _MAIN
    if options.dtype != "auto":
        return options.dtype
    if options.quantization is not None and not on_card:
        return "bfloat16" if options.quantization != "int8" else "float32"
    published = str(config.get("torch_dtype") or config.get("dtype") or "")
    return memory.choose_dtype(tensors, published, on_card, machine.main)


def known(model: KnownModel) -> Model:
    """A published model by its sizes. Raises ModelLoadError for one in another form."""
    if model.layout != "huggingface":
        raise ModelLoadError(f"{model.name}: this is no model of the transformers backend")
    return Model(model.name, model.config, model.tensors())


def _plan(options: TransformersOptions, model: Model, machine: Machine, device: str, conversations: int) -> MemoryPlan:
    dtype = dtype_for(options, model.config, model.tensors, machine, device)
    context = _context(options, model)
    layers = max(1, memory.layers_of(model.config))
    cache = memory.cache_bytes(model.config, memory.WIDTHS[dtype]) * context * conversations // layers
    working = memory.working_bytes(model.config, memory.WIDTHS[dtype])
    sizes = _by_part(model, dtype, options.quantization)
    places = _places(options, sizes, machine, device, cache, working)
    largest = max((tensor.size * memory.WIDTHS[dtype] for tensor in model.tensors.values()), default=0)
    shares = []
    for place in sorted({*places.values(), _MAIN} - {_DISK}, key=lambda name: (name == _MAIN, name)):
        here = [part for part, at in places.items() if at == place]
        weights, program = sum(sizes[part] for part in here), memory.PROGRAM if place == _MAIN else memory.SPARE
        held = [part for part in here if part >= 0]
        share = device_plan(
            machine,
            place,
            {
                "weights": weights,
                "cache": cache * len(held),
                "working memory": working if here else 0,
                "program": program,
            },
            # A tensor is read into main memory, and changed there, before it goes to its place.
            loading=weights + largest + program if place == _MAIN else 0,
            holds=_holds(held),
        )
        shares.append(share)
    on_disk = sum(sizes[part] for part, at in places.items() if at == _DISK)
    return MemoryPlan(
        model=model.name,
        backend="transformers",
        quantization=options.quantization or dtype,
        context=context,
        conversations=conversations,
        devices=tuple(shares),
        notes=(f"{memory.gib(on_disk)} stay on disk (offload_folder), which is slow",) if on_disk else (),
    )


def _context(options: TransformersOptions, model: Model) -> int:
    takes = memory.trained_context(model.config)
    if options.context_length is not None and takes and options.context_length > takes:
        raise ModelLoadError(
            f"{model.name}: context_length: {options.context_length} is more than the {takes} tokens that this model "
            f"takes; lower it, or stretch positions by rope_scaling in its config.json"
        )
    return options.context_length or min(takes or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def _by_part(model: Model, dtype: str, quantization: str | None) -> dict[int, int]:
    """Bytes of each layer by its number, and of the embedding and what else stands before all layers as -1."""
    parts: dict[int, dict[str, TensorInfo]] = {-1: {}}
    for name, tensor in model.tensors.items():
        found = _LAYER.search(name)
        parts.setdefault(int(found[1]) if found else -1, {})[name] = tensor
    return {number: memory.needed(parts[number], dtype, quantization) for number in sorted(parts)}


def _places(
    options: TransformersOptions, sizes: Mapping[int, int], machine: Machine, device: str, cache: int, working: int
) -> dict[int, str]:
    """Where each part goes."""
    given = options.device_map
    if given is None:
        return dict.fromkeys(sizes, device)
    if isinstance(given, dict):
        named = {str(name): _device(place) for name, place in given.items()}
        return {part: _named(part, named, device) for part in sizes}
    room = {f"cuda:{number}": card.free - memory.SPARE - working for number, card in enumerate(machine.cards)}
    room[_MAIN] = machine.main - memory.PROGRAM - working if machine.main else 1 << 62
    for key, size in (options.max_memory or {}).items():
        room[_device(key)] = min(room.get(_device(key), 0), _bytes(size))
    order, places = [*room, _DISK], {}
    if given in ("balanced", "balanced_low_0") and machine.cards:
        even = -(-sum(sizes.values()) // len(machine.cards)) + max(sizes.values())
        room = {name: min(free, even) if name != _MAIN else free for name, free in room.items()}
    for part, size in sizes.items():
        taken = size + (cache if part >= 0 else 0)
        while order[0] != _DISK and room[order[0]] < taken:
            order.pop(0)
        if order[0] != _DISK:
            room[order[0]] -= taken
        places[part] = order[0]
    return places


def _named(part: int, given: Mapping[str, str], otherwise: str) -> str:
    """The place that a mapping by names of modules has for a part."""
    for name, place in given.items():
        found = _LAYER.search(f"{name}.")
        if found and int(found[1]) == part:
            return place
    rest = [place for name, place in given.items() if not _LAYER.search(f"{name}.")]
    return given.get("") or (rest[0] if rest else otherwise)


def _changes(
    options: TransformersOptions, model: Model, machine: Machine, device: str, conversations: int
) -> Iterator[tuple[str, Callable[[], MemoryPlan]]]:
    """What might make it fit, the least loss first."""

    def planned(conversations: int, **changes: Any) -> MemoryPlan:
        return _plan(options.model_copy(update=changes), model, machine, device, conversations)

    packed = "quantization_config" in model.config
    if options.dtype == "float32":
        yield "dtype: bfloat16", partial(planned, conversations, dtype="bfloat16")
    if options.quantization is None and not packed:
        for word in _PACKED[:2]:
            yield f"quantization: {word}", partial(planned, conversations, quantization=word, dtype="auto")
    if options.device_map is None and device.startswith("cuda"):
        spread = {"device": "auto", "device_map": "auto"}
        yield "device_map: auto with an offload_folder", partial(planned, conversations, **spread)
    count = conversations
    while count > 1:
        count //= 2
        yield f"{count} conversation{'s' * (count > 1)} at once", partial(planned, count)
    length = _context(options, model)
    while length // 2 >= _LEAST_CONTEXT:
        length //= 2
        yield f"context_length: {length}", partial(planned, 1, context_length=length)
    if options.quantization is None and not packed:
        smallest = {"quantization": "nf4", "dtype": "auto", "context_length": length}
        yield f"quantization: nf4 with context_length: {length}", partial(planned, 1, **smallest)


def _quantized(options: TransformersOptions, word: str) -> TransformersOptions:
    """The options with weights in that form. Raises ModelLoadError for a word that is none of this backend's."""
    word = _SHORT.get(word.lower(), word.lower())
    if word in _PACKED:
        return options.model_copy(update={"quantization": word})
    if word in memory.WIDTHS:
        return options.model_copy(update={"quantization": None, "dtype": word})
    raise ModelLoadError(
        f"{word!r}: the transformers backend has weights in {', '.join(memory.WIDTHS)}, {', '.join(_PACKED)}"
    )


def _device(place: str | int) -> str:
    return f"cuda:{place}" if str(place).isdigit() else "cuda:0" if place == "cuda" else str(place)


def _bytes(size: str | int) -> int:
    """What `max_memory` says, in bytes."""
    found = _SIZE.fullmatch(str(size))
    if found is None:
        return 0
    power = " KMGT".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def _holds(layers: list[int]) -> str:
    if not layers:
        return ""
    return f"layers {layers[0] + 1} to {layers[-1] + 1}" if len(layers) > 1 else f"layer {layers[0] + 1}"
