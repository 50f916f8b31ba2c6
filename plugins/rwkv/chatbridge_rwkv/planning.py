"""Which strategy an RWKV model is to have on a machine, and what that takes there, told from a header or from sizes.

The one place that decides it: `chatbridge model plan` tells it, and loading goes by it. Loads nothing, not even torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from chatbridge import (
    KnownModel,
    Machine,
    MemoryPlan,
    ModelLoadError,
    PlanRequest,
    device_plan,
    with_changes,
)
from chatbridge_rwkv import checkpoint as checkpoints
from chatbridge_rwkv import memory
from chatbridge_rwkv.checkpoint import Checkpoint, trained_context
from chatbridge_rwkv.memory import MAIN, slots_for
from chatbridge_rwkv.options import RwkvOptions
from chatbridge_rwkv.strategy import AUTO, Slot, StrategyError, normal, parse, spans

DEFAULT_CONTEXT = 4096
TYPES = ("fp32", "bf16", "fp16", "fp32i8", "bf16i8", "fp16i8")


def plan(options: RwkvOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """See `BackendType.plan`. Raises ModelLoadError."""
    checkpoint = known(request.model) if request.model is not None else checkpoints.read(options.path)
    conversations = request.conversations or 1
    if request.quantization:
        strategy = _of_type(checkpoint, machine, request.quantization.lower(), conversations)
    else:
        strategy = strategy_for(options, checkpoint, machine, conversations)
    return memory_plan(options, checkpoint, strategy, machine, conversations)


def memory_plan(
    options: RwkvOptions, checkpoint: Checkpoint, strategy: str, machine: Machine, conversations: int = 1
) -> MemoryPlan:
    """The plan for a strategy and, where it does not fit, which would. Raises ModelLoadError for what can't be."""
    planned = partial(_plan, options, checkpoint, machine, conversations)
    others: Iterator[tuple[str, Callable[[], MemoryPlan]]] = (
        (f"strategy: {other}", partial(planned, other))
        for other in ([] if checkpoint.converted is not None else _candidates(checkpoint, machine))
        if other != strategy
    )
    return with_changes(planned(strategy), others)


def strategy_for(options: RwkvOptions, checkpoint: Checkpoint, machine: Machine, conversations: int = 1) -> str:
    """The strategy that the options and the file ask for. Raises ModelLoadError where they contradict each other."""
    if checkpoint.converted is not None:
        if options.strategy != AUTO and normal(parse(options.strategy)) != checkpoint.converted:
            raise ModelLoadError(
                f"{checkpoint.path}: this file was converted for the strategy {checkpoint.converted!r}: leave strategy "
                f"out, or take the file that it was made from"
            )
        if options.convert:
            raise ModelLoadError(f"{checkpoint.path}: this file is converted already; leave convert out")
        return checkpoint.converted
    if options.strategy == AUTO:
        return choose(checkpoint, machine, conversations)
    return normal(parse(options.strategy))


def choose(checkpoint: Checkpoint, machine: Machine, conversations: int = 1) -> str:
    """The strategy for `auto`: cards before the processor, and the most exact that fits; the smallest if none does."""
    return _first_fitting(checkpoint, machine, [*_candidates(checkpoint, machine)], conversations)


def known(model: KnownModel) -> Checkpoint:
    """A published checkpoint by its sizes. Raises ModelLoadError for one of another family."""
    if model.layout != "rwkv":
        raise ModelLoadError(f"{model.name}: this is no model of the rwkv backend")
    return checkpoints.of(Path(model.name), model.tensors(), None, "")


