"""The keys that a model of the `glm` backend accepts in bots.yaml.

Knows what may be written; whether this checkpoint and this machine can honour it is seen when the model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from chatbridge import ConfigPath, Options

STATES = "glm-states"
"""The folder beside bots.yaml in which states are kept, unless `keep_states` says otherwise."""

_DEVICE = re.compile(r"cpu|disk|mps|cuda(:\d+)?")


def _device(value: object) -> object:
    """`auto`, one device, several, or several with their numbers of layers: all but `auto` as a mapping."""
    if value == "auto":
        return {}
    given = value
    if isinstance(value, str):
        given = {value: 0}
    elif isinstance(value, list | tuple):
        given = dict.fromkeys(value, 0)
        if len(given) != len(value):
            raise ValueError("a device stands there twice")
    if isinstance(given, Mapping):
        for name in given:
            if not _DEVICE.fullmatch(str(name)):
                raise ValueError(f"{name!r} is no device; write auto, or of cpu, cuda, cuda:1, mps and disk")
    return given


class Adapter(Options, defer_build=True):
    """One P-Tuning prefix, by which a channel's conversations begin."""

    prefix: Annotated[ConfigPath, Field(description="The folder or file that P-Tuning v2 has made.")]


class GlmOptions(Options, defer_build=True):
    """Keys that a model of the `glm` backend accepts."""

    path: Annotated[
        ConfigPath, Field(description="The folder of a ChatGLM-6B from the hub, or of a GLM-130B checkpoint.")
    ]
    quantization: Annotated[
        Literal["auto", "none", "int8", "int4"],
        Field(description="What weights are packed in while they are read; auto leaves them as the files have them."),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(description="What products are computed in; auto is fp32 on processors where that is quick."),
    ] = "auto"
    device: Annotated[
        dict[str, Annotated[int, Field(ge=0)]],
        BeforeValidator(_device),
        Field(
            default_factory=dict,
            description="auto, a device, a list, or a mapping that gives each its number of layers; disk is one.",
        ),
    ]
    context_length: Annotated[
        int | None,
        Field(ge=8, description="Tokens of a conversation, prompt and answer together; else what the model can."),
    ] = None
    cache_dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(description="What conversations' keys and values are kept in; auto is as dtype."),
    ] = "auto"
    threads: Annotated[
        int | None, Field(ge=1, le=512, description="Processor cores to use; else as many as there are.")
    ] = None

    # Files that are not where they are looked for.
    tokenizer: Annotated[
        ConfigPath | None, Field(description="The file ice_text.model; else the one in the folder.")
    ] = None
    config: Annotated[
        ConfigPath | None,
        Field(description="A JSON file with special_ids for a checkpoint in GLM-130B's form that has other ones."),
    ] = None

    # P-Tuning v2.
    prefix: Annotated[
        ConfigPath | None, Field(description="A P-Tuning v2 prefix for all conversations, a folder or a file.")
    ] = None
    adapters: Annotated[
        dict[str, Adapter],
        Field(default_factory=dict, description="P-Tuning v2 prefixes by names that a channel's `adapter` may be."),
    ]

    # What it remembers.
    keep_states: Annotated[
        ConfigPath | Literal[False] | None,
        Field(description=f"Folder for states, for after a restart; {STATES} beside bots.yaml, false for none."),
    ] = None
    keep_states_gib: Annotated[float, Field(gt=0, description="The most that folder may hold.")] = 8.0

    @model_validator(mode="before")
    @classmethod
    def _keep_states_beside_the_file(cls, data: Any, info: ValidationInfo) -> Any:
        # A value of its own rather than a default, since only such a one is told to the worker.
        if isinstance(data, Mapping) and (info.context or {}).get("base") is not None:
            return {"keep_states": STATES, **data}
        return data
