"""Loads a model into llama.cpp, or says why it can't be loaded. Knows options and files; runs nothing.

Whatever an option asks for and this build or this file can't do is an error here, before anything is loaded.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf.constants import GGMLQuantizationType

from chatbridge import (
    Card,
    GgufHeader,
    Machine,
    ModelLoadError,
    cache_folder,
    default_threads,
    free_memory,
    refuse_what_does_not_fit,
)
from chatbridge_llama_cpp import attention, planning
from chatbridge_llama_cpp.attention import Comparison
from chatbridge_llama_cpp.files import find_model
from chatbridge_llama_cpp.memory import Plan
from chatbridge_llama_cpp.native import Device, build_flags, devices, lib, log
from chatbridge_llama_cpp.options import UNPACKED, LlamaOptions
from chatbridge_llama_cpp.smoke import survives_repacking

REBUILD = 'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python==0.3.36'
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
_ROPE = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_NUMA = {"distribute": 1, "isolate": 2, "numactl": 3}
_FLASH: dict[str | bool, int] = {"auto": -1, False: 0, True: 1}
_MMAP, _MLOCK, _NO_MMAP = 1, 2, 0
_FUNCTION = re.compile(r"^\w+: (error loading model: )?")
_FLASH_ON = re.compile(r"flash_attn +?= enabled|Flash Attention enabled")
_BOOL = 2  # LLAMA_KV_OVERRIDE_TYPE_BOOL


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and its context in memory. `log_lines`: what llama.cpp logged while loading.

    `max_outputs`: tokens of one call whose logits can be had. `attention`: how both ways to compute it compare here,
    where that decided.
    """

    files: tuple[GgufHeader, ...]
    plan: Plan
    model: Any
    context: Any
    log_lines: Sequence[str]
    devices: Sequence[Device]
    max_outputs: int
    attention: Comparison | None = None

    @property
    def flash_attention(self) -> bool:
        """Whether llama.cpp uses it, by its own log."""
        return any(_FLASH_ON.search(line) for line in self.log_lines)

    def free(self) -> None:
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)


def load(options: LlamaOptions, progress: Callable[[float, str], None], outputs: int | None = None) -> Loaded:
    """Load the model that the options name, and make its context. Raises ModelLoadError.

    `outputs`: tokens of one call whose logits are wanted; unless given, as many as answering takes.
    """
    progress(0.0, "opening the file")
    files = find_model(options, progress)
    found_devices = devices()
    check_gpu(options, [device for device in found_devices if device.is_gpu], lib.llama_supports_gpu_offload())
    cards = tuple(Card(device.description, device.free) for device in found_devices if device.is_gpu)
    planned, reckoned = planning.decide(
        files, options, Machine(free_memory(), cards), lib.llama_max_parallel_sequences()
    )
    refuse_what_does_not_fit(reckoned)
    if options.numa is not None:
        lib.llama_numa_init(_NUMA[options.numa])
    with log().capture() as output:
        model = _load_weights(options, planned, files[0].path, progress)
    if not model:
        raise ModelLoadError(load_failure(files[0], output.problems))
    try:
        _check_kind(files[0], model)
        compared = _compare_attention(options, planned, files, model, progress)
        flash = flash_attention(options, planned.gpu_layers, compared)
        with log().capture() as context_output:
            params = _context_params(options, planned, flash)
            params.n_outputs_max = min(params.n_batch, outputs or params.n_outputs_max)
            context = lib.llama_init_from_model(model, params)
        if not context:
            raise ModelLoadError(
                f"{files[0].path}: llama.cpp made no context for {planned.sequences} conversations of "
                f"{planned.context_length} tokens: {_summary(context_output.problems)}"
            )
    except BaseException:
        lib.llama_model_free(model)
        raise
    log_lines = (*output.lines, *context_output.lines)
    loaded = Loaded(files, planned, model, context, log_lines, found_devices, params.n_outputs_max, compared)
    try:
        check_honoured(options, loaded)
    except BaseException:
        loaded.free()
        raise
    return loaded


