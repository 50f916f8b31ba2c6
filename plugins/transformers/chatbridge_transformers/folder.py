"""What lies in a model's or adapter's folder, told before anything heavy is imported, and what is wrong with it.

The most frequent mistakes are told here: pointers in the place of files, half downloads, another program's model.
Knows names and first bytes; reads no weights.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError
from chatbridge_transformers.options import is_hub_name

_POINTER = b"version https://git-lfs"
_LARGEST_JSON = 64 << 20
_MAX_HEADER = 100 << 20
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What transformers takes the weights from: the first of these that is there, and nothing else beside it."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "ice_text.model")

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Folder:
    """A model: its `config` (config.json), `generation` (generation_config.json), and the files of its weights."""

    path: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    shards: tuple[Path, ...]

    @property
    def kind(self) -> str:
        return str(self.config.get("model_type") or "")


def locate(place: str, revision: str | None, progress: Progress, key: str = "path") -> Path:
    """The folder of that path, or that of a name on Hugging Face, from which missing files are fetched.

    `key`: the option that names it, for messages. Raises ModelLoadError.
    """
    if not is_hub_name(place):
        if revision is not None:
            raise ModelLoadError(f"{key}: {place} is a folder here, and revision is for names on Hugging Face")
        return Path(place)
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "*.py"]
    try:
        return Path(snapshot_download(place, revision=revision, local_files_only=True, allow_patterns=wanted))
    except Exception:  # not all of it is here yet
        progress(0.0, f"downloading {place}")
    try:
        names = {entry.rfilename for entry in _hub().model_info(place, revision=revision).siblings or ()}
        doubled = ["*.bin"] if any(name.endswith(".safetensors") for name in names) else []
        return Path(snapshot_download(place, revision=revision, allow_patterns=wanted, ignore_patterns=doubled))
    except Exception as error:  # network, rights, names: the package has a class for each
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise ModelLoadError(
            f"{key}: {place}: there is no such folder, and from Hugging Face it could not be downloaded: {why}; see "
            f"that the name is right, or download it and give its folder"
        ) from error


def read(path: Path) -> Folder:
    """Look at a model's folder. Raises ModelLoadError for what is none, or not whole."""
    if not path.exists():
        raise ModelLoadError(f"{path}: {_absent(path)}")
    if path.is_file():
        raise ModelLoadError(f"{path}: {_file(path)}")
    if not (path / "config.json").exists():
        raise ModelLoadError(f"{path}: {_no_config(path)}")
    config = read_json(path / "config.json")
    _refuse_others(path, config)
    generation = path / "generation_config.json"
    return Folder(path, config, read_json(generation) if generation.exists() else {}, _shards(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ModelLoadError."""
    check_file(path)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("it is too large for what it is called")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: this is no JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path}: this is a list or a value, and should be an object; download it again")
    return found


def check_file(path: Path) -> None:
    """Raise ModelLoadError for a file that is not there, a pointer to one, or only the beginning of one."""
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such file; download it, into the same folder as the others")
    with path.open("rb") as file:
        begin = file.read(512)
    if begin.startswith(_POINTER):
        raise ModelLoadError(
            f"{path}: this is a Git LFS pointer and not the file itself; run `git lfs install` and `git lfs pull` in "
            f"that folder, or download the file from the model's page"
        )
    if not begin:
        raise ModelLoadError(f"{path}: the file is empty; download it again")
    if begin.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        raise ModelLoadError(f"{path}: this is a web page and not the file; download it again, by the page's button")
    if path.suffix == ".safetensors":
        _check_safetensors(path, begin)
    elif begin.startswith(b"PK\3\4") and not _ends_as_a_zip(path):
        raise _half(path, f"{path.stat().st_size:,} bytes are there, and its end is missing")


def _ends_as_a_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end is there, and damaged
        return False


def _check_safetensors(path: Path, begin: bytes) -> None:
    (length,) = struct.unpack("<Q", begin[:8].ljust(8, b"\0"))
    size = path.stat().st_size
    if length > min(_MAX_HEADER, size):
        if begin[8:9] == b"{":
            raise _half(path, f"{size:,} bytes are there, and its beginning alone has {length:,}")
        raise ModelLoadError(f"{path}: this is no safetensors file; download it again")
    needed = 8 + length + max((end for _, _, end in safetensors_header(path).values()), default=0)
    if size < needed:
        raise _half(path, f"{size:,} of {needed:,} bytes are there")


_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)
"""What reading a damaged header may raise."""


def safetensors_header(path: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Each tensor's type, shape, and the end of its bytes. Raises ModelLoadError."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _MAX_HEADER)))
        return {
            name: (str(entry["dtype"]), tuple(map(int, entry["shape"])), int(entry["data_offsets"][1]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except _DAMAGED as error:
        raise ModelLoadError(f"{path}: its header is damaged ({error!r}); download it again") from error


def _half(path: Path, what: str) -> ModelLoadError:
    return ModelLoadError(f"{path}: only a part of the file was downloaded: {what}; download it again")


def _shards(path: Path) -> tuple[Path, ...]:
    """The files of the weights, each of which is looked at."""
    found = next((path / name for name in _WEIGHTS if (path / name).exists()), None)
    if found is None:
        raise ModelLoadError(f"{path}: {_no_weights(path)}")
    files = _parts(found) if found.suffix == ".json" else (found,)
    for file in files:
        check_file(file)
    return files


def _parts(index: Path) -> tuple[Path, ...]:
    """The files that an index names."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelLoadError(f"{index}: it names no files (weight_map); download it again")
    files = sorted({str(file) for file in named.values()})
    if outside := [file for file in files if file in ("", "..") or Path(file).name != file]:
        raise ModelLoadError(f"{index}: {outside[0]!r} is no name of a file beside it")
    if missing := [file for file in files if not (index.parent / file).exists()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelLoadError(
            f"{index.parent}: the weights have {len(files)} parts, and {missing[0]}{more} "
            f"{'are' if more else 'is'} missing; download all of them into this folder"
        )
    return tuple(index.parent / file for file in files)


def _no_weights(path: Path) -> str:
    parts = sorted(path.glob("*-of-*.safetensors")) + sorted(path.glob("pytorch_model-*-of-*.bin"))
    if parts:
        return f"{parts[0].name} is there, and the index of the parts is not; download the file ….index.json, too"
    if any(path.glob("*.gguf")):
        return "there is a GGUF file here: use `backend: llama_cpp`, with that file as path"
    if any(path.glob("*.enc")):
        return "these are encrypted weights (.enc), as BELLE publishes them; decrypt them with the original LLaMA first"
    if any((path / name).exists() for name in ("tf_model.h5", "flax_model.msgpack")):
        return "the weights are TensorFlow's or Flax's; take a model with safetensors or pytorch_model.bin"
    if any(path.glob("consolidated.*.pth")):
        return _META
    return "there are no weights here (model.safetensors or pytorch_model.bin); download them into this folder"


_META = (
    "these are Meta's original files; convert them with transformers' convert_llama_weights_to_hf.py, or take a "
    "converted model"
)


def _no_config(path: Path) -> str:
    if (path / "adapter_config.json").exists():
        return "this is an adapter and no model: give the folder of its base model as path, and this one as lora"
    if any(path.glob("consolidated.*.pth")):
        return _META
    if any(path.glob("*.gguf")):
        return "there is a GGUF file here: use `backend: llama_cpp`, with that file as path"
    if any("rwkv" in file.name.lower() for file in path.glob("*.pth")):
        return "this is BlinkDL's form of an RWKV model: use `backend: rwkv`, with the .pth file as path"
    if any(path.glob("*.enc")):
        return "these are encrypted weights (.enc), as BELLE publishes them; decrypt them with the original LLaMA first"
    if (below := folder_below(path, "config.json")) is not None:
        return f"there is no config.json here, but one in {below}: give that folder"
    return "there is no config.json here; give the folder of a model in Hugging Face's form, with all its files"


def folder_below(path: Path, name: str) -> Path | None:
    """The newest folder in this one, or in its snapshots as Hugging Face's cache has them, with a file of that name."""
    found = [*path.glob(f"*/{name}"), *path.glob(f"snapshots/*/{name}")]
    return max(found, key=lambda file: file.stat().st_mtime).parent if found else None


def _file(path: Path) -> str:
    with path.open("rb") as file:
        begin = file.read(4)
    if begin == b"GGUF":
        return "this is a GGUF file: use `backend: llama_cpp`"
    if path.suffix == ".pth" and "rwkv" in path.name.lower():
        return "this is BlinkDL's form of an RWKV model: use `backend: rwkv`"
    return "this is a file; give the folder that it is in"


def _absent(path: Path) -> str:
    name, mark, rest = path.name.partition("@" if "@" in path.name else ":")
    if path.name.endswith(".gguf"):
        return "there is no such folder, and a GGUF file is for `backend: llama_cpp`"
    if mark == "@" and name and rest:
        return f"there is no such folder; where {rest} is a branch, tag or commit, write revision: {rest}"
    return "there is no such folder; give one in Hugging Face's form, or owner/name there"


def _refuse_others(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    first = "inner_hidden_size" in config or (path / "ice_text.model").exists() or "position_encoding_2d" in config
    if kind == "chatglm" and first:
        raise ModelLoadError(f"{path}: this is ChatGLM-6B: use `backend: glm`, with the same path")
    if kind == "chatglm":
        raise ModelLoadError(
            f"{path}: this is ChatGLM2 or 3, whose own code does not run with transformers 5; take GLM-4 in the form "
            f"that transformers knows (its name ends in -hf), or a GGUF file with `backend: llama_cpp`"
        )
    if config.get("is_encoder_decoder"):
        raise ModelLoadError(
            f"{path}: this is an encoder-decoder model ({kind}), which goes on with no conversation; take a causal one"
        )
    if not kind:
        raise ModelLoadError(f"{path / 'config.json'}: it has no model_type; download it again")


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi()
