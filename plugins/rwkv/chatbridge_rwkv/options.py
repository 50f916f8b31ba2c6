"""The keys that a model of the `rwkv` backend accepts in bots.yaml, by the rwkv package's names and ChatRWKV's.

Knows what may be written; whether this file and this machine can honour it is seen when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from chatbridge import ConfigPath, Options
from chatbridge_rwkv import strategy as strategies

STATES = "rwkv-states"
"""The folder beside bots.yaml in which states are kept, unless `keep_states` says otherwise."""


def _strategy(value: str) -> str:
    value = value.rstrip("\n")
    if value.strip() != strategies.AUTO:
        strategies.parse(value)
        return value
    return strategies.AUTO


def _tokenizer(value: object, info: ValidationInfo) -> object:
    """`world`, or a path like any other in bots.yaml."""
    if not isinstance(value, str | Path) or str(value) == "world":
        return value
    base = (info.context or {}).get("base")
    path = Path(value).expanduser()
    return str(path if base is None else Path(base) / path)


def _ids(value: object) -> object:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class Adapter(Options, defer_build=True):
    """One initial state, by which a channel's conversations begin."""

    init_state: Annotated[ConfigPath, Field(description="The .pth file that state tuning has made.")]


class RwkvOptions(Options, defer_build=True):
    """Keys that a model of the `rwkv` backend accepts."""

    path: Annotated[ConfigPath, Field(description="BlinkDL's .pth file, or one that the package has converted.")]
    strategy: Annotated[
        str,
        AfterValidator(_strategy),
        Field(description="Which layers go where, in the package's words, or auto for what fits this machine."),
    ] = strategies.AUTO
    tokenizer: Annotated[
        str | None,
        BeforeValidator(_tokenizer),
        Field(description="world, or a vocabulary's file; else the one that fits the vocabulary's size."),
    ] = None
    context_length: Annotated[
        int | None,
        Field(ge=8, description="Tokens of a conversation before its beginning is left out; else what was trained."),
    ] = None
    threads: Annotated[
        int | None, Field(ge=1, le=512, description="Threads to use; else one for each large core that may be used.")
    ] = None

    # How it is loaded and computed.
    convert: Annotated[
        bool, Field(description="Keep the file as it was converted for this strategy, for faster starts.")
    ] = False
    convert_folder: Annotated[
        ConfigPath | None, Field(description="Where converted files are kept; else the user's cache folder.")
    ] = None
    jit: Annotated[
        bool | None,
        Field(description="Compile the package's functions (RWKV_JIT_ON); else only where it computes by itself."),
    ] = None
    cuda_kernels: Annotated[
        bool, Field(description="Build and use the package's CUDA kernels (RWKV_CUDA_ON); needs nvcc and a compiler.")
    ] = False
    batched: Annotated[
        bool, Field(description="Compute conversations together where the architecture is known; false never does.")
    ] = True

    # What it remembers.
    keep_states: Annotated[
        ConfigPath | Literal[False] | None,
        Field(description=f"Folder for states, for after a restart; {STATES} beside bots.yaml, false for none."),
    ] = None
    keep_states_gib: Annotated[float, Field(gt=0, description="The most that folder may hold.")] = 4.0

    adapters: Annotated[
        dict[str, Adapter],
        Field(default_factory=dict, description="Initial states by names that a channel's `adapter` may be."),
    ]

    # How the next token is chosen, beyond what `sampling:` says.
    alpha_presence: Annotated[
        float | None, Field(ge=-2, le=2, description="ChatRWKV's name for presence_penalty; below `sampling:`.")
    ] = None
    alpha_frequency: Annotated[
        float | None, Field(ge=-2, le=2, description="ChatRWKV's name for frequency_penalty; below `sampling:`.")
    ] = None
    alpha_decay: Annotated[
        Annotated[float, Field(gt=0, le=1)] | Literal[False],
        Field(description="What counts are multiplied by at each token; false counts penalty_window tokens instead."),
    ] = 0.996
    uncounted: Annotated[
        str,
        Field(
            description="Characters whose tokens alpha_frequency leaves alone; ChatRWKV's chat.py counts all of them."
        ),
    ] = " \t0123456789"
    token_ban: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_ids), Field(description="Ids never sampled.")
    ] = ()
    avoid_repeat: Annotated[
        str, Field(description="Characters that are never written twice in a row, as ，：？！ in ChatRWKV.")
    ] = ""
    chat_length: Annotated[
        tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None,
        Field(description="Hold line ends back up to the first number of tokens, hurry them from the second on."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _keep_states_beside_the_file(cls, data: Any, info: ValidationInfo) -> Any:
        # A value of its own rather than a default, since only such a one is told to the worker.
        if isinstance(data, Mapping) and (info.context or {}).get("base") is not None:
            return {"keep_states": STATES, **data}
        return data

    @model_validator(mode="after")
    def _fit_together(self) -> RwkvOptions:
        if self.convert_folder is not None and not self.convert:
            raise ValueError("convert_folder does nothing without convert: true")
        if self.chat_length is not None and self.chat_length[0] > self.chat_length[1]:
            raise ValueError("chat_length is the shorter number first, as [40, 150]")
        return self
