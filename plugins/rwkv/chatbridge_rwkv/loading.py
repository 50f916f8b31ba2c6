"""From options to a model in memory: reads the header, plans, refuses, converts, and lets the rwkv package load.

Knows the package's class and the plan; leaves arithmetic, states and text to others.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from chatbridge import ModelLoadError, cache_folder, refuse_what_does_not_fit, this_machine
from chatbridge_rwkv import conversion, initial, memory, package
from chatbridge_rwkv.checkpoint import Checkpoint
from chatbridge_rwkv.checkpoint import read as read_checkpoint
from chatbridge_rwkv.matrices import Matrices
from chatbridge_rwkv.options import RwkvOptions
from chatbridge_rwkv.package_model import PackageModel
from chatbridge_rwkv.planning import memory_plan, strategy_for
from chatbridge_rwkv.state import Layout, States, Tensors
from chatbridge_rwkv.strategy import Slot, StrategyError
from chatbridge_rwkv.v4 import BatchedV4
from chatbridge_rwkv.v5 import BatchedV5
from chatbridge_rwkv.v7 import BatchedV7

Progress = Callable[[float, str], None]
Arithmetic = PackageModel | BatchedV4 | BatchedV5 | BatchedV7

_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PROBE = ([1, 2, 3], [4])
"""Tokens of two conversations, by which our arithmetic is compared with the package's."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. `report`: which layer went where. `unbatched`: why conversations are not computed together.

    `jit`: whether the package's functions are compiled. `converted`: the file that was read instead, if any.
    `initial`: the state that every conversation begins with, where the model's file has one.
    """

    checkpoint: Checkpoint
    strategy: str
    slots: tuple[Slot, ...]
    layout: Layout
    arithmetic: Arithmetic
    package_model: PackageModel
    report: str
    unbatched: str
    jit: bool
    converted: Path | None
    initial: Tensors | None

    @property
    def dtypes(self) -> list[Any]:
        """Each layer's type."""
        return [_TYPES[slot.type] for slot in self.slots[:-1]]


def load(options: RwkvOptions, progress: Progress) -> Loaded:
    """Load the model that the options name. Raises ModelLoadError, if it can before any weights are read."""
    progress(0.0, "looking at the file")
    checkpoint = read_checkpoint(options.path)
    machine = this_machine()
    strategy = strategy_for(options, checkpoint, machine)
    try:
        slots = memory.slots_for(checkpoint, strategy)
    except StrategyError as error:
        raise ModelLoadError(f"{checkpoint.path}: strategy: {error}") from error
    devices = {slot.device for slot in slots}
    _devices_are_there(devices, options)
    refuse_what_does_not_fit(memory_plan(options, checkpoint, strategy, machine))
    progress(0.05, "bringing in the package")
    jit = bool(_why_unbatched(options, checkpoint)) if options.jit is None else options.jit
    module = package.module(
        package.Switches(
            v7=checkpoint.version == 7,
            jit=jit,
            cuda_kernels=options.cuda_kernels,
            deep_embedding=checkpoint.deep_embedding,
            directml="dml" in devices,
        )
    )
    path, converted = checkpoint.path, None
    if options.convert:
        path = converted = _converted(options, checkpoint, strategy, progress)
    progress(0.2, "reading weights")
    with package.quiet():
        model = _open(module, path, strategy, checkpoint)
    progress(0.9, "checking the arithmetic")
    # The package's own names of devices, since that of DirectML is another one.
    places = slots if checkpoint.version == 7 else model.strategy
    layout = Layout.of(
        [str(place.device) for place in places[:-1]],
        checkpoint.width,
        checkpoint.attention_width,
        checkpoint.heads,
        checkpoint.head_size,
    )
    package_model = PackageModel(model, [_TYPES[slot.type] for slot in slots[:-1]])
    arithmetic, unbatched = _arithmetic(options, checkpoint, model, module, layout, package_model)
    merged = None if checkpoint.version == 7 else initial.within(model.w, checkpoint, layout)
    report = memory.report(slots, memory.needs(checkpoint, slots))
    return Loaded(
        checkpoint, strategy, slots, layout, arithmetic, package_model, report, unbatched, jit, converted, merged
    )


def _devices_are_there(devices: set[str], options: RwkvOptions) -> None:
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in sorted(devices):
        if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= cards:
            seen = f"{cards} NVIDIA card{'s' * (cards > 1)}" if cards else "no NVIDIA card"
            raise ModelLoadError(
                f"strategy: {device}: torch {torch.__version__} sees {seen}; install a torch with CUDA, or write "
                "cpu fp32"
            )
        if device == "mps" and not torch.backends.mps.is_available():
            raise ModelLoadError("strategy: mps: this is no Apple GPU, or this torch can't use it; write cpu fp32")
        if device == "dml" and package.missing("torch_directml"):
            raise ModelLoadError("strategy: dml: pip install torch-directml, or write cpu fp32")
    if options.cuda_kernels and not any(device.startswith("cuda") for device in devices):
        raise ModelLoadError("cuda_kernels: true does nothing without a layer on cuda; leave it out")


