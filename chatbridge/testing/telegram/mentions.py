"""Whom a message notifies: those that its text names, by @name or by a link to a person. Knows no HTTP.

To Telegram a link such as `tg://user?id=7` is no link, but a mention, which notifies that person: in HTML and Markdown
(Bot API, `Formatting options`) and as a `text_link` entity alike (TDLib, `LinkManager::get_link_user_id`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from chatbridge.testing.telegram.payloads import user_json
from chatbridge.testing.telegram.state import Chat, Json, User, World, bad_request

_USER_LINK = re.compile(r"tg:(?://)?user/?\?([^#]*)", re.IGNORECASE)


def linked_user(url: str) -> int | None:
    """The id of the person that an address stands for; None for an ordinary address."""
    match = _USER_LINK.match(url)
    for parameter in match[1].split("&") if match else ():
        key, _, value = parameter.partition("=")
        if key.lower() == "id":
            return int(value) if re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII) else None
    return None


def resolved(world: World, entities: Iterable[Json]) -> list[Json]:
    """Entities as they are kept: links to people are mentions, and nothing at all where the bot can't know them."""
    kept: list[Json] = []
    for entity in entities:
        number: int | None = None
        if entity["type"] == "text_link":
            number = linked_user(entity["url"])
        elif entity["type"] == "text_mention":
            number = int((entity.get("user") or {}).get("id") or 0)
            if number not in world.users:
                raise bad_request("user not found")
        if number is None:
            kept.append(entity)
        elif (user := world.users.get(number)) is not None:
            place = {"offset": entity["offset"], "length": entity["length"]}
            kept.append({"type": "text_mention", **place, "user": user_json(user)})
    return kept


def notified(world: World, chat: Chat, text: str, entities: Iterable[Json]) -> list[User]:
    """Who is called by these entities, of those who are in the chat."""
    names = {(user.username or "").lower(): user for user in world.users.values()}
    data = text.encode("utf-16-le")
    found: list[User] = []
    for entity in entities:
        user: User | None = None
        if entity["type"] == "text_mention":
            user = world.users.get(entity["user"]["id"])
        elif entity["type"] == "mention":
            start, end = entity["offset"] * 2, (entity["offset"] + entity["length"]) * 2
            user = names.get(data[start + 2 : end].decode("utf-16-le").lower())
        if user is not None and user not in found and (user is chat.person or user.id in chat.members):
            found.append(user)
    return found
