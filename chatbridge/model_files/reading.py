"""Reads the header of any file of weights by what the file is, and finds the files of weights in a folder.

Small files of JSON beside them are read here, too, bounded. Knows the formats; knows no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.ggml import read_ggml
from chatbridge.model_files.kinds import kind_of, refuse_stand_ins
from chatbridge.model_files.pickles import wants_code
from chatbridge.model_files.safetensors import read_safetensors
from chatbridge.model_files.tensors import TensorFile
from chatbridge.model_files.torch_files import check_torch_zip, read_torch_old, read_torch_zip

MAX_JSON = 64 << 20
"""Bytes of a JSON file: the largest tokenizer.json of today has 33 MB."""

MAX_FILES = 10_000
"""Entries of a folder that are looked at."""

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Where a folder's weights are, in the order in which transformers looks; or in parts, by an index of that name."""

_PART = re.compile(r"((?:pytorch_)?model)-\d{5}-of-(\d{5})\.(bin|safetensors)")

_OTHERS = {
    "gguf": "this is a GGUF file: use `backend: llama_cpp`",
    "ggml": "this is a file for an old llama.cpp or another program of GGML's; take the one that it was made from",
    "xor": "this is encrypted, as BELLE publishes its LLaMA models; decrypt it with the original LLaMA "
    "first (chatbridge model decrypt)",
    "json": "this is JSON and no file of weights",
    "sentencepiece": "this is a tokenizer and no file of weights",
    "other": "this is no file of torch or safetensors",
}


def read_tensors(path: Path, *, only_weights: bool = True, mapped: bool = False) -> TensorFile:
    """The header of a torch or safetensors file, by its contents, whatever its name says. Reads no weights.

    `only_weights`: refuse a file that names what is no weight, which only code would read. `mapped`: refuse one of a
    torch before 1.6, which can't be mapped into memory. Raises ModelLoadError.
    """
    kind = kind_of(path)
    if why := _OTHERS.get(kind):
        raise ModelLoadError(f"{path}: {why}")
    try:
        if kind == "safetensors":
            return read_safetensors(path)
        found = read_torch_zip(path) if kind == "torch" else read_torch_old(path)
    except OSError as error:
        raise ModelLoadError(f"{path}: the file can't be read: {error.strerror or error}") from error
    if mapped and found.format == "torch before 1.6":
        raise ModelLoadError(
            f"{path}: this is a file of a torch before 1.6, which can't be mapped into memory; torch.load and "
            f"torch.save it once"
        )
    if only_weights and found.foreign:
        raise wants_code(path, found.foreign[0])
    return found


def check_model_file(path: Path) -> None:
    """Raise ModelLoadError for a file that is not there, a pointer to one, a web page, or the beginning of one."""
    kind = kind_of(path)
    if kind == "safetensors":
        read_safetensors(path)
    elif kind == "torch":
        check_torch_zip(path)
    elif kind == "ggml":
        read_ggml(path)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ModelLoadError."""
    refuse_stand_ins(path)
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has more than {MAX_JSON:,} bytes")
        raw = path.read_bytes()
        if raw.count(b"[") + raw.count(b"{") > len(raw) // 4 + 1000:  # lists of nothing would fill the memory
            raise ValueError("it is made of brackets")
        found = json.loads(raw.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: this is no JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path}: this is a list or a value, and should be an object; download it again")
    return found


def files_in(folder: Path) -> list[Path]:
    """The files in a folder, by name. Raises ModelLoadError for one that can't be read, or holds too many."""
    found: list[Path] = []
    try:
        for entry in folder.iterdir():
            if len(found) >= MAX_FILES:
                raise ModelLoadError(f"{folder}: there are more than {MAX_FILES:,} files here; give a model's folder")
            found.append(entry)
    except OSError as error:
        raise ModelLoadError(f"{folder}: the folder can't be read: {error.strerror or error}") from error
    return sorted(found)


def indexed_files(index: Path) -> list[Path]:
    """The files that an index of shards names, by name, whether they are there or not. Raises ModelLoadError."""
    named = read_json_object(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelLoadError(f"{index}: it names no files (weight_map); download it again")
    files: set[str] = set()
    for name in named.values():
        if not isinstance(name, str) or name in ("", "..", ".") or Path(name).name != name or "\0" in name:
            raise ModelLoadError(f"{index}: {name!r} is no name of a file beside it")
        files.add(name)
        if len(files) > MAX_FILES:
            raise ModelLoadError(f"{index}: it names more than {MAX_FILES:,} files; download it again")
    return [index.parent / name for name in sorted(files)]


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a folder of Hugging Face's form, by its index where it has one; each is there.

    Without an index and without a whole file, those are taken that say which part of how many they are. Empty where
    there are none. Raises ModelLoadError for an index that is damaged, and for shards that are missing.
    """
    files = expected_files(folder)
    refuse_missing(folder, files)
    return files


def expected_files(folder: Path) -> list[Path]:
    """The same, whether they are there or not."""
    for name in WHOLE:
        if (folder / name).exists():
            return [folder / name]
        if (index := folder / f"{name}.index.json").exists():
            return indexed_files(index)
    for file in files_in(folder):
        if found := _PART.fullmatch(file.name):
            stem, count, ending = found[1], found[2], found[3]
            wanted = range(1, min(int(count), MAX_FILES) + 1)
            return [folder / f"{stem}-{number:0{len(count)}}-of-{count}.{ending}" for number in wanted]
    return []


def refuse_missing(folder: Path, files: Sequence[Path]) -> None:
    """Raise ModelLoadError where some of these are not there."""
    if gone := missing(files):
        raise ModelLoadError(
            f"{folder}: the weights have {len(files)} parts, and {gone}; download all of them into this folder"
        )


def missing(files: Iterable[Path]) -> str:
    """Which files are not there, in words; "" where all are."""
    gone = [file.name for file in files if not file.exists()]
    if not gone:
        return ""
    more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
    return f"{', '.join(gone[:3])}{more} {'is' if len(gone) == 1 else 'are'} missing"