def _plan(
    options: RwkvOptions, checkpoint: Checkpoint, machine: Machine, conversations: int, strategy: str
) -> MemoryPlan:
    try:
        slots = slots_for(checkpoint, strategy)
    except StrategyError as error:
        raise ModelLoadError(f"{checkpoint.path}: strategy: {error}") from error
    needed = memory.needs(checkpoint, slots)
    devices = [name for name in needed.devices if name != MAIN]
    state = memory.state_bytes(checkpoint)
    shares = []
    for device in (*devices, MAIN):
        program = memory.PROGRAM if device == MAIN else memory.SPARE
        here = [slot for slot in slots if slot.device == device]
        layers = sum(slot.device == device for slot in slots[:-1])
        share = device_plan(
            machine,
            device,
            {
                "weights": needed.devices[device],
                "cache": layers * state * conversations,
                "working memory": memory.working_bytes(checkpoint) if here else 0,
                "program": program,
            },
            loading=needed.peak + program if device == MAIN else 0,
            holds=_holds(slots, device),
        )
        shares.append(share)
    size = memory.gib(state * checkpoint.layers)
    return MemoryPlan(
        model=str(checkpoint.path),
        backend="rwkv",
        quantization=strategy,
        context=options.context_length or trained_context(checkpoint.path) or DEFAULT_CONTEXT,
        conversations=conversations,
        devices=tuple(shares),
        notes=(f"a conversation takes {size}, however long it is",),
    )


def _holds(slots: Sequence[Slot], device: str) -> str:
    """Which layers a device computes, in words."""
    head = len(slots) - 1
    found = []
    for start, end, slot in spans(slots):
        if slot.device == device:
            last = min(end, head)
            if last > start:
                found.append(f"layers {start + 1} to {last}" if last - start > 1 else f"layer {start + 1}")
            found += ["the head"] * (end > head)
    return " and ".join(found)


def _first_fitting(checkpoint: Checkpoint, machine: Machine, strategies: Sequence[str], conversations: int) -> str:
    options = RwkvOptions.model_construct(path=checkpoint.path, context_length=None)
    fitting = (one for one in strategies if _plan(options, checkpoint, machine, conversations, one).fits)
    return next(fitting, strategies[-1])


def _of_type(checkpoint: Checkpoint, machine: Machine, word: str, conversations: int) -> str:
    """The strategy with all weights of one type. Raises ModelLoadError for a word that is none."""
    if checkpoint.converted is not None:
        raise ModelLoadError(
            f"{checkpoint.path}: this file was converted for the strategy {checkpoint.converted!r}, and for no other"
        )
    if word not in TYPES or (checkpoint.version == 7 and word.endswith("i8")):
        some = [kind for kind in TYPES if checkpoint.version != 7 or not kind.endswith("i8")]
        raise ModelLoadError(f"{word!r}: the rwkv backend has weights of {checkpoint.name} in {', '.join(some)}")
    names = _cards(machine)
    strategies = [f"{name} {word}" for name in names]
    if len(names) > 1 and checkpoint.version != 7:
        strategies.append(_shared(checkpoint, machine, word))
    return _first_fitting(checkpoint, machine, [*strategies, f"{MAIN} {word}"], conversations)


def _candidates(checkpoint: Checkpoint, machine: Machine) -> Iterator[str]:
    """Strategies worth having, the best first."""
    names = _cards(machine)
    yield from (f"{name} fp16" for name in names)
    if checkpoint.version != 7 and names:
        if len(names) > 1:
            yield _shared(checkpoint, machine, "fp16")
        yield from (f"{name} fp16i8" for name in names)
        best = max(range(len(names)), key=lambda number: machine.cards[number].free)
        for count in range(checkpoint.layers, 0, -1):
            yield f"{names[best]} fp16i8 *{count} -> cpu fp32"
    exact = ("cpu fp32", "cpu bf16")
    yield from exact if checkpoint.version == 7 else (*exact, "cpu fp32i8")


def _cards(machine: Machine) -> list[str]:
    return ["cuda" if number == 0 else f"cuda:{number}" for number in range(len(machine.cards))]


def _shared(checkpoint: Checkpoint, machine: Machine, kind: str) -> str:
    """Layers on all cards, as many on each as its memory is a part of all."""
    total, free = checkpoint.layers + 1, sum(card.free for card in machine.cards)
    counts = [total * card.free // free if free else 0 for card in machine.cards]
    counts[-1] += total - sum(counts)
    parts = [f"cuda:{number} {kind} *{count}" for number, count in enumerate(counts) if count]
    return " -> ".join(parts)
