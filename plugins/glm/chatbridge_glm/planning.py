"""How a GLM model is to lie in a machine's memory, and what it takes there, told from headers or published sizes.

The one place that decides it: `chatbridge model plan` tells it, and loading goes by it. Loads nothing, not even torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from chatbridge import (
    DevicePlan,
    KnownModel,
    Machine,
    MemoryPlan,
    ModelLoadError,
    PlanRequest,
    device_plan,
    with_changes,
)
from chatbridge_glm import checkpoint as checkpoints
from chatbridge_glm import memory
from chatbridge_glm.checkpoint import Checkpoint
from chatbridge_glm.config import config_of, sat_config
from chatbridge_glm.memory import DISK, Needs, Plan
from chatbridge_glm.options import GlmOptions

QUICK = 1e9
"""Parameters up to which packed weights are multiplied exactly, row by row; beyond, torch's kernels are worth more."""

_BITS = {"none": 0, "int8": 8, "int4": 4}
_MAIN = "cpu"
_LEAST_CONTEXT = 512
_OTHERWISE = "take a smaller model, free memory, or leave layers in the files by device: disk, which is slow"


def plan(options: GlmOptions, machine: Machine, request: PlanRequest) -> MemoryPlan:
    """See `BackendType.plan`. Raises ModelLoadError."""
    if request.model is not None:
        checkpoint = known(request.model)
    else:
        checkpoint = checkpoints.read(options.path, options.config, options.tokenizer)
    if request.quantization:
        options = _quantized(options, request.quantization)
    return memory_plan(options, checkpoint, machine, request.conversations or 1)


def memory_plan(options: GlmOptions, checkpoint: Checkpoint, machine: Machine, conversations: int = 1) -> MemoryPlan:
    """The plan for a checkpoint and, where it does not fit, what would. Raises ModelLoadError for what can't be."""
    first = _plan(options, checkpoint, machine, conversations)
    return with_changes(first, _changes(options, checkpoint, machine, conversations))


def context_length(options: GlmOptions, checkpoint: Checkpoint) -> int:
    """Tokens of a conversation. Raises ModelLoadError for more than there are positions."""
    most = checkpoint.config.max_sequence_length
    if options.context_length is not None and options.context_length > most:
        raise ModelLoadError(f"context_length: {options.context_length} is more than the {most} that the model can")
    return options.context_length or most


def plan_for(options: GlmOptions, checkpoint: Checkpoint, machine: Machine, conversations: int = 1) -> Plan:
    """How the model is to lie in memory. Raises ModelLoadError for what these files can't be."""
    bits = checkpoint.bits if options.quantization == "auto" else _BITS[options.quantization]
    if checkpoint.bits and bits != checkpoint.bits:
        raise ModelLoadError(
            f"quantization: {options.quantization}: the files hold weights of {checkpoint.bits} bits already, and what "
            "was lost is not in them; leave it out, or take the model in fp16"
        )
    dtypes: list[str] = [options.dtype]
    if options.dtype == "auto":
        cards = bool(machine.cards) if not options.device else any(name != _MAIN for name in options.device)
        large = bool(bits) and checkpoint.parameters > QUICK and _kernel_works(bits)
        dtypes = ["fp16"] if cards else ["bf16"] if large else ["fp32", "bf16"]
    plans = [_placed(options, checkpoint, machine, conversations, bits, dtype) for dtype in dtypes]
    fitting = (
        one for one in plans if all(share.fits for share in _shares(options, checkpoint, machine, one, conversations))
    )
    return next(fitting, plans[-1])


def known(model: KnownModel) -> Checkpoint:
    """A published checkpoint by its sizes. Raises ModelLoadError for one of another family."""
    if model.layout == "chatglm":
        config = config_of(model.config)
    elif model.layout == "glm-130b":
        c = model.config
        config = sat_config(
            c["num_layers"], c["hidden_size"], c["num_attention_heads"], c["inner_hidden_size"], c["vocab_size"], c
        )
    else:
        raise ModelLoadError(f"{model.name}: this is no model of the glm backend")
    return Checkpoint(
        path=Path(model.name), config=config, files=(), tensors=model.tensors(), parallel=model.shards,
        bits=config.quantization_bit, embedding_bits=0, prefix=False, tokenizer=Path(), anchor=("", 0), specials={},
    )  # fmt: skip


def _placed(
    options: GlmOptions, checkpoint: Checkpoint, machine: Machine, conversations: int, bits: int, dtype: str
) -> Plan:
    """The plan with a place for each layer, beside which its share of the conversations has room, too."""
    layers = checkpoint.config.layers
    needed = memory.needs(checkpoint, Plan(bits, dtype, (_MAIN,) * layers))
    length = context_length(options, checkpoint)
    cache = memory.cache_bytes(checkpoint.config, _cache_dtype(options, dtype)) // layers * length * conversations
    spare = memory.SPARE + memory.working_bytes(checkpoint.config, dtype, "cuda", length, on_cards=True)
    places = memory.place(layers, options.device, machine, needed.layer + cache, needed.embedding, spare)
    return Plan(bits, dtype, places)


