"""Discord's messages as chatbridge's: who wrote what, where, to whom, and with which files. Makes no answer."""

from __future__ import annotations

import re
from typing import Any

import discord

from chatbridge import Author, Channel, Message, without_name

_KINDS = frozenset({discord.MessageType.default, discord.MessageType.reply})
_MENTION = re.compile(r"<(@!?|@&|#)(\d+)>|<a?(:\w+:)\d+>")


def author_of(person: discord.User | discord.Member | discord.ClientUser) -> Author:
    """A person, or another bot; webhooks count as bots."""
    roles = tuple(str(role.id) for role in person.roles) if isinstance(person, discord.Member) else ()
    return Author(str(person.id), person.display_name, person.bot, roles)


def message_of(given: discord.Message, me: discord.ClientUser, channel: Channel, author: Author) -> Message | None:
    """What somebody said, without files; None for what is no one's words: a pin, a new member, a boost."""
    if given.type not in _KINDS:
        return None
    content, mentioned = given.content, mentions(given, me)
    if not content and given.message_snapshots:
        content = given.message_snapshots[0].content  # a message that was forwarded
    text = without_name(content, rf"<@!?{me.id}>") if mentioned else content
    text = text or " ".join(f":{sticker.name}:" for sticker in given.stickers)
    reply_to, ours, quoted = _replied(given, me)
    return Message(
        str(given.id),
        channel,
        author,
        _named(text, given),
        sent_at=given.created_at.timestamp(),
        mentions_bot=mentioned,
        reply_to=reply_to,
        replies_to_bot=ours,
        quoted=quoted,
    )


def mentions(given: discord.Message, me: discord.ClientUser) -> bool:
    """Whether a message names the bot, or the role that came with it. That a reply notifies it does not count."""
    if re.search(rf"<@!?{me.id}>", given.content):
        return True
    return any(role.tags is not None and role.tags.bot_id == me.id for role in given.role_mentions)


def _replied(given: discord.Message, me: discord.ClientUser) -> tuple[str | None, bool, str]:
    """The message that another answers: its id, whether it is the bot's, and its words where it is not."""
    reference = given.reference
    if given.type is not discord.MessageType.reply or reference is None or reference.message_id is None:
        return None, False, ""
    replied = reference.resolved
    if not isinstance(replied, discord.Message):
        return str(reference.message_id), False, ""
    ours = replied.author.id == me.id
    return str(reference.message_id), ours, "" if ours else _named(replied.content, replied)


def _named(text: str, given: discord.Message) -> str:
    """The text with names in the place of ids, for a model to read."""
    known: dict[str, Any] = {f"@{person.id}": person.display_name for person in given.mentions}
    known |= {f"@&{role.id}": role.name for role in given.role_mentions}
    known |= {f"#{channel.id}": channel.name for channel in given.channel_mentions}

    def name(match: re.Match[str]) -> str:
        if match[3]:
            return match[3]
        kind = match[1].replace("!", "")
        found = known.get(f"{kind}{match[2]}")
        return match[0] if found is None else f"{kind[0]}{found}"

    return _MENTION.sub(name, text)
