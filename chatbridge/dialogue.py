"""One conversation in one channel: what was said, and what becomes of a model's answer.

Knows the store and the model's door; leaves the prompt to `compose`, and knows no chat service and no command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chatbridge.compose import Composed, compose
from chatbridge.errors import ChatbridgeError, CommandError
from chatbridge.texts import say
from chatbridge.types import Channel, Chunk, Finish, Message, Reply

if TYPE_CHECKING:
    from chatbridge.bridge import Bot
    from chatbridge.config import ChannelSettings
    from chatbridge.engine.contract import Backend
    from chatbridge.store import Conversation, Node, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a chat command says at once, without the model."""

    text: str


@dataclass(frozen=True, slots=True)
class FinishedTurn:
    """An answer that ended, as observers see it: `finish` is set, or, where the answer failed, `error`."""

    bot: str
    channel: Channel
    model: str
    finish: Finish | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """What the model is to do: answer the message `asked`, or go on with the `unfinished` answer to it."""

    asked: Node
    unfinished: Node | None = None


Begin = Callable[[], Awaitable[Task | None]]
"""Moves the conversation to where an answer is wanted; None where there is nothing to answer (again)."""


class LiveTurn:
    """One answer on its way: iterate over it, once, for its chunks. It begins when the conversation is free.

    `notices` are lines for the person, complete with the first chunk. `stop()` ends the answer early and keeps
    what came. The model's errors are raised from the iteration; the person's message is kept then, too.
    """

    def __init__(self, dialogue: Dialogue, language: str, begin: Begin) -> None:
        self.language = language
        self.notices: list[str] = []
        self.finish: Finish | None = None
        self._dialogue = dialogue
        self._begin = begin
        self._stopped = False
        self._running: tuple[Backend, str] | None = None

    def stop(self) -> None:
        """End the answer early; may be called at any time, also before it has begun."""
        self._stopped = True
        if self._running is not None:
            backend, request_id = self._running
            backend.cancel(request_id)

    async def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        dialogue = self._dialogue
        async with dialogue.lock:
            if self._stopped:
                return
            dialogue.live = self
            try:
                task = await self._begin()
                if task is None:
                    self.notices.append(say(self.language, "not_changed"))
                    return
                async with aclosing(dialogue.answer(self, task)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            finally:
                dialogue.live = None

    def watch(self, backend: Backend, request_id: str) -> bool:
        """Remember what `stop` has to cancel; False where it was called already, and nothing is to be begun."""
        self._running = (backend, request_id)
        return not self._stopped


@dataclass(slots=True, eq=False)
class Dialogue:
    """The conversation of one bot in one channel; `bot.dialogue(channel)` gives it.

    `aside`: the name of one that is held beside the channel's own, under the same settings.
    """

    bot: Bot
    channel: Channel
    aside: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    live: LiveTurn | None = None
    last: FinishedTurn | None = None

    # --- turns -------------------------------------------------------------------------------------------------

    def send(self, message: Message, language: str = "en", *, anew: Mapping[str, Any] | None = None) -> LiveTurn:
        """Record the message and answer it. A message that was answered before is not answered again.

        `anew`: begin a new conversation by it, with these settings of its own, by the keys of a channel.
        """

        async def begin() -> Task | None:
            if anew is not None:
                await self.reset()
            conversation = await self.conversation()
            if anew is not None:
                await self.store.set_overrides(conversation.id, anew)
            node = await self.store.append(
                conversation.id,
                "user",
                with_attachments(message),
                parent=conversation.head,
                name=message.author.name,
                service_id=message.id,
            )
            return None if await self.store.children(conversation.id, node.id) else Task(node)

        return LiveTurn(self, language, begin)

    def regenerate(self, language: str = "en") -> LiveTurn:
        """Answer the last message once more; the answer there was stays on its own branch."""

        async def begin() -> Task:
            asked = await self._last("user", "nothing_to_regenerate", language)
            await self.store.set_head(asked.conversation, asked.id)
            return Task(asked)

        return LiveTurn(self, language, begin)

    def edit(self, text: str, language: str = "en") -> LiveTurn:
        """Put `text` in the place of the last message and answer it; the old message stays on its own branch."""

        async def begin() -> Task:
            old = await self._last("user", "nothing_to_edit", language)
            return Task(await self.store.append(old.conversation, "user", text, parent=old.parent, name=old.name))

        return LiveTurn(self, language, begin)

    def go_on(self, language: str = "en") -> LiveTurn:
        """Continue the last answer right where it ended."""

        async def begin() -> Task:
            path = await self.path()
            if len(path) < 2 or path[-1].role != "assistant":
                raise CommandError(say(language, "nothing_to_continue"))
            return Task(path[-2], unfinished=path[-1])

        return LiveTurn(self, language, begin)

    def stop(self) -> bool:
        """End the answer that is on its way, and those aside; whether there was one."""
        asides = [] if self.aside else self.bot.asides(self.channel)
        running = [dialogue.live for dialogue in (self, *asides) if dialogue.live is not None]
        for turn in running:
            turn.stop()
        return bool(running)

    # --- the tree ----------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        return self.bot.bridge.store

    @property
    def place(self) -> str:
        """What the store calls it."""
        return f"{self.channel.id}/aside/{self.aside}" if self.aside else self.channel.id

    async def conversation(self) -> Conversation:
        """The current conversation of this channel."""
        return await self.store.conversation(self.bot.name, self.place)

    async def path(self) -> list[Node]:
        """What was said on the current branch, oldest first."""
        conversation = await self.conversation()
        return await self.store.path(conversation.id)

    async def undo(self, language: str = "en") -> Node:
        """Go back to before the last message, which is returned; nothing is deleted."""
        node = await self._last("user", "nothing_to_undo", language)
        await self.store.set_head(node.conversation, node.parent)
        return node

    async def reset(self) -> None:
        """Begin a new conversation; the old one is kept."""
        await self.store.start(self.bot.name, self.place)

    async def override(self, key: str, value: Any) -> None:
        """Set one of the channel's settings for this conversation alone."""
        conversation = await self.conversation()
        await self.store.set_overrides(conversation.id, {**conversation.overrides, key: value})

    async def settings(self) -> ChannelSettings:
        """What applies to the next turn: the channel's settings with this conversation's own on top."""
        return self.bot.effective(self.channel, (await self.conversation()).overrides)

    async def _last(self, role: str, missing: str, language: str) -> Node:
        for node in reversed(await self.path()):
            if node.role == role:
                return node
        raise CommandError(say(language, missing))

    # --- the model ---------------------------------------------------------------------------------------------

    async def answer(self, turn: LiveTurn, task: Task) -> AsyncGenerator[Chunk, None]:
        """Ask the model and keep its answer, however it ends."""
        model = ""
        try:
            settings = await self.settings()
            model = settings.model
            async with self.bot.bridge.models.use(self.bot.model(settings)) as backend:
                composed = await compose(self, task, settings, backend)
                turn.notices += composed.notices(turn.language)
                if not turn.watch(backend, composed.request.id):
                    return
                came = ""
                async with aclosing(backend.generate(composed.request)) as chunks:
                    try:
                        async for chunk in chunks:
                            came += "" if chunk.thinking else chunk.text
                            if chunk.finish is not None:
                                turn.finish = chunk.finish
                                await self._keep(task, composed, chunk.finish.reply, chunk.finish.reason in _PARTIAL)
                            yield chunk
                    finally:
                        if turn.finish is None and came:
                            # Whoever was listening is gone, or the model failed: what people saw is kept.
                            before = task.unfinished.text if task.unfinished and not composed.before else ""
                            await self._keep(task, composed, Reply((before + came).strip()), partial=True)
        except ChatbridgeError as error:
            self._report(FinishedTurn(self.bot.name, self.channel, model, None, str(error)))
            raise
        if turn.finish is not None:
            self._report(FinishedTurn(self.bot.name, self.channel, model, turn.finish))

    async def _keep(self, task: Task, composed: Composed, reply: Reply, partial: bool) -> None:
        if composed.before:  # its ids are another model's: from now on the answer is text
            reply = Reply(f"{composed.before} {reply.text}")
        if task.unfinished is not None:
            await self.store.update_reply(task.unfinished.id, reply.text, reply, partial)
            return
        await self.store.append(
            task.asked.conversation,
            "assistant",
            reply.text,
            parent=task.asked.id,
            reply=reply,
            partial=partial,
        )

    def _report(self, finished: FinishedTurn) -> None:
        self.last = finished
        self.bot.bridge.plugins.ask("turn_finished", turn=finished)


def with_attachments(message: Message) -> str:
    """The message's text, with attached text files behind it; of other files the model learns the name alone."""
    parts = [message.text]
    for file in message.attachments:
        try:
            content = file.data.decode() if _is_text(file.media_type) else ""
        except UnicodeDecodeError:
            content = ""
        parts.append(f"[{file.name}]\n{content}" if content else f"[{file.name}, {file.media_type}]")
    return "\n\n".join(part for part in parts if part)


def _is_text(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("json", "xml", "yaml", "javascript", "toml"))


_PARTIAL = ("cancelled", "length")
