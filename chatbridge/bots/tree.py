"""Moves in the conversations that are kept under one key: trees of messages, of which one branch is current.

Knows the store; knows no model, no settings of bots.yaml and no chat service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.bots.attachments import with_attachments
from chatbridge.bots.permissions import asker_of
from chatbridge.errors import CommandError
from chatbridge.store import Conversation, Node, Store
from chatbridge.texts import say
from chatbridge.types import Message


@dataclass(slots=True, eq=False)
class ConversationTree:
    """The conversations of the bot called `bot_name` under `key`; one of them is current."""

    store: Store
    bot_name: str
    key: str

    async def conversation(self) -> Conversation:
        """The current conversation."""
        return await self.store.conversation(self.bot_name, self.key)

    async def path(self, limit: int = 1 << 62) -> list[Node]:
        """What was said on the current branch, oldest first; `limit`: only so many messages, the last ones."""
        conversation = await self.conversation()
        return await self.store.path(conversation.id, limit=limit)

    async def go_to(self, node_id: int) -> None:
        """Go on behind that message from now on, also where it is in an earlier conversation."""
        node = await self.store.node(node_id)
        await self.store.make_current(node.conversation)
        await self.store.set_head(node.conversation, node.id)

    async def reset(self, overrides: Mapping[str, Any] | None = None) -> Conversation:
        """Begin a new conversation, with these settings of its own; the old one is kept."""
        conversation = await self.store.start(self.bot_name, self.key)
        if overrides is not None:
            await self.store.set_overrides(conversation.id, overrides)
        return conversation

    async def adopted(self, node_id: int, author: str) -> int:
        """A node of the conversations here; what was said up to one of other conversations is copied for that first.

        `author`: the id of the person whose copy it is.
        """
        node = await self.store.node(node_id)
        if (await self.store.get(node.conversation)).channel == self.key:
            return node_id
        return (await self.store.copy(node_id, self.key, author)).id

    async def asker_of(self, node: Node) -> str:
        """The id of who wrote the message at a node, or asked for the answer there; "" where nobody knows."""
        if node.role == "assistant" and node.parent is not None:
            return (await self.store.node(node.parent)).author
        return node.author

    async def undo(self, language: str = "en", check: Callable[[Node], Awaitable[None]] | None = None) -> Node:
        """Go back to before the last message, which is returned; nothing is deleted.

        `check`: is given that message before, and raises where it is to stay.
        """
        node = await self.last_message("nothing_to_undo", language)
        if check is not None:
            await check(node)
        await self.store.set_head(node.conversation, node.parent)
        return node

    async def revise(self, old: int, message: Message) -> Node | None:
        """Record an edited message beside what it was, and leave the conversation where it is.

        None where nothing was changed that a model would read, and for words that somebody else has put there.
        """
        node = await self.store.node(old)
        text = with_attachments(message)
        if node.role != "user" or node.text == text or node.author not in ("", asker_of(message.author)):
            return None
        beside = await self.store.children(node.conversation, node.parent)
        return await self.store.append(
            node.conversation,
            "user",
            text,
            parent=node.parent,
            name=node.name,
            service_id=f"{message.id}~{len(beside)}-{node.id}",
            author=node.author,
            move=False,
        )

    async def override(self, key: str, value: Any) -> None:
        """Set one of the channel's settings for the current conversation alone; by None, have the channel's again."""
        conversation = await self.conversation()
        changed = {**conversation.overrides, key: value}
        await self.store.set_overrides(conversation.id, {name: one for name, one in changed.items() if one is not None})

    async def last_message(self, missing: str, language: str) -> Node:
        """The last message of a person. Raises CommandError with the text called `missing` where there is none."""
        for limit in (8, 1 << 62):  # the whole of a long conversation is read seldom
            for node in reversed(await self.path(limit)):
                if node.role == "user":
                    return node
        raise CommandError(say(language, missing))

    async def answered_by(self, node_id: int) -> Node | None:
        """The message at a node, or the one that the answer there answers; its conversation is the current one now."""
        node = await self.store.node(node_id)
        await self.store.make_current(node.conversation)
        if node.role == "user":
            return node
        return await self.store.node(node.parent) if node.parent is not None else None
