"""Secrets that belong to one bot alone, such as the token by which a service knows it. Knows no service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import SecretStr

from chatbridge.config.settings import BotSettings


def shared_secrets(bots: Mapping[str, BotSettings]) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Where a bot has a required secret that another one of its service has, too, and what to say about it."""
    first: dict[tuple[str, str, str], str] = {}
    for name, bot in bots.items():
        for key, field in type(bot.options).model_fields.items():
            value = getattr(bot.options, key)
            if isinstance(value, SecretStr) and field.is_required():
                other = first.setdefault((bot.frontend, key, value.get_secret_value()), name)
                if other != name:
                    yield ("bots", name, key), f"the bot {other!r} has this {key}, too; each bot needs one of its own"
