"""What bots are told, and that each update is kept until it is confirmed. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chatbridge.testing.telegram.payloads import chat_json, message_json, user_json
from chatbridge.testing.telegram.state import PRIVATE, SERVICE, Bot, Chat, Json, Message, Refusal, User, World

ON_REQUEST = frozenset({"chat_member", "message_reaction", "message_reaction_count", "stopped_message_generation"})
"""Kinds of updates that only come to bots that ask for them by name."""


def tell(world: World, bot: Bot, kind: str, payload: Json) -> None:
    """Queue an update for a bot, if it wants this kind."""
    wanted = kind not in ON_REQUEST if bot.allowed is None else kind in bot.allowed
    if wanted:
        bot.updates.append({"update_id": bot.next_update, kind: payload})
        bot.next_update += 1
        for listener in world.listeners:
            listener(bot)


def tell_message(world: World, message: Message, kind: str = "message") -> None:
    """Tell the bots that may hear a person's message; no bot hears another."""
    if message.sender.is_bot:
        return
    for bot in world.bots.values():
        if hears(bot, message):
            tell(world, bot, kind, message_json(message))


def hears(bot: Bot, message: Message) -> bool:
    """Whether a bot may hear a message: in groups, one with privacy mode hears only what is meant for it."""
    chat = message.chat
    if chat.kind == PRIVATE:
        return chat.bot is bot
    status = chat.members.get(bot.user.id)
    if status is None:
        return False
    if not bot.privacy or status == "administrator" or message.kind == SERVICE:
        return True
    replied = message.reply_to is not None and message.reply_to.sender is bot.user
    return replied or any(_is_for(bot, chat, word) for word in _addressed(message))


def _addressed(message: Message) -> list[str]:
    data = message.text.encode("utf-16-le")
    spans = [
        (one["offset"] * 2, (one["offset"] + one["length"]) * 2)
        for one in message.entities
        if one["type"] in ("bot_command", "mention")
    ]
    return [data[start:end].decode("utf-16-le") for start, end in spans]


def _is_for(bot: Bot, chat: Chat, word: str) -> bool:
    name = (bot.user.username or "").lower()
    if word.startswith("/") and "@" not in word:
        return True
    return word.lower().partition("@")[2] == name


def tell_membership(world: World, chat: Chat, bot: Bot, by: User, old: Json, new: Json) -> None:
    """my_chat_member: a bot was let in, thrown out, or blocked."""
    json = {"chat": chat_json(chat), "from": user_json(by), "date": int(world.clock())}
    tell(world, bot, "my_chat_member", json | {"old_chat_member": old, "new_chat_member": new})


class Polls:
    """The long polls under way, at most one for each bot."""

    def __init__(self, world: World) -> None:
        self._held: dict[Bot, asyncio.Future[bool]] = {}
        world.listeners.append(self._wake)

    def _wake(self, bot: Bot) -> None:
        held = self._held.get(bot)
        if held is not None and not held.done():
            held.set_result(True)

    async def poll(
        self, bot: Bot, offset: int | None, limit: int, seconds: float, allowed: Sequence[str] | None
    ) -> list[Json]:
        """The updates from `offset` on, all before it confirmed; waits for one if there is none."""
        if bot.webhook is not None:
            text = "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"
            raise Refusal(409, f"Conflict: {text}")
        before = self._held.pop(bot, None)
        if before is not None and not before.done():
            before.set_result(False)
        if allowed is not None:
            bot.allowed = frozenset(allowed) or None
        if offset is not None and offset < 0:
            bot.updates[:] = bot.updates[offset:]
        elif offset:
            bot.updates[:] = [update for update in bot.updates if update["update_id"] >= offset]
        if not bot.updates and seconds > 0:
            await self._hold(bot, seconds)
        return bot.updates[: min(max(limit, 1), 100)]

    async def _hold(self, bot: Bot, seconds: float) -> None:
        held = self._held[bot] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                if not await held:
                    text = "terminated by other getUpdates request; make sure that only one bot instance is running"
                    raise Refusal(409, f"Conflict: {text}")
        except TimeoutError:
            pass
        finally:
            if self._held.get(bot) is held:
                del self._held[bot]