def check_honoured(options: LlamaOptions, loaded: Loaded) -> None:
    """Raise ModelLoadError where llama.cpp went on without what was asked for, as it does with these options."""
    file = loaded.files[0].path
    if options.mlock and any("mlock" in line and "warning" in line for line in loaded.log_lines):
        raise ModelLoadError(
            f"{file}: mlock: true could not lock the weights in memory; allow more (`ulimit -l`, or LimitMEMLOCK= in a "
            f"systemd unit), or leave mlock out"
        )
    if options.flash_attention is True and not loaded.flash_attention:
        raise ModelLoadError(
            f"{file}: flash_attention: true can't be had for the architecture {loaded.files[0].architecture!r}; leave "
            f"it at auto"
        )


def check_gpu(options: LlamaOptions, gpus: Sequence[Device], built: bool) -> None:
    """Raise ModelLoadError where the options need a graphics card that this build or machine does not have."""
    names = [
        name for name in ("main_gpu", "split_mode", "tensor_split", "offload_kqv") if getattr(options, name) is not None
    ]
    if options.gpu_layers not in (0, "auto"):
        names.insert(0, "gpu_layers")
    if not names:
        return
    asked = f"{names[0]}: {getattr(options, names[0])}"
    if not built:
        raise ModelLoadError(
            f"{asked} needs a graphics card, and this llama-cpp-python was built for the processor only; rebuild it "
            f"for NVIDIA cards with\n    {REBUILD}\n(the README has the lines for others), or leave {names[0]} out"
        )
    if not gpus:
        raise ModelLoadError(f"{asked} needs a graphics card, and none is seen here; leave {names[0]} out")
    if options.main_gpu is not None and options.main_gpu >= len(gpus):
        raise ModelLoadError(f"main_gpu: {options.main_gpu} is not there: the cards are 0 to {len(gpus) - 1}")
    if options.tensor_split is not None and len(options.tensor_split) != len(gpus):
        raise ModelLoadError(f"tensor_split has {len(options.tensor_split)} shares for {len(gpus)} graphics cards")


def _load_weights(options: LlamaOptions, planned: Plan, path: Path, progress: Callable[[float, str], None]) -> Any:
    reported = 0.0

    def report(share: float, _: Any) -> bool:
        nonlocal reported
        if share - reported >= 0.01:
            reported = share
            progress(0.9 * share, "reading weights")
        return True

    params = lib.llama_model_default_params()
    params.n_gpu_layers = planned.gpu_layers
    params.load_mode = (_MMAP if options.mmap else _NO_MMAP) | (_MLOCK if options.mlock else 0)
    if options.split_mode is not None:
        params.split_mode = _SPLIT_MODES[options.split_mode]
    if options.main_gpu is not None:
        params.main_gpu = options.main_gpu
    if options.tensor_split is not None:
        room = lib.llama_max_devices()
        split = (ctypes.c_float * room)(*options.tensor_split)
        params.tensor_split = split
    params.use_extra_bufts = survives_repacking()
    params.kv_overrides = _overrides()
    params.progress_callback = callback = lib.llama_progress_callback(report)
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    del callback  # llama.cpp called it until here
    return model


def _overrides() -> Any:
    """Keys of the file to override: the dummy blank is off, since our tokenizer puts it where it belongs."""
    overrides = (lib.llama_model_kv_override * 2)()
    overrides[0].tag = _BOOL
    overrides[0].key = b"tokenizer.ggml.add_space_prefix"
    overrides[0].value.val_bool = False
    return overrides  # an empty key ends the list


def _check_kind(file: GgufHeader, model: Any) -> None:
    """Raise ModelLoadError for a model that does not generate text one token after another."""
    if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
        raise ModelLoadError(
            f"{file.path}: the architecture {file.architecture!r} reads a text as a whole and does not go on with it; "
            f"take a model that generates text"
        )
    if lib.llama_model_is_diffusion(model):
        raise ModelLoadError(f"{file.path}: this is a diffusion model, which fills in text; take one that goes on")


