"""From options to a model in memory: looks at the files, plans, refuses in words, and reads.

Knows files, plan and weights; leaves arithmetic, states and text to others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

import torch

from chatbridge import ModelLoadError, refuse_what_does_not_fit, this_machine
from chatbridge_glm import checkpoint as checkpoints
from chatbridge_glm import files, memory, prefix, quantization
from chatbridge_glm.checkpoint import Checkpoint
from chatbridge_glm.memory import Plan, gib
from chatbridge_glm.model import Glm
from chatbridge_glm.options import GlmOptions
from chatbridge_glm.planning import context_length, memory_plan, plan_for
from chatbridge_glm.state import Layout, Prefix
from chatbridge_glm.weights import Loader, Recipe

Progress = Callable[[float, str], None]

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. `held`: bytes of its weights; `digests`: what stands for each prefix; `kernels`: in use.

    `conversations`: how many of full length there is room for.
    """

    checkpoint: Checkpoint
    plan: Plan
    model: Glm
    layout: Layout
    prefixes: dict[str, Prefix]
    digests: dict[str, str]
    held: int
    kernels: bool
    conversations: int


def load(options: GlmOptions, progress: Progress) -> Loaded:
    """Load the model that the options name. Raises ModelLoadError, if it can before any weights are read."""
    progress(0.0, "looking at the files")
    checkpoint = checkpoints.read(options.path, options.config, options.tokenizer)
    machine = this_machine()
    plan = plan_for(options, checkpoint, machine)
    _devices_are_there(plan)
    refuse_what_does_not_fit(memory_plan(options, checkpoint, machine))
    # Prefixes are small, and one that doesn't fit should not be found out after half an hour.
    prefixes, digests = _prefixes(options, checkpoint)
    mapped = frozenset(number for number, name in enumerate(plan.devices) if name == memory.DISK)
    if mapped and plan.bits != checkpoint.bits:
        raise ModelLoadError(
            "device: disk: layers that stay in the files are as the files have them; leave quantization out"
        )
    devices = tuple(torch.device("cpu" if name == memory.DISK else name) for name in plan.devices)
    on_processor = all(device.type == "cpu" for device in devices)
    kernels = on_processor and plan.dtype == "bf16" and bool(plan.bits) and quantization.kernel_works(plan.bits)
    recipe = Recipe(devices, plan.bits, TYPES[plan.dtype], kernels, mapped)
    loader = Loader(checkpoint, recipe, Told(progress))
    model = loader.load()
    if checkpoint.prefix:
        prefixes[""] = prefix.of(loader.prefix, checkpoint.config, checkpoint.path, checkpoint.config.pre_seq_len)
        digests[""] = prefix.digest(loader.prefix)
    cache = plan.dtype if options.cache_dtype == "auto" else options.cache_dtype
    layout = Layout(
        devices,
        checkpoint.config.heads,
        checkpoint.config.head_size,
        TYPES[cache],
        context_length(options, checkpoint),
        _fingerprint(checkpoint, plan, cache, digests, kernels),
    )
    room = memory.conversations(checkpoint.config, cache, layout.max_length, plan.devices, this_machine())
    return Loaded(checkpoint, plan, model, layout, prefixes, digests, loader.held, kernels, room)


@dataclass(slots=True)
class Told:
    """Says how many bytes of the weights were read, and how long the rest will take."""

    progress: Progress
    clock: Callable[[], float] = time.monotonic
    _begun: float | None = None
    _last: float = field(default=-1.0)

    def __call__(self, read: int, total: int) -> None:
        now = self.clock()
        self._begun = now if self._begun is None else self._begun
        if read < total and now - self._last < 0.2:
            return
        self._last = now
        left = (now - self._begun) * (total - read) / read if read else 0.0
        told = f", {left:.0f} s left" if left >= 1 else ""
        self.progress(0.05 + 0.9 * read / total, f"reading weights: {gib(read)} of {gib(total)}{told}")


def _devices_are_there(plan: Plan) -> None:
    for name in dict.fromkeys(plan.devices):
        if name == memory.DISK:
            continue
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ModelLoadError(
                f"device: {name} is not there: torch sees {torch.cuda.device_count()} NVIDIA cards; with none, "
                "install the torch that has CUDA, or write device: cpu"
            )
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise ModelLoadError("device: mps: this is no Apple GPU, or this torch can't use it; write device: cpu")


def _prefixes(options: GlmOptions, checkpoint: Checkpoint) -> tuple[dict[str, Prefix], dict[str, str]]:
    prefixes: dict[str, Prefix] = {}
    digests: dict[str, str] = {}
    paths = {name: adapter.prefix for name, adapter in options.adapters.items()}
    if options.prefix is not None:
        if checkpoint.prefix:
            raise ModelLoadError(f"prefix: {checkpoint.path} brings one of its own; leave prefix out")
        paths[""] = options.prefix
    for name, path in paths.items():
        prefixes[name], digests[name] = prefix.read(path, checkpoint.config)
        length = int(prefixes[name][0][0].shape[1])
        if checkpoint.config.pre_seq_len and not checkpoint.prefix and length != checkpoint.config.pre_seq_len:
            raise ModelLoadError(
                f"{path}: the prefix has {length} tokens, and the model's config.json says pre_seq_len "
                f"{checkpoint.config.pre_seq_len}"
            )
    if checkpoint.config.pre_seq_len and not checkpoint.prefix and not prefixes:
        raise ModelLoadError(
            f"{checkpoint.path}: config.json says pre_seq_len {checkpoint.config.pre_seq_len}, and there is no such "
            "prefix in the files: the original would go on with a random one; name it by prefix:"
        )
    return prefixes, digests


def _fingerprint(checkpoint: Checkpoint, plan: Plan, cache: str, digests: dict[str, str], kernels: bool) -> str:
    """Identifies all that a state depends on."""
    weights = files.fingerprint([*checkpoint.files])
    depends = (weights, plan.bits, plan.dtype, plan.devices, cache, digests.get("", ""), kernels)
    return f"glm-{blake2b(repr(depends).encode(), digest_size=16).hexdigest()}"
