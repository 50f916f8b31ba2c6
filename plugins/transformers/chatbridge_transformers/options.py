"""The keys that a model of the `transformers` backend accepts in bots.yaml, by transformers' and PEFT's own names.

Knows what may be written; whether this folder and this machine can honour it is seen when the model is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from chatbridge import ConfigPath, Options

_HUB = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
_DEVICE = re.compile(r"auto|cpu|mps|xpu|cuda(:\d+)?")
_ADDRESS = re.compile(r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/(?P<name>[^/\s]+/[^/\s?#]+).*", re.IGNORECASE)
_SIZE = re.compile(r"\d+(\.\d+)? ?([KMGT]i?B)?", re.IGNORECASE)


def _path(value: object) -> object:
    if not isinstance(value, str | Path) or str(value) in ("", ".") or "\0" in str(value):
        raise ValueError("this can be neither the path of a folder nor a name on Hugging Face")
    if (address := _ADDRESS.fullmatch(str(value))) is not None:
        raise ValueError(f"this is the address of a page; write {address['name']}")
    return str(value)


def _place(value: str, info: ValidationInfo) -> str:
    """A folder's path, or owner/name on Hugging Face where no such folder is here."""
    base = (info.context or {}).get("base")
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("there is no home folder of that name here") from error
    path = path if base is None else Path(base) / path
    return value if _HUB.fullmatch(value) and not path.exists() else str(path)


Place = Annotated[str, BeforeValidator(_path), AfterValidator(_place)]


def _device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise ValueError("a device is auto, cpu, cuda, cuda:1 (the second card), mps or xpu")
    return value


def _size(value: object) -> object:
    if isinstance(value, bool) or not _SIZE.fullmatch(str(value)):
        raise ValueError("memory is a number with a unit, as 20GiB")
    return str(value)


class Adapter(Options, defer_build=True):
    """One PEFT adapter: its folder, and how strongly it works."""

    path: Annotated[Place, Field(description="The adapter's folder, or owner/name on Hugging Face.")]
    revision: Annotated[str | None, Field(min_length=1, description="Its branch, tag or commit there.")] = None
    scale: Annotated[float, Field(ge=-100, le=100, description="How strongly it works; 1 is as trained.")] = 1.0


def _adapters(value: object) -> object:
    """A single one, or a bare path, stands for a list of one."""
    if value is None:
        return value
    items = value if isinstance(value, list | tuple) else [value]
    return [{"path": item} if isinstance(item, str | Path) else item for item in items]


AdapterList = Annotated[tuple[Adapter, ...], BeforeValidator(_adapters)]


class NamedAdapter(Options, defer_build=True):
    """What one name under `adapters` adds to the model and its own `lora`."""

    lora: Annotated[AdapterList, Field(description="PEFT adapters, as in the model's own lora.")]

    @model_validator(mode="after")
    def _not_empty(self) -> NamedAdapter:
        if not self.lora:
            raise ValueError("an adapter needs lora; for the model as it is, leave `adapter` out")
        return self


def _by_name(value: object) -> object:
    """A bare path stands for one adapter."""
    if not isinstance(value, dict):
        return value
    return {name: {"lora": one} if isinstance(one, str | Path) else one for name, one in value.items()}


class TransformersOptions(Options, defer_build=True):
    """Keys that a model of the `transformers` backend accepts."""

    path: Annotated[Place, Field(description="A folder in Hugging Face's form, or owner/name there.")]
    revision: Annotated[
        str | None, Field(min_length=1, description="Branch, tag or commit on Hugging Face; else the newest.")
    ] = None
    tokenizer: Annotated[
        Place | None,
        Field(description="Folder, tokenizer.json or tokenizer.model to use; else the last adapter's or the model's."),
    ] = None
    trust_remote_code: Annotated[
        bool, Field(description="Run Python that comes with the model, with all rights of this program.")
    ] = False

    # Where the model runs.
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Field(description="Type of the weights; auto: as published on cards, float32 on processors if it fits."),
    ] = "auto"
    device: Annotated[
        str, AfterValidator(_device), Field(description="One device for all: cpu, cuda, cuda:1, mps; auto: a card.")
    ] = "auto"
    device_map: Annotated[
        Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, str | int] | None,
        Field(description="How accelerate spreads layers over several cards, processor and disk."),
    ] = None
    max_memory: Annotated[
        dict[str | int, Annotated[str | int, BeforeValidator(_size)]] | None,
        Field(description="What device_map may take of each, as {0: 20GiB, cpu: 40GiB}."),
    ] = None
    offload_folder: Annotated[
        ConfigPath | None, Field(description="Where weights lie that device_map puts on disk.")
    ] = None
    quantization: Annotated[
        Literal["int8", "nf4", "fp4"] | None,
        Field(description="Weights of 8 or 4 bits by bitsandbytes, made while loading."),
    ] = None
    attention: Annotated[
        Literal["auto", "eager", "sdpa", "flash_attention_2"],
        Field(description="The model's own attention of that name; auto: ours where it agrees with it."),
    ] = "auto"
    batched: Annotated[
        bool, Field(description="Compute conversations together where that agrees with the model; false never does.")
    ] = True
    threads: Annotated[
        int | None, Field(ge=1, le=512, description="Processor cores to use; else as many as there are.")
    ] = None

    # How much it remembers.
    context_length: Annotated[
        int | None, Field(ge=8, description="Tokens per conversation; else what the model takes, up to 4096.")
    ] = None
    sequences: Annotated[int, Field(ge=1, le=256, description="Conversations that are answered at once.")] = 16
    keep_states: Annotated[
        ConfigPath | None, Field(description="Folder for idle conversations' caches, for after a restart.")
    ] = None
    keep_states_gib: Annotated[float, Field(gt=0, description="The most that folder may hold.")] = 8.0

    # Adapters.
    lora: Annotated[
        AdapterList,
        Field(description="PEFT adapters that are always in use, in this order: a path, or path, revision and scale."),
    ] = ()
    adapters: Annotated[
        dict[Annotated[str, Field(min_length=1)], NamedAdapter],
        BeforeValidator(_by_name),
        Field(default_factory=dict, description="What a channel's `adapter` adds, by name: a path, or a lora list."),
    ]

    @model_validator(mode="after")
    def _fit_together(self) -> TransformersOptions:
        if self.device != "auto" and self.device_map is not None:
            raise ValueError("device puts everything in one place, and device_map spreads it: leave one out")
        if self.device_map is None and (self.max_memory is not None or self.offload_folder is not None):
            name = "max_memory" if self.max_memory is not None else "offload_folder"
            raise ValueError(f"{name} does nothing without device_map")
        if self.quantization is not None and self.dtype == "float16" and self.device == "cpu":
            raise ValueError("quantization on a processor computes in float32 or bfloat16; leave dtype out")
        if self.attention == "flash_attention_2" and self.device in ("cpu", "mps"):
            raise ValueError(f"flash_attention_2 computes on NVIDIA cards, and device is {self.device}")
        return self


def is_hub_name(place: str) -> bool:
    """Whether a checked path is owner/name on Hugging Face."""
    return bool(_HUB.fullmatch(place)) and not Path(place).exists()
