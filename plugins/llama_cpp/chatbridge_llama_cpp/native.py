"""The way into llama.cpp's C interface: the library, its log, and the devices that it sees.

Importing this module loads the native library, so only `load` and `build_info` may. Knows no model.
"""

from __future__ import annotations

import atexit
import ctypes
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

lib: Any = import_module("llama_cpp.llama_cpp")
"""llama.cpp's C functions by their own names (llama.h), as llama-cpp-python declares them."""

# llama-cpp-python opens these when it is imported and never closes them, which Python complains of at its end.
for _file in ("outnull_file", "errnull_file"):
    if (_opened := getattr(import_module("llama_cpp._utils"), _file, None)) is not None:
        atexit.register(_opened.close)

NOTHING = ctypes.c_void_p(None)
INFO, WARN, ERROR, CONTINUED = 2, 3, 4, 5


@dataclass(slots=True)
class LogOutput:
    """What llama.cpp logged, line by line; `problems`: the warnings and errors among it."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Log:
    """llama.cpp's log. Warnings and errors are printed: the end of a worker's output goes into error messages."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, str]] = deque(maxlen=4000)
        self._level = 0
        self._callback = lib.llama_log_callback(self._receive)
        lib.llama_log_set(self._callback, NOTHING)

    @contextmanager
    def capture(self) -> Iterator[LogOutput]:
        """What is logged inside the block; to be read when the block has ended."""
        output = LogOutput()
        self._recent.clear()
        try:
            yield output
        finally:
            output.lines += "".join(text for _, text in self._recent).splitlines()
            output.problems += "".join(text for level, text in self._recent if level != INFO).splitlines()
            self._recent.clear()

    def _receive(self, level: int, text: bytes, _: Any) -> None:
        self._level = self._level if level == CONTINUED else level
        line = text.decode("utf-8", "replace")
        if self._level in (INFO, WARN, ERROR):
            self._recent.append((self._level, line))
        if self._level in (WARN, ERROR):
            print(line, end="", flush=True)


@cache
def log() -> Log:
    """The one log there is. From the first call on, llama.cpp prints nothing but warnings and errors."""
    the_log = Log()
    lib.llama_backend_init()
    return the_log


@dataclass(frozen=True, slots=True)
class Device:
    """A processor or graphics card, as llama.cpp sees it. `free` and `total`: memory in bytes."""

    name: str
    description: str
    free: int
    total: int
    is_gpu: bool


def devices() -> list[Device]:
    """Everything that this build can use: the processor, graphics cards, accelerators."""
    log()
    get: Any = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name: Any = ggml_function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    about: Any = ggml_function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind: Any = ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    size = ctypes.POINTER(ctypes.c_size_t)
    memory: Any = ggml_function("ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)
    found = []
    for i in range(ggml_function("ggml_backend_dev_count", ctypes.c_size_t)()):
        device = get(i)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        is_gpu = kind(device) in (1, 2)  # a card, or one that shares the main memory
        found.append(Device(name(device).decode(), about(device).decode().strip(), free.value, total.value, is_gpu))
    return found


def build_flags() -> dict[str, str]:
    """Versions of the build, its devices, and the processor's instructions that it uses; for people."""
    log()
    found = devices()
    gpus = [device for device in found if device.is_gpu]
    libraries = [device.name for device in found if not device.is_gpu and device.name != "CPU"]
    system = lib.llama_print_system_info().decode()
    flags = [flag.replace("= 1", "").strip() for flag in system.replace("CPU :", "").split("|") if "= 1" in flag]
    return {
        "llama-cpp-python": version("llama-cpp-python"),
        "llama.cpp": lib.llama_version().decode() if hasattr(lib, "llama_version") else "of the same release",
        "gpu": ", ".join(f"{gpu.name} ({gpu.description})" for gpu in gpus) or f"none: {_why_no_gpu()}",
        "blas": ", ".join(libraries) or "none",
        "instructions": ", ".join(flags) or "unknown",
    }


def _why_no_gpu() -> str:
    return "none was seen" if lib.llama_supports_gpu_offload() else "built for the processor only"


def ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml, which llama-cpp-python does not declare; it is in one of two libraries."""
    first: Any = import_module("llama_cpp._ggml").libggml
    try:
        function = getattr(first, name)
    except AttributeError:  # Windows does not look through the libraries that a library loads
        extensions: Any = import_module("llama_cpp._ctypes_extensions")
        folder: Any = import_module("llama_cpp._ggml").libggml_base_path
        function = getattr(extensions.load_shared_library("ggml-base", folder), name)
    function.restype, function.argtypes = result, list(arguments)
    return function
