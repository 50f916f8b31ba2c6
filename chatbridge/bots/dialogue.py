"""One conversation in one channel: what was said, and what becomes of a model's answer.

Knows the store and the model's door; leaves the prompt to `compose`, and knows no chat service and no command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from chatbridge.bots.attachments import content_of, with_attachments
from chatbridge.bots.reply import FinishedReply, ReplyStream, Task
from chatbridge.bots.request import Composed, compose
from chatbridge.errors import ChatbridgeError, CommandError
from chatbridge.texts import say
from chatbridge.types import Channel, Chunk, Finish, Message, Reply, Usage

if TYPE_CHECKING:
    from chatbridge.bots.bot import Bot
    from chatbridge.config.settings import ChannelSettings
    from chatbridge.store import Conversation, Node, Store


@dataclass(slots=True, eq=False)
class Dialogue:
    """A conversation of one bot; `bot.dialogue(channel)` gives that of a channel.

    `place`: the key of its conversations in the store, the channel's id unless its scope is another. `channel`: where
    it takes place. `waiting`: answers that begin once the lock is free, in this order.
    """

    bot: Bot
    channel: Channel
    place: str
    waiting: list[ReplyStream] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    live: ReplyStream | None = None
    last: FinishedReply | None = None

    # --- turns -------------------------------------------------------------------------------------------------

    def send(
        self,
        message: Message,
        language: str = "en",
        *,
        behind: int | None = None,
        follow_up: Literal["queue", "merge", "interrupt"] = "queue",
        anew: Mapping[str, Any] | None = None,
    ) -> ReplyStream:
        """Record the message and answer it. A message that was answered before is not answered again.

        `behind`: the node that it replies to, where it does not follow what was said last. `follow_up`: what becomes
        of answers that it finds on their way. `anew`: begin a new conversation by it, with these settings of its own,
        by the keys of a channel.
        """

        async def begin(turn: ReplyStream) -> Task | None:
            if behind is not None:
                await self.go_to(behind)
            if anew is not None:
                await self.reset()
            conversation = await self.conversation()
            if anew is not None:
                await self.store.set_overrides(conversation.id, anew)
            message, turn.message = turn.message, None
            assert message is not None, "a turn begins once"
            if names := ", ".join(file.name for file in message.attachments if content_of(file) is None):
                turn.notices.append(say(language, "unreadable", names=names))
            node = await self.store.append(
                conversation.id,
                "user",
                with_attachments(message),
                parent=conversation.head,
                name=message.author.name,
                service_id=message.id,
                channel=message.channel.id,
            )
            if turn.gives_way and any(later.gives_way for later in self.waiting):
                turn.superseded = True
                return None
            after = await self.store.children(conversation.id, node.id)
            # One that was recorded together with a later one was answered with it.
            turn.superseded = bool(after) and all(child.role == "user" for child in after)
            return None if after else Task(node)

        if follow_up == "interrupt" and self.live is not None:
            self.live.supersede()
        return ReplyStream(self, language, begin, message=message, gives_way=follow_up != "queue")

    def regenerate(self, language: str = "en", at: int | None = None) -> ReplyStream:
        """Answer the last message, or the one `at` a node, once more; what there was stays on its own branch."""

        async def begin(turn: ReplyStream) -> Task:
            asked = await self._asked(at, language) if at is not None else None
            asked = asked or await self._last("user", "nothing_to_regenerate", language)
            await self.store.set_head(asked.conversation, asked.id)
            return Task(asked)

        return ReplyStream(self, language, begin)

    def edit(self, text: str, language: str = "en") -> ReplyStream:
        """Put `text` in the place of the last message and answer it; the old message stays on its own branch."""

        async def begin(turn: ReplyStream) -> Task:
            old = await self._last("user", "nothing_to_edit", language)
            return Task(await self.store.append(old.conversation, "user", text, parent=old.parent, name=old.name))

        return ReplyStream(self, language, begin)

    def go_on(self, language: str = "en", at: int | None = None) -> ReplyStream:
        """Continue the last answer, or the one `at` a node, right where it ended."""

        async def begin(turn: ReplyStream) -> Task:
            if at is not None:
                await self.go_to(at)
            path = await self.path()
            if len(path) < 2 or path[-1].role != "assistant":
                raise CommandError(say(language, "nothing_to_continue"))
            turn.node = path[-1].id
            return Task(path[-2], unfinished=path[-1])

        async def so_far() -> str:
            path = [await self.store.node(at)] if at is not None else await self.path()
            return path[-1].text if path and path[-1].role == "assistant" else ""

        return ReplyStream(self, language, begin, so_far=so_far)

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered here, or waits for it."""
        return not self.lock.locked() and not self.waiting

    def stop(self) -> bool:
        """End the answer that is on its way, and those aside; whether there was one."""
        asides = self.bot.asides(self.channel) if self.place == self.channel.id else []
        running = [dialogue.live for dialogue in (self, *asides) if dialogue.live is not None]
        for turn in running:
            turn.stop()
        return bool(running)

    # --- the tree ----------------------------------------------------------------------------------------------

    async def go_to(self, node_id: int) -> None:
        """Go on behind that message from now on, also where it is in an earlier conversation."""
        node = await self.store.node(node_id)
        await self.store.make_current(node.conversation)
        await self.store.set_head(node.conversation, node.id)

    async def revise(self, old: int, message: Message) -> Node | None:
        """Record an edited message beside what it was, and leave the conversation where it is.

        None where nothing was changed that a model would read.
        """
        node = await self.store.node(old)
        text = with_attachments(message)
        if node.role != "user" or node.text == text:
            return None
        beside = await self.store.children(node.conversation, node.parent)
        return await self.store.append(
            node.conversation,
            "user",
            text,
            parent=node.parent,
            name=node.name,
            service_id=f"{message.id}~{len(beside)}-{node.id}",
            move=False,
        )

    @property
    def store(self) -> Store:
        return self.bot.bridge.store

    async def conversation(self) -> Conversation:
        """The current conversation in this place."""
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

    async def _asked(self, at: int, language: str) -> Node | None:
        """The message at a node, or the one that the answer at it answers; its conversation is the current one now."""
        node = await self.store.node(at)
        await self.store.make_current(node.conversation)
        if node.role == "user":
            return node
        return await self.store.node(node.parent) if node.parent is not None else None

    async def _last(self, role: str, missing: str, language: str) -> Node:
        for node in reversed(await self.path()):
            if node.role == role:
                return node
        raise CommandError(say(language, missing))

    # --- the model ---------------------------------------------------------------------------------------------

    async def answer(self, turn: ReplyStream, task: Task) -> AsyncGenerator[Chunk, None]:
        """Ask the model and keep its answer, however it ends."""
        model = ""
        try:
            conversation = await self.store.get(task.asked.conversation)
            settings = self.bot.effective(self.channel, conversation.overrides)
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
                                await self._keep(turn, task, composed, chunk.finish)
                            yield chunk
                    finally:
                        if turn.finish is None and came:
                            # Whoever was listening is gone, or the model failed: what people saw is kept.
                            before = task.unfinished.text if task.unfinished and not composed.before else ""
                            finish = Finish("cancelled", Reply((before + came).strip()), Usage())
                            await self._keep(turn, task, composed, finish)
        except ChatbridgeError as error:
            self._report(FinishedReply(self.bot.name, self.channel, model, None, str(error), turn.author))
            raise
        if turn.finish is not None:
            if turn.author is not None:
                await self.bot.quotas.charge(turn.author, turn.finish.usage)
            self._report(FinishedReply(self.bot.name, self.channel, model, turn.finish, author=turn.author))

    async def _keep(self, turn: ReplyStream, task: Task, composed: Composed, finish: Finish) -> None:
        reply, partial = finish.reply, finish.reason in _PARTIAL
        if composed.before:  # its ids are another model's: from now on the answer is text
            reply = Reply(f"{composed.before} {reply.text}")
        if task.unfinished is not None:
            await self.store.update_reply(task.unfinished.id, reply.text, reply, partial)
        elif reply.text or finish.reason != "cancelled":  # one that was stopped before its first word is none
            kept = await self.store.append(
                task.asked.conversation,
                "assistant",
                reply.text,
                parent=task.asked.id,
                reply=reply,
                partial=partial,
            )
            turn.node = kept.id

    def _report(self, finished: FinishedReply) -> None:
        self.last = finished
        self.bot.bridge.plugins.ask("turn_finished", reply=finished)


_PARTIAL = ("cancelled", "length")
