"""What a person's client sends when they click or invoke: the JSON of INTERACTION_CREATE. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

from chatbridge.testing.discord.events import told_message
from chatbridge.testing.discord.interactions import Interaction
from chatbridge.testing.discord.payloads import channel_json, member_json, role_json, user_json
from chatbridge.testing.discord.permissions import permissions
from chatbridge.testing.discord.state import Channel, Json, Message, Role, User, World, walk


def interaction_json(world: World, interaction: Interaction) -> Json:
    """What its bot is told of an interaction."""
    channel, user, bot = interaction.channel, interaction.user, interaction.bot
    guild = channel.guild
    json: Json = {
        "id": str(interaction.id),
        "application_id": str(bot.application_id),
        "type": interaction.type,
        "token": interaction.token,
        "version": 1,
        "channel_id": str(channel.id),
        "channel": channel_json(channel, bot.user) | {"permissions": str(permissions(user, channel))},
        "app_permissions": str(permissions(bot.user, channel)),
        "locale": user.locale,
        "entitlements": [],
        "authorizing_integration_owners": {"0": str(guild.id if guild else 0)},
        "context": 0 if guild else 1,
        "attachment_size_limit": 10 * 2**20,
        "data": interaction.data,
    }
    if interaction.message is not None:
        json["message"] = told_message(world, interaction.message, bot, True)
    if guild is None:
        return json | {"user": user_json(user)}
    member = member_json(guild.members[user.id]) | {"permissions": str(permissions(user, channel))}
    short = {"id": str(guild.id), "locale": guild.locale, "features": []}
    return json | {"guild_id": str(guild.id), "guild": short, "guild_locale": guild.locale, "member": member}


def clickable(message: Message, name: str, kinds: set[int]) -> Json:
    """The component of a message with this label, placeholder or custom id; LookupError where none can be used."""
    components = [found for found in walk(message.components) if found.get("type") in kinds]
    for component in components:
        names = (component.get("label"), component.get("custom_id"), component.get("placeholder"))
        if name in names and not component.get("disabled") and component.get("custom_id"):
            return component
    there = [component.get("label") or component.get("custom_id") for component in components]
    raise LookupError(f"nothing called {name!r} can be used on this message; it has: {there}")


def resolved(options: Mapping[str, object]) -> tuple[dict[str, object], Json]:
    """Options with ids in place of users, channels and roles; and those, as Discord adds them."""
    plain: dict[str, object] = {}
    more: Json = {}
    for name, value in options.items():
        plain[name] = str(value.id) if isinstance(value, (User, Channel, Role)) else value
        if isinstance(value, User):
            more.setdefault("users", {})[str(value.id)] = user_json(value)
        elif isinstance(value, Channel):
            more.setdefault("channels", {})[str(value.id)] = channel_json(value)
        elif isinstance(value, Role):
            more.setdefault("roles", {})[str(value.id)] = role_json(value)
    return plain, more


def filled_modal(modal: Json, values: Mapping[str, str]) -> Json:
    """What a client sends of a form; LookupError for a value without a field."""
    fields = [found for found in walk(modal["components"]) if found.get("type") == 4]
    if unknown := set(values) - {field["custom_id"] for field in fields}:
        raise LookupError(f"the form has no field {', '.join(sorted(unknown))}")

    def filled(component: Json) -> Json:
        json: Json = {name: component[name] for name in ("type", "id", "custom_id") if name in component}
        if component.get("type") == 4:
            return json | {"value": values.get(component["custom_id"], component.get("value") or "")}
        if "component" in component:
            json["component"] = filled(component["component"])
        if "components" in component:
            json["components"] = [filled(inner) for inner in component["components"]]
        return json

    return {"custom_id": modal["custom_id"], "components": [filled(component) for component in modal["components"]]}
