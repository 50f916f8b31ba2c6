"""A conversation's own settings as a row or a file has them, looked over before they apply. Knows no command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from chatbridge.config.settings import ChannelSettings


def sound(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What conversations may have set, and the keys of the rest: rows and files say more than `/set` ever wrote."""
    if not isinstance(overrides, Mapping):  # a row that something else has written
        return {}, ["all"]
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in overrides.items()}
    left_out = []
    while kept:
        try:
            ChannelSettings.model_validate(kept)
        except ValidationError as error:
            key, *inside = error.errors()[0]["loc"]
            values: Any = kept[str(key)]
            if inside and isinstance(values, dict):
                del values[inside[0]]
                left_out.append(f"{key}.{inside[0]}")
            else:
                del kept[str(key)]
                left_out.append(str(key))
        else:
            break
    return kept, left_out
