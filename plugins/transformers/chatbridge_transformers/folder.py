"""What lies in a model's or adapter's folder, told before anything heavy is imported, and what is wrong with it.

The most frequent mistakes are told here: pointers in the place of files, half downloads, another program's model.
Knows names and first bytes; reads no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError, TensorInfo, check_model_file, read_json_object, read_tensors, weight_files
from chatbridge_transformers.options import is_hub_name

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_WANTED = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "*.py"]
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


def located(place: str, revision: str | None, key: str = "path") -> Path | None:
    """The folder of that path, or that of a name on Hugging Face where all of it is here; None where it is not."""
    if not is_hub_name(place):
        if revision is not None:
            raise ModelLoadError(f"{key}: {place} is a folder here, and revision is for names on Hugging Face")
        return Path(place)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(place, revision=revision, local_files_only=True, allow_patterns=_WANTED))
    except Exception:  # whatever the package says of what is missing
        return None


def tensors_of(folder: Folder) -> dict[str, TensorInfo]:
    """All tensors by name. Raises ModelLoadError for a file that is damaged, or wants to do more than hold tensors."""
    found: dict[str, TensorInfo] = {}
    for path in folder.shards:
        found.update(read_tensors(path).tensors)
    return found


def locate(place: str, revision: str | None, progress: Progress, key: str = "path") -> Path:
    """The folder of that path, or that of a name on Hugging Face, from which missing files are fetched.

    `key`: the option that names it, for messages. Raises ModelLoadError.
    """
    if (here := located(place, revision, key)) is not None:
        return here
    from huggingface_hub import snapshot_download

    progress(0.0, f"downloading {place}")
    try:
        names = {entry.rfilename for entry in _hub().model_info(place, revision=revision).siblings or ()}
        doubled = ["*.bin"] if any(name.endswith(".safetensors") for name in names) else []
        return Path(snapshot_download(place, revision=revision, allow_patterns=_WANTED, ignore_patterns=doubled))
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
    config = read_json_object(path / "config.json")
    _refuse_others(path, config)
    generation = path / "generation_config.json"
    return Folder(path, config, read_json_object(generation) if generation.exists() else {}, _shards(path))


def _shards(path: Path) -> tuple[Path, ...]:
    """The files of the weights, each of which is looked at."""
    files = weight_files(path)
    indexed = any((path / name).exists() for name in _INDEXES)
    if not files or not (indexed or files[0].name in _WHOLE):
        raise ModelLoadError(f"{path}: {_no_weights(path)}")
    for file in files:
        check_model_file(file)
    return tuple(files)


def _no_weights(path: Path) -> str:
    parts = sorted(path.glob("*-of-*.safetensors")) + sorted(path.glob("pytorch_model-*-of-*.bin"))
    if parts:
        return f"{parts[0].name} is there, and the index of the parts is not; download the file ….index.json, too"
    if any(path.glob("*.gguf")):
        return "there is a GGUF file here: use `backend: llama_cpp`, with that file as path"
    if any(path.glob("*.enc")):
        return _ENCRYPTED
    if any((path / name).exists() for name in ("tf_model.h5", "flax_model.msgpack")):
        return "the weights are TensorFlow's or Flax's; take a model with safetensors or pytorch_model.bin"
    if any(path.glob("consolidated.*.pth")):
        return _META
    return "there are no weights here (model.safetensors or pytorch_model.bin); download them into this folder"


_META = "these are Meta's original files; convert them by `chatbridge model convert --to hf`, or take a converted model"

_ENCRYPTED = (
    "these are encrypted weights (.enc), as BELLE publishes them; decrypt them with the original LLaMA first "
    "(chatbridge model decrypt)"
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
        return _ENCRYPTED
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