def _plan(options: GlmOptions, checkpoint: Checkpoint, machine: Machine, conversations: int) -> MemoryPlan:
    chosen = plan_for(options, checkpoint, machine, conversations)
    needed = memory.needs(checkpoint, chosen)
    notes = [f"a layer takes {memory.gib(needed.layer)}, the embedding {memory.gib(needed.embedding)}"]
    if len({*chosen.devices} - {DISK}) > 1 and _MAIN in chosen.devices:
        notes.append("layers on cpu are computed by the processor, slower than on a card")
    if DISK in chosen.devices:
        notes.append("layers on disk are read from the files each time, which is slow")
    return MemoryPlan(
        model=str(checkpoint.path),
        backend="glm",
        quantization=f"int{chosen.bits}" if chosen.bits else chosen.dtype,
        context=context_length(options, checkpoint),
        conversations=conversations,
        devices=_shares(options, checkpoint, machine, chosen, conversations),
        notes=tuple(notes),
        otherwise=_OTHERWISE,
    )


def _shares(
    options: GlmOptions, checkpoint: Checkpoint, machine: Machine, chosen: Plan, conversations: int
) -> tuple[DevicePlan, ...]:
    """What goes to each device; main memory comes last."""
    config, needed = checkpoint.config, memory.needs(checkpoint, chosen)
    length = context_length(options, checkpoint)
    cache = memory.cache_bytes(config, _cache_dtype(options, chosen.dtype)) // config.layers
    places = [_MAIN if name == DISK else name for name in chosen.devices]
    on_cards = set(places) != {_MAIN}
    cards = [name for name in dict.fromkeys(places) if name != _MAIN]

    def share(device: str) -> DevicePlan:
        count = places.count(device)
        program = memory.PROGRAM if device == _MAIN else memory.SPARE
        working = memory.working_bytes(config, chosen.dtype, device, length, on_cards=on_cards)
        return device_plan(
            machine,
            device,
            {
                "weights": needed.devices.get(device, 0),
                "cache": count * cache * (length + config.pre_seq_len) * conversations,
                "working memory": working if count else 0,
                "program": program,
            },
            loading=needed.peak + program if device == _MAIN else 0,
            holds=_holds(chosen, places, device, needed),
        )

    return tuple(share(device) for device in (*cards, _MAIN))


def _holds(chosen: Plan, places: list[str], device: str, needed: Needs) -> str:
    """Which layers are there, in words."""
    numbers = [number + 1 for number, place in enumerate(places) if place == device]
    if not numbers:
        return ""
    layers = f"layers {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"layer {numbers[0]}"
    disk = chosen.devices.count(DISK) if device == _MAIN else 0
    return layers + (" and the embedding" if numbers[0] == 1 else "") + (f", {disk} of them in the files" * bool(disk))


def _changes(
    options: GlmOptions, checkpoint: Checkpoint, machine: Machine, conversations: int
) -> Iterator[tuple[str, Callable[[], MemoryPlan]]]:
    """What might make it fit, the least loss first."""
    bits = checkpoint.bits or _BITS.get(options.quantization, 0)
    length = context_length(options, checkpoint)
    smaller = [options] + [
        options.model_copy(update={"quantization": f"int{fewer}"})
        for fewer in (8, 4)
        if not checkpoint.bits and fewer < (bits or 16)
    ]
    for one in smaller[1:]:
        yield f"quantization: {one.quantization}", partial(_plan, one, checkpoint, machine, conversations)
    if options.device and _MAIN not in options.device and DISK not in options.device:
        everywhere = options.model_copy(update={"device": {}})
        yield "device: auto", partial(_plan, everywhere, checkpoint, machine, conversations)
    for one in smaller:
        said = "" if one is options else f"quantization: {one.quantization} with "
        count = conversations
        while count > 1:
            count //= 2
            yield (
                f"{said}{count} conversation{'s' * (count > 1)} at once",
                partial(_plan, one, checkpoint, machine, count),
            )
        shorter = length
        while shorter // 2 >= _LEAST_CONTEXT:
            shorter //= 2
            fewer_tokens = one.model_copy(update={"context_length": shorter})
            yield f"{said}context_length: {shorter}", partial(_plan, fewer_tokens, checkpoint, machine, 1)
    if not machine.cards and not options.device and bits == checkpoint.bits:
        from_files = options.model_copy(update={"device": {DISK: 0}})
        yield "device: disk", partial(_plan, from_files, checkpoint, machine, 1)


def _quantized(options: GlmOptions, word: str) -> GlmOptions:
    """The options with weights in that form. Raises ModelLoadError for a word that is none of this backend's."""
    word = word.lower()
    if word in ("int8", "int4"):
        return options.model_copy(update={"quantization": word})
    if word in memory.WIDTH:
        return options.model_copy(update={"quantization": "none", "dtype": word})
    raise ModelLoadError(f"{word!r}: the glm backend has weights in {', '.join(memory.WIDTH)}, int8 and int4")


def _cache_dtype(options: GlmOptions, dtype: str) -> str:
    return dtype if options.cache_dtype == "auto" else options.cache_dtype


def _kernel_works(bits: int) -> bool:
    """Whether torch's kernels are there; taken for granted where torch is not loaded, as in a plan."""
    if "torch" not in sys.modules:
        return True
    from chatbridge_glm.quantization import kernel_works

    return kernel_works(bits)
