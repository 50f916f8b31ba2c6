"""The core's own keys of bots.yaml where they stand beside a plugin's; for the reader and the JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from chatbridge.config.bounds import HANG_TIMEOUT, KEPT_STATES
from chatbridge.config.options import ConfigPath
from chatbridge.config.settings import (
    Access,
    Admins,
    ChannelSettings,
    Keep,
    Quota,
    Strangers,
    TemplateOptions,
)
from chatbridge.prompts.template import Template
from chatbridge.sampling import Sampling


def _address(address: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]*):(\d{1,5})", address)
    if address and (match is None or int(match[2]) > 65_535):
        raise ValueError("this is no address and port, such as 127.0.0.1:9464")
    return address


_BYTES = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT])i?B?\s*$", re.IGNORECASE)


def _bytes(value: object) -> object:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    match = _BYTES.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("this is no size, such as 8 GiB or 500 MiB")
    return int(float(match[1]) * 1024 ** ("KMGT".index(match[2].upper()) + 1))


class ModelKeys(BaseModel):
    """An entry of `models`, besides the backend's options."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    backend: Annotated[str, Field(description="What runs the model.")]
    catalogue: Annotated[
        str | None,
        Field(description="A name of `chatbridge model list`, in place of `backend` and `path`, once it was fetched."),
    ] = None
    template: Annotated[str | None, Field(description="The template for this model, unless a channel sets one.")] = None
    template_options: TemplateOptions = {}
    sampling: Annotated[Sampling, Field(description="How its answers are sampled, below a channel's.")] = Sampling()
    max_batch: Annotated[
        int | None, Field(ge=1, le=4096, description="Answers at a time; as many as the backend can unless set.")
    ] = None
    hang_timeout: Annotated[
        float,
        Field(
            ge=0.1,
            le=86_400,
            description="Seconds without a sign of life after which the model's process is ended and started again; a "
            "step gets four times as many, and more for each token that it reads, and loading twenty times.",
        ),
    ] = HANG_TIMEOUT
    memory_limit: Annotated[
        Annotated[int, Field(ge=1 << 26)] | None,
        BeforeValidator(_bytes),
        Field(
            description='Memory that the model\'s process may have besides the file itself, as "8 GiB"; none unless '
            "set. Kept on Linux.",
        ),
        WithJsonSchema({"anyOf": [{"type": "string", "pattern": _BYTES.pattern}, {"type": "integer"}]}),
    ] = None
    kept_states: Annotated[
        int,
        BeforeValidator(_bytes),
        Field(
            ge=0,
            description='Memory for what the model has read of conversations that are not being answered, as "2 GiB", '
            "besides the cells that llama.cpp has for its sequences in any case; what has no room is read again.",
        ),
        WithJsonSchema({"anyOf": [{"type": "string", "pattern": _BYTES.pattern}, {"type": "integer"}]}),
    ] = KEPT_STATES
    idle_minutes: Annotated[
        int,
        Field(
            ge=0,
            le=10_080,
            description="Minutes without a question after which the model's process ends and its memory is free; what "
            "it has read of conversations stays on disk, and the next question loads it again. 0: never.",
        ),
    ] = 0


class BotKeys(BaseModel):
    """An entry of `bots`, besides the frontend's options."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    frontend: Annotated[str, Field(description="The chat service.")]
    defaults: Annotated[ChannelSettings, Field(description="For all channels of this bot.")] = ChannelSettings()
    channels: Annotated[dict[str, ChannelSettings], Field(description="By the service's channel id.")] = {}
    allow: Annotated[Access, Field(description="Listen to these only.")] = Access()
    deny: Annotated[Access, Field(description="Never listen to these.")] = Access()
    admins: Annotated[Admins, Field(description="Who may give admin commands.")] = Admins()
    admin_commands: Annotated[
        frozenset[str] | None,
        Field(
            description="Commands that only admins may give, besides those that are theirs anyway, and buttons that do "
            "the same. Unless set: model, template, system and set in groups, if `admins` names anybody."
        ),
    ] = None
    pairing: Annotated[
        bool, Field(description="true: listen to nobody but whom `allow` names and whom an admin lets in by /pair.")
    ] = False
    limits: Annotated[Quota, Field(description="What one person may ask.")] = Quota()
    anonymous: Annotated[
        Literal["auto", "answer", "refuse"],
        Field(
            description="Whoever writes in the name of a chat, a channel or a webhook; auto: refused where `deny` "
            "names people. Those whose id `allow` names are answered."
        ),
    ] = "auto"
    strangers: Annotated[Strangers, Field(description="What `pairing` gives to whom it does not know.")] = Strangers()


class TopKeys(BaseModel):
    """The top of the file."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    models: Annotated[dict[str, Any], Field(description="Models by the names that you give them.")] = {}
    templates: Annotated[dict[str, Template], Field(description="Prompt templates of your own.")] = {}
    defaults: Annotated[ChannelSettings, Field(description="For all channels of all bots.")] = ChannelSettings()
    bots: Annotated[dict[str, Any], Field(description="Bots by the names that you give them.")] = {}
    store: Annotated[
        ConfigPath | None, Field(description="Where conversations are kept; chatbridge.sqlite3 beside this file.")
    ] = None
    keep: Annotated[Keep, Field(description="How long what is in the store is kept.")] = Keep()
    drain: Annotated[
        float, Field(ge=0, le=3600, description="Seconds that answers under way get to end at a shutdown.")
    ] = 10.0
    monitor: Annotated[
        str, AfterValidator(_address), Field(description="HOST:PORT of /healthz and /metrics; none unless set.")
    ] = ""
    template_seconds: Annotated[
        float,
        Field(gt=0, le=60, description="How long a model's own chat template (Jinja) may take for a prompt."),
    ] = 2.0
    template_mib: Annotated[
        int,
        Field(ge=128, le=65_536, description="Memory that it may have, in MiB, where the system has such a limit."),
    ] = 512
    load_mib: Annotated[int, Field(ge=1, le=2048, description="MiB that a file for /load may have.")] = 32


def home(key: str, known: Collection[str]) -> str:
    """Where a key belongs that is not among the `known` ones of its place: "under `defaults`", say; or nothing."""
    if {key, f"{key}s", key.removesuffix("s")} & set(known):  # `model` for `models` is another mistake
        return ""
    if key in Sampling.model_fields and not {"sampling", "defaults"}.isdisjoint(known):
        return "under `sampling`" if "sampling" in known else "under `sampling` in `defaults`"
    if key in ChannelSettings.model_fields:
        return "under `defaults`" if "defaults" in known else "under `defaults`, of the file or of a bot"
    if key in BotKeys.model_fields or key == "token":  # as frontends call what a service knows a bot by
        return "to a bot, under `bots`"
    if key in ModelKeys.model_fields or key == "path":  # as backends call the file
        return "to a model, under `models`"
    return "at the top of the file" if key in TopKeys.model_fields else ""
