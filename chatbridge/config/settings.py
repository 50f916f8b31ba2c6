"""What bots.yaml says, as values: models, templates, bots, and how a channel's settings come together.

Knows no YAML and no file; `reader` makes these values, and everything else uses them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema

from chatbridge.config.bounds import HANG_TIMEOUT, KEPT_STATES
from chatbridge.config.pattern import Pattern
from chatbridge.prompts.jinja_renderer import JinjaLimits
from chatbridge.prompts.telling import GIVEN
from chatbridge.prompts.template import Template
from chatbridge.sampling import Sampling
from chatbridge.types import Author, Channel


def _id(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_ID_SCHEMA = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]}
Id = Annotated[str, Field(min_length=1), BeforeValidator(_id), WithJsonSchema(_ID_SCHEMA)]
"""A chat service's id; bots.yaml may write it as a number."""


MAX_NAME = 200
"""Characters that the name of a model, a template or an adapter may have."""

MAX_SYSTEM = 100_000
"""Characters that a system text may have: more than any model that runs here reads."""


def _options(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if given := sorted(options.keys() & set(GIVEN)):
        raise ValueError(f"{given[0]!r} is given to the template by chatbridge itself; take it out")
    return options


TemplateOptions = Annotated[
    dict[str, JsonValue],
    AfterValidator(_options),
    Field(description="Values of the chat template's own variables, by name, as `enable_thinking: false`."),
]


def _pattern(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            found = Pattern(pattern)
        except ValueError as error:
            raise ValueError(f"this is no regular expression: {error}") from error
        if (probe := found.too_slow_for()) is not None:
            raise ValueError(
                f"this regular expression takes far too long for messages such as {probe!r}: where a repetition is "
                "repeated, as in (a+)*, write it once"
            )
    return pattern


class ChannelSettings(BaseModel):
    """How a bot behaves in a channel. In bots.yaml: `defaults` of the file or of a bot, and each of `channels`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: Annotated[
        str, Field(max_length=MAX_NAME, description="A name under `models`; the first one there unless set.")
    ] = ""
    template: Annotated[
        str | None,
        Field(max_length=MAX_NAME, description="A preset or a name under `templates`; the model's own unless set."),
    ] = None
    template_options: TemplateOptions = {}
    adapter: Annotated[
        str | None,
        Field(max_length=MAX_NAME, description="A name under the model's `adapters`; the model as it is unless set."),
    ] = None
    system: Annotated[
        str | None,
        Field(max_length=MAX_SYSTEM, description='The system text; the template\'s own unless set, and "" for none.'),
    ] = None
    sampling: Annotated[Sampling, Field(description="How answers are sampled.")] = Sampling()
    reply_to: Annotated[
        Literal["mentions", "always", "never"], Field(description="Which messages of a group are answered.")
    ] = "mentions"
    replies: Annotated[bool, Field(description="Whether a reply to the bot's own message counts as a mention.")] = True
    private: Annotated[bool, Field(description="Whether private chats are answered.")] = True
    prefix: Annotated[str, Field(description="Messages that begin so are answered, without it.")] = ""
    pattern: Annotated[
        str | None,
        AfterValidator(_pattern),
        Field(description="A regular expression; messages in which it is found in 25 ms are answered."),
    ] = None
    chance: Annotated[float, Field(ge=0, le=1, description="The share of a group's other messages to answer.")] = 0.0
    other_bots: Annotated[
        Literal["ignore", "mentions", "answer"],
        Field(description="What about other bots; after five answers to bots in a row, a person has to speak."),
    ] = "ignore"
    scope: Annotated[
        Literal["channel", "thread", "user", "replies"],
        Field(
            description="What is one conversation in a group: a channel with its threads, each thread, each person, "
            "or each chain of replies."
        ),
    ] = "thread"
    follow_up: Annotated[
        Literal["queue", "merge", "interrupt"],
        Field(
            description="Messages that come while an answer does: one by one, together, or in its place; in the place "
            "of another person's answer only where `change_answers` lets them, else one by one."
        ),
    ] = "queue"
    buttons: Annotated[bool, Field(description="Buttons under answers, where the service has them.")] = True
    change_answers: Annotated[
        Literal["asker", "everyone"],
        Field(
            description="Who may stop, repeat, continue, take back or branch from an answer in a group: whoever asked "
            "for it and admins, or everyone. /reset is for all: an answer on its way goes on to its end."
        ),
    ] = "asker"
    speaker_names: Annotated[
        Literal["auto", "always", "never"],
        Field(description='Names before messages, longer ones than 256 characters end in "…"; auto: in groups only.'),
    ] = "auto"
    language: Annotated[
        Literal["auto", "en", "zh"], Field(description="What chatbridge's own lines are written in.")
    ] = "auto"
    thinking: Annotated[
        Literal["hide", "show", "fold"],
        Field(
            description="Whether people see what a model says to itself before it answers; fold: as Telegram's "
            "expandable quotation, hidden behind spoilers on Discord, dim in a terminal."
        ),
    ] = "hide"
    end_at_speakers: Annotated[
        bool, Field(description="An answer in a group ends where it goes on in the name of a speaker.")
    ] = True
    history: Annotated[bool, Field(description="false: each message is answered by itself.")] = True
    max_text: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="KiB that are read of one message with its files, ten at most; of longer files the beginning "
            "is read.",
        ),
    ] = 64
    aliases: Annotated[
        dict[Annotated[str, Field(pattern=r"^[^\s/]\S*$")], Annotated[str, Field(pattern=r"^/[A-Za-z][\w-]*( .*)?$")]],
        Field(description="First words of messages that stand for commands, as `+reset: /reset`."),
    ] = {}

    def merged(self, over: ChannelSettings) -> Self:
        """These settings with what `over` sets explicitly on top.

        Where `over` names another model and no template or adapter, these are that model's own: what was chosen for the
        model before would not fit. So it is with `template_options`, where it names another model or template.
        """
        changes = {name: getattr(over, name) for name in over.model_fields_set}
        if "sampling" in changes:
            changes["sampling"] = self.sampling.merged(over.sampling)
        if changes.get("model", self.model) != self.model:
            changes.setdefault("template", None)
            changes.setdefault("adapter", None)
            changes.setdefault("template_options", {})
        elif changes.get("template", self.template) != self.template:
            changes.setdefault("template_options", {})
        elif "template_options" in changes:
            changes["template_options"] = {**self.template_options, **over.template_options}
        return self.model_copy(update=changes)


class Access(BaseModel):
    """Whom a bot listens to, or not, and where.

    Under `allow`, a message must come from one of the people named by `users` or `roles`, if any are, and from one of
    the places named by `channels` or `guilds`, if any are; under `deny`, any one of them is enough.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    users: Annotated[frozenset[Id], Field(description="Ids of people.")] = frozenset()
    roles: Annotated[frozenset[Id], Field(description="Ids of roles of people.")] = frozenset()
    channels: Annotated[frozenset[Id], Field(description="Ids of channels and chats; threads count as theirs.")] = (
        frozenset()
    )
    guilds: Annotated[frozenset[Id], Field(description="Ids of servers.")] = frozenset()

    def names(self, author: Author) -> bool:
        """Whether that person is among `users` and `roles`."""
        return author.id in self.users or not self.roles.isdisjoint(author.roles)

    def covers(self, channel: Channel) -> bool:
        """Whether that place is among `channels` and `guilds`."""
        return bool({channel.id, channel.parent} & self.channels) or channel.guild in self.guilds


class Admins(BaseModel):
    """Who may give a bot's admin commands."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    users: Annotated[frozenset[Id], Field(description="Ids of people.")] = frozenset()
    roles: Annotated[frozenset[Id], Field(description="Ids of roles of people.")] = frozenset()

    def names(self, author: Author) -> bool:
        """Whether that person is an admin."""
        return author.id in self.users or not self.roles.isdisjoint(author.roles)


class Strangers(BaseModel):
    """What people who were not let in yet may have of a bot with `pairing`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    open_codes: Annotated[
        int, Field(ge=1, le=100_000, description="Codes that wait for an admin; further people have to wait.")
    ] = 100
    code_days: Annotated[
        float, Field(gt=0, le=366, description="Days after which a code that no admin has used is forgotten.")
    ] = 7.0
    notices_per_minute: Annotated[
        int, Field(ge=1, description="Strangers who are told their code in any minute; the others hear nothing.")
    ] = 10
    remind_minutes: Annotated[
        float,
        Field(ge=0, le=10_080, description="Minutes until somebody who goes on writing is told their code again."),
    ] = 60.0


class Quota(BaseModel):
    """What one person may ask of a bot; admins may ask what they like."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    messages_per_minute: Annotated[int | None, Field(ge=1, description="Messages to be answered in any minute.")] = None
    tokens_per_day: Annotated[
        int | None, Field(ge=1, description="Tokens read and written for one person until midnight.")
    ] = None


_UNITS = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0, "y": 365 * 86_400.0}
_DURATION = re.compile(r"^\s*(\d{1,6})\s*([hdwy])\s*$")


def _seconds(value: object) -> object:
    """Seconds of a duration as bots.yaml has it; None for `forever`."""
    if value == "forever":
        return None
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("this is no time to keep something, such as 12h, 30d, 8w, 2y or forever")
    return int(match[1]) * _UNITS[match[2]]


def _at_least(least: float, words: str) -> AfterValidator:
    def check(seconds: float | None) -> float | None:
        if seconds is not None and seconds < least:
            raise ValueError(f"this is less than {words}, and it has to be kept for so long")
        return seconds

    return AfterValidator(check)


_KEEP_SCHEMA = WithJsonSchema({"type": "string", "pattern": r"^\s*[0-9]{1,6}\s*[hdwy]\s*$|^forever$"})


class Keep(BaseModel):
    """How long things are kept, in seconds; None: for ever. In bots.yaml as `30d`, `12h`, `8w`, `2y` or `forever`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    answered: Annotated[
        float | None,
        BeforeValidator(_seconds),
        _at_least(86_400.0, "1d"),
        Field(
            description="Ids of messages that were answered, and of answers that were delivered, without their words; "
            "by them a message that a service delivers again is known. 14d unless set."
        ),
        _KEEP_SCHEMA,
    ] = 14 * 86_400.0
    usage: Annotated[
        float | None,
        BeforeValidator(_seconds),
        _at_least(2 * 86_400.0, "2d"),
        Field(description="What each person's answers have cost on a day, for /usage; for ever unless set."),
        _KEEP_SCHEMA,
    ] = None
    conversations: Annotated[
        float | None,
        BeforeValidator(_seconds),
        _at_least(3600.0, "1h"),
        Field(description="Conversations, since somebody last used them; for ever unless set."),
        _KEEP_SCHEMA,
    ] = None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One entry of `models`. `options` is an instance of the backend's own options.

    `idle_minutes`: after how many without a question it is unloaded; 0 for never. `states_folder`: where what it has
    read of conversations goes then; None where its options forbid that.
    """

    name: str
    backend: str
    options: BaseModel = field(repr=False)
    template: str | None = None
    sampling: Sampling = field(default=Sampling(), repr=False)
    max_batch: int | None = None
    hang_timeout: float = HANG_TIMEOUT
    memory_limit: int | None = None
    kept_states: int = KEPT_STATES
    idle_minutes: int = 0
    states_folder: Path | None = None
    template_options: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)

    @property
    def adapters(self) -> frozenset[str]:
        """Names that a channel's `adapter` may be: those in the options' field `adapters`, if the backend has one."""
        found = getattr(self.options, "adapters", None)
        return frozenset(found) if isinstance(found, Mapping) else frozenset()

    @property
    def when_idle(self) -> str:
        """What becomes of it while nobody asks, in words; "" where it stays loaded."""
        if not self.idle_minutes:
            return ""
        read = "histories are read again then, since its keep_states is false"
        if self.states_folder is not None:
            read = f"what it has read of conversations stays in {self.states_folder}"
        return f"unloaded after {self.idle_minutes} min in which nobody asks; {read}"

    def loads_like(self, other: ModelSettings) -> bool:
        """Whether a model loaded by the other settings is the very one that these ask for.

        How long it stays loaded is not part of what it is.
        """
        return self._loading() == other._loading()

    def _loading(self) -> tuple[object, ...]:
        return (
            *(self.name, self.backend, self.options),
            *(self.max_batch, self.hang_timeout, self.memory_limit, self.kept_states),
        )


@dataclass(frozen=True, slots=True)
class BotSettings:
    """One entry of `bots`. `options` is an instance of the frontend's own options."""

    name: str
    frontend: str
    options: BaseModel = field(repr=False)
    defaults: ChannelSettings = field(default=ChannelSettings(), repr=False)
    channels: Mapping[str, ChannelSettings] = field(default_factory=dict, repr=False)
    allow: Access = field(default=Access(), repr=False)
    deny: Access = field(default=Access(), repr=False)
    admins: Admins = field(default=Admins(), repr=False)
    admin_commands: frozenset[str] | None = None
    pairing: bool = False
    limits: Quota = field(default=Quota(), repr=False)
    anonymous: Literal["auto", "answer", "refuse"] = "auto"
    strangers: Strangers = field(default=Strangers(), repr=False)

    def serves_like(self, other: BotSettings) -> bool:
        """Whether a frontend that runs by the other settings need not be started anew for these."""
        return (self.frontend, self.options) == (other.frontend, other.options)


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole bots.yaml. `templates`: presets, plugins' and own ones. `drain`: seconds for answers at a shutdown.
    `monitor`: where /healthz and /metrics are, as HOST:PORT. `template_limits`: of the models' own chat templates.
    `load_mib`: what a file for /load may have. `variables`: names of those whose values were taken. `keep`: how long
    the store keeps things.

    Whatever may hold a secret that a variable gave, or plain text, is left out of its repr.
    """

    models: Mapping[str, ModelSettings]
    templates: Mapping[str, Template] = field(repr=False)
    store: Path = field(repr=False)
    defaults: ChannelSettings = field(default=ChannelSettings(), repr=False)
    bots: Mapping[str, BotSettings] = field(default_factory=dict)
    drain: float = 10.0
    monitor: str = ""
    template_limits: JinjaLimits = field(default=JinjaLimits())
    load_mib: int = 32
    variables: frozenset[str] = frozenset()
    keep: Keep = field(default=Keep())

    def with_model(self, model: ModelSettings) -> Settings:
        """These settings and one model more; another of its name gives way."""
        return replace(self, models={**self.models, model.name: model})

    def channel(self, bot: str, channel: Channel, *, overrides: Mapping[str, Any] | None = None) -> ChannelSettings:
        """What applies in a channel of a bot: channel over bot over file over model.

        `overrides`: what a conversation has set for itself, above all of them; keys and values as in bots.yaml.
        Raises: pydantic.ValidationError for overrides that no version of chatbridge wrote.
        """
        own = self.bots.get(bot)
        levels = [self.defaults]
        if own is not None:
            levels.append(own.defaults)
            levels += [own.channels[id] for id in (channel.parent, channel.id) if id in own.channels and id]
        if overrides:
            levels.append(ChannelSettings.model_validate(overrides))
        result = ChannelSettings(model=next(iter(self.models), ""))
        for level in levels:
            result = result.merged(level)
        if (model := self.models.get(result.model)) is None:
            return result
        own_options = model.template_options if result.template in (None, model.template) else {}
        return result.model_copy(
            update={
                "template": result.template or model.template,
                "template_options": {**own_options, **result.template_options},
                "sampling": model.sampling.merged(result.sampling),
            }
        )