def _compare_attention(
    options: LlamaOptions,
    planned: Plan,
    files: Sequence[GgufHeader],
    model: Any,
    progress: Callable[[float, str], None],
) -> Comparison | None:
    """How flash attention compares on this processor; None where that is not asked, or decides nothing."""
    attends = not lib.llama_model_is_recurrent(model)
    small = planned.needs.weights < attention.MIN_WEIGHTS
    if options.flash_attention != "auto" or planned.gpu_layers or options.kv_type_v not in UNPACKED:
        return None
    if small or not attends:
        return None
    params = _context_params(options, planned, False)
    key = attention.key_of(
        [file.fingerprint() for file in files],
        sorted(build_flags().items()),
        platform.processor() or platform.machine(),
        attention.lengths(planned.context_length),
        (params.n_threads, params.n_threads_batch, options.kv_type_k, options.kv_type_v),
    )
    folder = options.keep_states or cache_folder()
    kept = attention.Kept(folder) if folder else None
    if kept is None or (found := kept.find(key)) is None:
        progress(0.92, "measuring attention")
        with log().capture():
            found = attention.compare(model, lambda: _context_params(options, planned, False), planned.context_length)
        if kept is not None and found is not None:
            kept.put(key, found)
    return found


def _context_params(options: LlamaOptions, planned: Plan, flash: Literal["auto"] | bool) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = planned.cells
    params.n_seq_max = planned.sequences
    params.kv_unified = options.unified
    params.n_batch = max(options.batch, planned.sequences)
    params.n_ubatch = min(options.ubatch or params.n_batch, params.n_batch)
    # Where a small model guesses, the logits after each guess are wanted as well.
    each = 1 + options.draft_tokens if options.draft else 1
    params.n_outputs_max = min(params.n_batch, planned.sequences * each)
    params.n_threads = options.threads or default_threads().count
    params.n_threads_batch = options.threads_batch or params.n_threads
    params.flash_attn_type = _FLASH[flash]
    params.offload_kqv = options.offload_kqv is not False
    params.swa_full = options.swa_full
    params.type_k = GGMLQuantizationType[options.kv_type_k.upper()]
    params.type_v = GGMLQuantizationType[options.kv_type_v.upper()]
    if options.rope_scaling is not None:
        params.rope_scaling_type = _ROPE[options.rope_scaling]
    for name in ("rope_freq_base", "rope_freq_scale", *(n for n in LlamaOptions.model_fields if n.startswith("yarn_"))):
        if (value := getattr(options, name)) is not None:
            setattr(params, name, value)
    return params


def flash_attention(
    options: LlamaOptions, gpu_layers: int, compared: Comparison | None = None
) -> Literal["auto"] | bool:
    """What to ask of llama.cpp. On processors, flash attention only where it was found to be faster."""
    if options.flash_attention != "auto" or gpu_layers or options.kv_type_v not in UNPACKED:
        return options.flash_attention
    return compared is not None and compared.flash


def load_failure(file: GgufHeader, problems: Iterable[str]) -> str:
    """The message for a file that llama.cpp did not load, by what it logged."""
    why = _summary(problems)
    if "unknown model architecture" in why:
        return (
            f"{file.path}: this llama.cpp does not know the architecture {file.architecture!r}; a newer "
            f"llama-cpp-python may: pip install -U llama-cpp-python"
        )
    if "unknown pre-tokenizer" in why:
        return (
            f"{file.path}: this llama.cpp does not know how the tokenizer cuts words "
            f"({file.metadata.get('tokenizer.ggml.pre')!r}); a newer llama-cpp-python may, or the file has to be "
            f"converted again"
        )
    if "alloc" in why or "out of memory" in why:
        return f"{file.path}: there is not enough memory: {why}; lower gpu_layers, or take a smaller model"
    return f"{file.path}: llama.cpp could not load it: {why}; download or convert it again"


def _summary(problems: Iterable[str]) -> str:
    """The last problems that llama.cpp logged, without the names of its functions."""
    lines = [_FUNCTION.sub("", line.strip()) for line in problems]
    kept = [line for line in dict.fromkeys(lines) if line and line != "failed to load model"]
    return "; ".join(kept[-3:]) or "it did not say why"
