"""Finds the file or files that `path` names, here or on Hugging Face. Reads their headers, and knows no engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path

from chatbridge import GgufHeader, GgufStrings, ModelLoadError, damaged_gguf
from chatbridge_llama_cpp.options import LlamaOptions

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_REQUIRED = ("block_count", "context_length", "embedding_length")
_KERNEL_STEPS = {"wkv.head_size": 64, "ssm.state_size": 16}
"""What some kernels of llama.cpp read and write at once, however much is there (ggml-cpu/ops.cpp).

`rwkv_wkv7` steps over 64 floats with AVX-512, and over 32 with AVX2; graphics cards take heads of 64 and 128 alone, of
RWKV-6, too. `ssm_scan` of Mamba steps over a whole register with SVE, which is 16 floats on the widest processors.
"""


def open_gguf(path: Path) -> GgufHeader:
    """The header of a model or an adapter. Raises ModelLoadError."""
    return GgufHeader(path, reader="llama.cpp")


def find_model(options: LlamaOptions, progress: Callable[[float, str], None]) -> tuple[GgufHeader, ...]:
    """The headers of the model's parts, the first of which has the metadata. Raises ModelLoadError."""
    hub = options.hub
    path = Path(options.path) if hub is None else _downloaded(*hub, progress)
    found = _PART.fullmatch(path.name)
    if found is None:
        files: tuple[GgufHeader, ...] = (checked(open_gguf(path)),)
        _check_kernels(files)
        return files
    stem, _, count = found.groups()
    parts = [path.with_name(f"{stem}-{i + 1:05d}-of-{count}.gguf") for i in range(int(count))]
    if hub is not None:
        parts = [_downloaded(hub[0], str(Path(hub[1]).with_name(part.name)), progress) for part in parts]
    if missing := [part.name for part in parts if not part.exists()]:
        raise ModelLoadError(
            f"{path}: the model has {int(count)} parts, and {', '.join(missing[:3])} {_is(missing)} missing beside it; "
            f"download all of them into one folder"
        )
    files = tuple(open_gguf(part) for part in parts)
    for i, file in enumerate(files):
        if file.metadata.get("split.no") != i or file.metadata.get("split.count") != int(count):
            raise ModelLoadError(f"{file.path}: this is not part {i + 1} of {int(count)}; download the parts again")
    checked(files[0])
    _check_kernels(files)
    return files


def checked(file: GgufHeader) -> GgufHeader:
    """The file, if it is a model that llama.cpp can be given. Raises ModelLoadError."""
    path, metadata, architecture = file.path, file.metadata, file.architecture
    if metadata.get("general.type") == "adapter":
        raise ModelLoadError(f"{path}: this is an adapter, not a model; give it as lora: beside the path: of its model")
    if not architecture:
        raise ModelLoadError(f"{path}: the metadata lack general.architecture; this is no model, or only a part of one")
    if architecture == "clip" or metadata.get("general.type") == "mmproj":
        raise ModelLoadError(f"{path}: this is the picture part of a model; give the file of its text part")
    if metadata.get("split.count", 0) not in (0, 1) and not _PART.fullmatch(path.name):
        raise ModelLoadError(
            f"{path}: this is one of {metadata['split.count']} parts, and is not called …-00001-of-"
            f"{metadata['split.count']:05d}.gguf; give the parts their names back"
        )
    for key in _REQUIRED:
        value = metadata.get(f"{architecture}.{key}")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise damaged_gguf(path, f"{architecture}.{key} is {value!r}")
    for key, value in metadata.items():
        if isinstance(value, float) and not (isfinite(value) and (value >= 0 or "epsilon" not in key)):
            raise damaged_gguf(path, f"{key} is {value}")
    _check_vocabulary(file)
    return file


def _check_kernels(files: Sequence[GgufHeader]) -> None:
    """Refuse what llama.cpp would read or write beside its memory for; it looks at none of it."""
    metadata, path, architecture = files[0].metadata, files[0].path, files[0].architecture
    for key, step in _KERNEL_STEPS.items():
        value = metadata.get(f"{architecture}.{key}", step)
        if not isinstance(value, int) or value % step:
            raise ModelLoadError(
                f"{path}: {architecture}.{key} is {value!r}, and llama.cpp computes such a model right only for a "
                f"multiple of {step}: else it reads and writes beside its memory; take a model with a multiple of "
                f"{step}, as all published ones have it"
            )
    head, dim = metadata.get(f"{architecture}.wkv.head_size"), metadata[f"{architecture}.embedding_length"]
    if head is not None and (head <= 0 or dim % head):
        raise damaged_gguf(
            path, f"{architecture}.wkv.head_size is {head}, and {architecture}.embedding_length is {dim}"
        )
    for file in files:
        for name, tensor in file.tensors.items():
            # `rwkv_wkv6` takes it for float32, whatever it is.
            if name.endswith(".time_mix_first.weight") and tensor.kind != "F32":
                raise ModelLoadError(
                    f"{file.path}: {name} is of type {tensor.kind}, and llama.cpp reads it as F32, beside its "
                    f"memory; convert the model again with llama.cpp's convert_hf_to_gguf.py, which keeps it as F32"
                )


def _check_vocabulary(file: GgufHeader) -> None:
    """llama.cpp reads these arrays side by side, whatever their lengths."""
    metadata, path = file.metadata, file.path
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, GgufStrings) or not tokens.count:
        raise ModelLoadError(f"{path}: the file has no tokenizer; get one that was converted with its vocabulary")
    # llama.cpp reads a text up to its first zero, gives empty ones a name, and aborts where two are alike.
    texts = [text for text in (token.partition(b"\0")[0] for token in tokens) if text]
    if len(set(texts)) < len(texts):
        raise damaged_gguf(path, "two tokens have the same text")
    for key in ("scores", "token_type"):
        value = metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and getattr(value, "dtype", None) is None:
            raise damaged_gguf(path, f"tokenizer.ggml.{key} is no list of numbers")
        if value is not None and (len(value) != tokens.count or value.dtype.itemsize != 4):
            raise damaged_gguf(path, f"tokenizer.ggml.{key} has {len(value)} entries for {tokens.count} tokens")


def _downloaded(repo: str, file: str, progress: Callable[[float, str], None]) -> Path:
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ImportError:
        raise ModelLoadError(
            f"path: {repo}:{file} is on Hugging Face, which needs another package: pip install "
            f"huggingface_hub; or download the file and give its path"
        ) from None
    cached = try_to_load_from_cache(repo, file)
    if isinstance(cached, str):
        return Path(cached)
    progress(0.0, f"downloading {file}")
    try:
        return Path(hf_hub_download(repo, file))
    except Exception as error:  # network, rights, names: the package has a class for each
        raise ModelLoadError(
            f"path: {repo}:{file} could not be downloaded: {str(error).splitlines()[0] if str(error) else error!r}; "
            f"see that the names are right, or download the file and give its path"
        ) from error


def _is(items: list[str]) -> str:
    return "is" if len(items) == 1 else "are"
