"""What `/set KEY VALUE` changes: settings of one conversation, in the words of bots.yaml. Knows no command's form."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chatbridge.bots.stored_overrides import sound
from chatbridge.config.scalars import plain_value
from chatbridge.config.settings import ChannelSettings
from chatbridge.sampling import Sampling, forging_biases

if TYPE_CHECKING:
    from chatbridge.bots.command import CommandContext
    from chatbridge.types import ModelInfo

OWN = ("adapter", "speaker_names", "language", "thinking", "history")
"""Keys of a channel that a conversation may set; model, template and system have commands of their own."""

KEYS = (*Sampling.model_fields, *OWN)

_KINDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "need_int"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "need_number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "need_bool"),
    "greater_than_equal": "need_at_least",
    "greater_than": "need_more",
    "less_than_equal": "need_at_most",
    "less_than": "need_less",
    "literal_error": "need_one_of",
    "string_too_long": "need_short",
    "too_long": "need_few",
}
"""pydantic's kinds of errors, and what we say of them."""

_SHOWN = 80
"""Characters of a value that a refusal repeats."""


def override(context: CommandContext, overrides: Mapping[str, Any], key: str, value: str) -> dict[str, Any]:
    """`overrides` with `key` set to what `value` says, as text; the value `default` takes it out again.

    Raises: CommandError for an unknown key, or a value that it can't have.
    """
    if key not in KEYS:
        short = _short(key)
        raise context.error("set_unknown", key=short, hint=context.hint(short, KEYS), known=", ".join(KEYS))
    overrides, _ = sound(overrides)
    inside = dict(overrides.get("sampling", {})) if key not in OWN else dict(overrides)
    if value == "default":
        inside.pop(key, None)
    else:
        inside[key] = _parsed(context, key, value)
    changed = inside if key in OWN else {**overrides, "sampling": inside}
    try:
        settings = ChannelSettings.model_validate(changed)
    except ValidationError as error:
        raise context.error("set_bad", key=key, value=_short(value), why=_why(context, error)) from error
    if key == "adapter":
        _check_adapter(context, changed)
    # As JSON, since that is how conversations keep it.
    dumped: dict[str, Any] = settings.model_dump(mode="json", exclude_unset=True)
    if key == "logit_bias":
        _check_bias(context, dumped)
    return dumped


async def loadable(context: CommandContext, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Of a saved conversation's settings those that the person could give by commands, and the keys of the rest."""
    bot = context.dialogue.bot
    by_command = {"model": bot.services.settings.models, "template": bot.templates, "system": None}
    kept, left_out = sound(overrides)
    for key, value in list(kept.items()):
        known: Container[Any] | None = by_command.get(key)
        command = key if key in by_command else "set"
        settable = key in by_command or key in ("sampling", *OWN)
        if key == "adapter":
            known = _adapters(context, kept)
        if not settable or (known is not None and value not in known) or not await _may(context, command):
            del kept[key]
            left_out.append(key)
    return kept, [_short(key) for key in left_out]


async def _may(context: CommandContext, name: str) -> bool:
    """Whether the person may give that command there."""
    message = context.message
    return (await context.dialogue.bot.permissions.may(message.author, message.channel, name)).allowed


def describe(settings: ChannelSettings) -> str:
    """All that can be set and what it is, in one line."""
    values = {key: getattr(settings.sampling, key) for key in Sampling.model_fields}
    values |= {key: getattr(settings, key) for key in OWN}
    return ", ".join(f"{key} {_shown(value)}" for key, value in values.items())


def _parsed(context: CommandContext, key: str, value: str) -> Any:
    if key == "stop":
        try:
            stop = value.encode().decode("unicode_escape") if value.isascii() else value
            stop.encode()
        except UnicodeError as error:
            raise context.error("set_stop", value=_short(value)) from error
        return [stop]
    if key == "logit_bias":
        pairs = (pair.rsplit(":", 1) for pair in value.replace(",", " ").split())
        return {pair[0].strip(): pair[-1].strip() for pair in pairs}
    parsed = plain_value(value)[0]
    # pydantic would take `true` for the number 1.
    return value if isinstance(parsed, bool) and key in Sampling.model_fields else parsed


def _check_bias(context: CommandContext, overrides: Mapping[str, Any]) -> None:
    """Look at a bias by the conversation's model, where that is loaded; elsewhere its engine does."""
    bot = context.dialogue.bot
    settings = bot.effective(context.dialogue.channel, overrides)
    backend = bot.services.models.loaded().get(settings.model)
    if backend is not None:
        _check_biases(context, settings, backend.info)


def _adapters(context: CommandContext, overrides: Mapping[str, Any]) -> frozenset[str | None]:
    """What the adapter may be where a conversation has set that for itself; None is none."""
    bot = context.dialogue.bot
    model = bot.services.settings.models.get(bot.effective(context.dialogue.channel, overrides).model)
    return frozenset({None, *(model.adapters if model is not None else ())})


def _check_adapter(context: CommandContext, overrides: Mapping[str, Any]) -> None:
    name, known = overrides.get("adapter"), sorted(filter(None, _adapters(context, overrides)))
    if name is not None and name not in known:
        model = context.dialogue.bot.effective(context.dialogue.channel, overrides).model
        hint = context.hint(name, known)
        raise context.error("adapter_unknown", model=model, name=_short(name), hint=hint, known=", ".join(known) or "-")


def _check_biases(context: CommandContext, settings: ChannelSettings, info: ModelInfo) -> None:
    """Raises CommandError for ids that the model does not have, and for control tokens that may not be likelier."""
    bias = settings.sampling.logit_bias
    if beyond := [token for token in bias if token >= info.vocab_size]:
        raise context.error("bias_beyond", token=beyond[0], last=info.vocab_size - 1)
    template = context.dialogue.bot.templates.get(settings.template or "")
    ends = template.stop_tokens if template is not None else ()
    harmless = {*info.eos, *(info.specials[text] for text in ends if text in info.specials)}
    if forging := forging_biases(bias, info.control_ids - harmless):
        raise context.error("bias_control", token=forging[0])


def _why(context: CommandContext, error: ValidationError) -> str:
    """The first thing that is wrong, in the person's language: what the value has to be, with its bound."""
    first = error.errors(include_url=False)[0]
    bounds = {name: f"{value:g}" if isinstance(value, float) else value for name, value in first.get("ctx", {}).items()}
    kind = _KINDS.get(first["type"])
    return context.say(kind, **bounds) if kind else first["msg"].removeprefix("Value error, ")


def _short(value: str) -> str:
    return value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"


def _shown(value: object) -> str:
    if value is None or value == () or value == {}:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
