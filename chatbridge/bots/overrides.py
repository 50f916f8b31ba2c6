"""What `/set KEY VALUE` changes: settings of one conversation, in the words of bots.yaml. Knows no command's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chatbridge.config.scalars import plain_value
from chatbridge.config.settings import ChannelSettings
from chatbridge.sampling import Sampling

if TYPE_CHECKING:
    from chatbridge.bots.command import CommandContext

OWN = ("adapter", "speaker_names", "language", "thinking", "history")
"""Keys of a channel that a conversation may set; model, template and system have commands of their own."""

KEYS = (*Sampling.model_fields, *OWN)


def override(context: CommandContext, overrides: Mapping[str, Any], key: str, value: str) -> dict[str, Any]:
    """`overrides` with `key` set to what `value` says, as text; the value `default` takes it out again.

    Raises: CommandError for an unknown key, or a value that it can't have.
    """
    if key not in KEYS:
        raise context.error("set_unknown", key=key, hint=context.hint(key, KEYS), known=", ".join(KEYS))
    inside = dict(overrides.get("sampling", {})) if key not in OWN else dict(overrides)
    if value == "default":
        inside.pop(key, None)
    else:
        inside[key] = _parsed(key, value)
    changed = inside if key in OWN else {**overrides, "sampling": inside}
    try:
        settings = ChannelSettings.model_validate(changed)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Input should ")
        raise context.error("set_bad", key=key, value=value, why=why) from error
    # As JSON, since that is how conversations keep it.
    dumped: dict[str, Any] = settings.model_dump(mode="json", exclude_unset=True)
    return dumped


def describe(settings: ChannelSettings) -> str:
    """All that can be set and what it is, in one line."""
    values = {key: getattr(settings.sampling, key) for key in Sampling.model_fields}
    values |= {key: getattr(settings, key) for key in OWN}
    return ", ".join(f"{key} {_shown(value)}" for key, value in values.items())


def _parsed(key: str, value: str) -> Any:
    if key == "stop":
        return [value.encode().decode("unicode_escape") if value.isascii() else value]
    if key == "logit_bias":
        pairs = (pair.split(":", 1) for pair in value.replace(",", " ").split())
        return {pair[0].strip(): pair[-1].strip() for pair in pairs}
    parsed = plain_value(value)[0]
    # pydantic would take `true` for the number 1.
    return value if isinstance(parsed, bool) and key in Sampling.model_fields else parsed


def _shown(value: object) -> str:
    if value is None or value == () or value == {}:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