def _open(module: ModuleType, path: Path, strategy: str, checkpoint: Checkpoint) -> Any:
    """The package's own model. Its RWKV-7 class puts `.pth` behind a name always; the other, where it is missing."""
    try:
        with _ending_in_pth(path) as name:
            if checkpoint.version == 7:
                return module.RWKV(name.removesuffix(".pth"), strategy)
            return module.RWKV(name, strategy, verbose=False)
    except AssertionError as error:
        raise ModelLoadError(
            f"{path}: the package refuses it ({error or 'converted by an old version, or for another rescaling'}); "
            "take the file that it was made from"
        ) from error
    except (RuntimeError, ValueError, KeyError, OSError, AttributeError, MemoryError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelLoadError(f"{path}: the package can't load it: {type(error).__name__}: {why}") from error


@contextmanager
def _ending_in_pth(path: Path) -> Iterator[str]:
    """The file by a name that ends in .pth, if need be that of a link which lasts as long as this does."""
    if path.suffix == ".pth":
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="chatbridge-rwkv-") as folder:
        link = Path(folder) / "model.pth"
        link.symlink_to(path.absolute())
        yield str(link)


def _converted(options: RwkvOptions, checkpoint: Checkpoint, strategy: str, progress: Progress) -> Path:
    """The file converted for the strategy, from the folder where it is kept, or made now."""
    if checkpoint.version == 7:
        raise ModelLoadError("convert: true: RWKV-7 files are mapped into memory as they are; leave convert out")
    folder = options.convert_folder or _cache_folder()
    rescale = os.environ.get("RWKV_RESCALE_LAYER", "")
    words = re.sub(r"[^\w*+:]+", "_", f"{checkpoint.path.stem}-{strategy}{rescale and f'-{rescale}'}").replace(":", "")
    target = folder / f"{words.replace('*', 'x').replace('+', 'plus')}-{checkpoint.fingerprint[:12]}.pth"
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(folder).free, conversion.new_size(checkpoint, strategy)
    except OSError as error:
        raise ModelLoadError(f"convert: {target} can't be written: {error}") from error
    if free < needed:
        raise ModelLoadError(f"convert: {folder} has {free >> 20} MiB left, and {needed >> 20} MiB are needed")
    try:
        conversion.write(checkpoint, strategy, target, checkpoint.fingerprint, _Converting(progress))
    except ModelLoadError as error:
        raise ModelLoadError(f"convert: {error}") from error
    return target


class _Converting:
    """Tells whoever waits for a model how far its conversion is."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._total, self._done = progress, 0, 0

    def begin(self, doing: str, total: int) -> None:
        self._total, self._done = total, 0
        self.advance(0)

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        done, total = self._done, max(1, self._total)
        self._progress(0.1 + 0.1 * done / total, f"converting, once: {done >> 20} of {total >> 20} MiB")


def _cache_folder() -> Path:
    folder = cache_folder()
    if folder is None:
        raise ModelLoadError("convert: there is no home folder; name another one as convert_folder")
    return folder / "rwkv"


def _arithmetic(
    options: RwkvOptions,
    checkpoint: Checkpoint,
    model: Any,
    module: ModuleType,
    layout: Layout,
    package_model: PackageModel,
) -> tuple[Arithmetic, str]:
    """Ours where the architecture is known and agrees with the package here and now; else the package's, and why."""
    if why := _why_unbatched(options, checkpoint):
        return package_model, why
    try:
        with package.quiet():
            if checkpoint.version == 7:
                kernel = module.RWKV7_OP if options.cuda_kernels and checkpoint.head_size == 64 else None
                ours: Arithmetic = BatchedV7(model, Matrices(model.z, module.matmul, kernels=False), kernel)
            elif checkpoint.version > 4:
                ours = BatchedV5(model, Matrices(model.w, module.matmul, kernels=options.cuda_kernels))
            else:
                matrices = Matrices(model.w, module.matmul, kernels=options.cuda_kernels)
                ours = BatchedV4(model, matrices, module.cuda_wkv if options.cuda_kernels else None)
            difference = _difference(ours, package_model, layout)
    except Exception as error:  # whatever another version of the package or of torch may raise
        return package_model, f"our own arithmetic failed here ({type(error).__name__}: {error})"
    if not difference < 0.25:
        return package_model, f"our own arithmetic is {difference:.3g} away from the package's here"
    return ours, ""


def _why_unbatched(options: RwkvOptions, checkpoint: Checkpoint) -> str:
    """Why the package itself computes, one conversation after another; empty where we have formulas of our own."""
    if not options.batched:
        return "one conversation after another, by the package itself (batched: false)"
    if checkpoint.deep_embedding:
        return f"one conversation after another, by the package itself ({checkpoint.name} with deep embeddings)"
    return ""


def _difference(ours: Arithmetic, package_model: PackageModel, layout: Layout) -> float:
    """The greatest difference of the logits, in standard deviations of the package's."""
    found = []
    for arithmetic in (ours, package_model):
        states = States(layout, "probe", "probe", 1 << 30)
        both = [states.new() for _ in _PROBE]
        with torch.inference_mode():
            arithmetic.forward(states.batch_of(both), _PROBE, [])
            found.append(arithmetic.forward(states.batch_of(both), ([5], [6]), [0, 1]))
    mine, theirs = found
    return float((mine - theirs).abs().max() / theirs.std())
