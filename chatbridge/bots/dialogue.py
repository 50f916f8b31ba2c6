"""One conversation: what is asked in it, the queue of its replies, and what becomes of a model's answer.

Knows the store and the models; leaves the prompt to `request`, and knows no chat service and no command.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from chatbridge.bots.attachments import unread_of, with_attachments
from chatbridge.bots.permissions import asker_of
from chatbridge.bots.reply import FinishedReply, ReplyContext, ReplyState, ReplyStream
from chatbridge.bots.request import AnswerTarget, BuiltRequest, build_request, choose_template, room_for
from chatbridge.bots.tree import ConversationTree
from chatbridge.errors import ChatbridgeError, CommandError, PromptTooLong
from chatbridge.prompts.clean_up import cleaned_chunks
from chatbridge.prompts.fitting import MAX_BYTES_PER_TOKEN
from chatbridge.texts import say
from chatbridge.types import Author, Channel, Chunk, Finish, Message, Reply, Usage

if TYPE_CHECKING:
    from chatbridge.bots.bot import Bot
    from chatbridge.bots.quotas import Reservation
    from chatbridge.config.settings import ChannelSettings
    from chatbridge.engine.backend import Backend
    from chatbridge.store import Conversation, Node

log = logging.getLogger(__name__)

T = TypeVar("T")

Begin = Callable[[ReplyState], Awaitable[AnswerTarget | None]]
"""Moves the conversation to where an answer is wanted; None where there is nothing to answer (again)."""

_PARTIAL = ("cancelled", "length")
_CJK = re.compile("[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
"""Chinese and Japanese characters and signs, beside which no blank stands."""


class Dialogue(ConversationTree):
    """A conversation of one bot; `bot.dialogue(channel)` gives that of a channel.

    `key`: under which its conversations are in the store, the channel's id unless its scope is another. `channel`:
    where it takes place. `last`: the reply that ended last.
    """

    __slots__ = ("_lock", "_running", "_too_long", "_waiting", "bot", "channel", "last")

    def __init__(self, bot: Bot, channel: Channel, key: str) -> None:
        super().__init__(bot.services.store, bot.name, key)
        self.bot = bot
        self.channel = channel
        self.last: FinishedReply | None = None
        self._lock = asyncio.Lock()
        self._waiting: list[ReplyState] = []
        self._running: ReplyState | None = None
        self._too_long: tuple[int, tuple[str, int, ChannelSettings], str] | None = None
        """The last message that did not fit, even alone: its node, for which model and settings, and why."""

    @property
    def last_prompt(self) -> int:
        """Tokens of the latest answer's prompt, which the next one begins with; 0 where none is known."""
        finish = self.last.finish if self.last is not None else None
        return finish.usage.prompt if finish is not None else 0

    # --- what can be asked -------------------------------------------------------------------------------------

    def send(
        self,
        message: Message,
        language: str = "en",
        *,
        parent: int | None = None,
        follow_up: Literal["queue", "merge", "interrupt"] = "queue",
        over: Collection[str] | None = None,
        new_with: Mapping[str, Any] | None = None,
        author: Author | None = None,
        context: ReplyContext | None = None,
        reservation: Reservation | None = None,
    ) -> ReplyStream:
        """Record the message and answer it. A message that was answered before is not answered again.

        `parent`: the node that it replies to, where it does not follow what was said last. `follow_up`: what becomes
        of answers that it finds on their way; `over`: whose these must be, by id (`askers`), the others' go on as
        with "queue"; None for everybody's. `new_with`: begin a new conversation by it, with these settings of its own,
        by the keys of a channel. `author`: whose use of the model it counts as. `context`: what applies to the message,
        where that is known. `reservation`: what was reserved for the answer.
        """

        async def begin(state: ReplyState) -> AnswerTarget | None:
            if parent is not None:
                await self.go_to(parent)
            fresh = None if new_with is None else (await self.reset(new_with)).id
            message, state.message = state.message, None
            assert message is not None, "a reply begins once"
            state.notices += unread_of(message, language)
            asked = await self.store.ask(
                self.bot_name,
                self.key,
                with_attachments(message),
                conversation=fresh,
                name=message.author.name,
                author=asker_of(message.author),
                service_id=message.id,
                channel=message.channel.id,
            )
            if state.gives_way and any(_takes_over(later, state) for later in self._waiting):
                state.superseded = True
                return None
            # One that was recorded together with a later one was answered with it.
            state.superseded = bool(asked.after) and all(child.role == "user" for child in asked.after)
            return None if asked.after else AnswerTarget(asked.node, conversation=asked.conversation)

        state = ReplyState(language, author, message, follow_up != "queue", over, context, reservation=reservation)
        if follow_up == "interrupt" and self._running is not None and _takes_over(state, self._running):
            self._running.supersede()
        return self._reply(state, begin)

    def regenerate(self, language: str = "en", node: int | None = None) -> ReplyStream:
        """Answer the last message, or the one at a `node`, once more; what there was stays on its own branch."""

        async def begin(state: ReplyState) -> AnswerTarget:
            if node is not None:
                asked = await self.answered_by(await self.adopted(node, asker_of(state.author)))
            else:
                asked = await self.last_message("nothing_to_regenerate", language)
                await self._check("regenerate", state, asked)
            asked = asked or await self.last_message("nothing_to_regenerate", language)
            await self.store.set_head(asked.conversation, asked.id)
            return AnswerTarget(asked)

        return self._reply(ReplyState(language), begin)

    def edit(self, text: str, language: str = "en", notices: Iterable[str] = ()) -> ReplyStream:
        """Put `text` in the place of the last message and answer it; the old message stays on its own branch.

        `notices`: lines for the person, before the answer.
        """

        async def begin(state: ReplyState) -> AnswerTarget:
            old = await self.last_message("nothing_to_edit", language)
            await self._check("edit", state, old)
            name, author = (
                (old.name, old.author) if state.author is None else (state.author.name, asker_of(state.author))
            )
            new = await self.store.append(old.conversation, "user", text, parent=old.parent, name=name, author=author)
            return AnswerTarget(new)

        return self._reply(ReplyState(language, notices=[*notices]), begin)

    def go_on(self, language: str = "en", node: int | None = None) -> ReplyStream:
        """Continue the last answer, or the one at a `node`, right where it ended."""

        async def begin(state: ReplyState) -> AnswerTarget:
            if node is not None:
                await self.go_to(await self.adopted(node, asker_of(state.author)))
            path = await self.path(limit=2)
            if len(path) < 2 or path[-1].role != "assistant":
                raise CommandError(say(language, "nothing_to_continue"))
            if node is None:
                await self._check("continue", state, path[-2])
            state.node = path[-1].id
            return AnswerTarget(path[-2], unfinished=path[-1])

        async def so_far() -> str:
            path = [await self.store.node(node)] if node is not None else await self.path(limit=1)
            return path[-1].text if path and path[-1].role == "assistant" else ""

        return self._reply(ReplyState(language), begin, so_far)

    @property
    def busy(self) -> bool:
        """Whether something is being answered here, or waits for it."""
        return self._lock.locked() or bool(self._waiting)

    @property
    def askers(self) -> frozenset[str]:
        """Whose answers are on their way here, or wait, by id; "" for those of whom nobody knows."""
        running = () if self._running is None else (self._running,)
        return frozenset(asker_of(state.author) for state in (*running, *self._waiting))

    @property
    def answering(self) -> bool:
        """Whether something is being answered here right now."""
        return self._running is not None

    def stop(self) -> bool:
        """End the answer that is on its way, and those of side conversations; whether there was one."""
        for state in (running := self._all_running()):
            state.stop()
        return bool(running)

    async def stop_for(self, author: Author, language: str = "en") -> bool:
        """The same for somebody: answers that are not theirs to stop go on. Raises CommandError where none is."""
        refusals = []
        for state in (running := self._all_running()):
            try:
                await self.bot.require(author, self.channel, "stop", language, asker=asker_of(state.author))
            except CommandError as refusal:
                refusals.append(refusal)
            else:
                state.stop()
        if refusals and len(refusals) == len(running):
            raise refusals[0]
        return bool(running)

    def _all_running(self) -> list[ReplyState]:
        sides = self.bot.side_dialogues(self.channel) if self.key == self.channel.id else []
        return [dialogue._running for dialogue in (self, *sides) if dialogue._running is not None]

    async def settings(self) -> ChannelSettings:
        """What applies to the next answer: the channel's settings with this conversation's own on top."""
        return self.bot.effective(self.channel, (await self.conversation()).overrides)

    # --- the queue ---------------------------------------------------------------------------------------------

    def _reply(
        self, state: ReplyState, begin: Begin, so_far: Callable[[], Awaitable[str]] | None = None
    ) -> ReplyStream:
        return ReplyStream(state, lambda state: self._run(state, begin), so_far=so_far)

    async def _run(self, state: ReplyState, begin: Begin) -> AsyncGenerator[Chunk, None]:
        """Wait until the conversation is free, move it to what is asked, and answer that."""
        self._waiting.append(state)
        try:
            await self._lock.acquire()
        finally:
            self._waiting.remove(state)
        try:
            if state.stopped and (state.superseded or state.message is None):
                return
            self._running = state
            target = await _completed(begin(state))  # also where it was stopped: what a person has said is kept
            if target is None:
                if not state.superseded:
                    state.notices.append(say(state.language, "not_changed"))
                return
            if state.stopped:
                return
            async with aclosing(self._answer(state, target)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._running = state.reservation = None
            self._lock.release()

    async def _check(self, action: str, state: ReplyState, asked: Node) -> None:
        """Raises CommandError where the answer to that message is not theirs to change who asks for this reply."""
        if state.author is not None:
            await self.bot.require(state.author, self.channel, action, state.language, asker=asked.author)

    # --- the model ---------------------------------------------------------------------------------------------

    async def _answer(self, state: ReplyState, target: AnswerTarget) -> AsyncGenerator[Chunk, None]:
        """Ask the model and keep its answer, however it ends."""
        model, rewritten = "", 0
        try:
            conversation = target.conversation
            if conversation is None:
                conversation = await self.store.get(target.asked.conversation)  # whatever has become current meanwhile
            settings = self._settings_for(state.context, conversation)
            model = settings.model
            if loading := not self.bot.services.models.is_loaded(self.bot.model(settings)):
                yield Chunk(loading=True)
            async with self.bot.services.models.use(self.bot.model(settings)) as backend:
                if loading:
                    yield Chunk()
                built = await self._build(conversation, target, settings, backend)
                if built is None:
                    if not state.superseded:
                        state.notices.append(say(state.language, "question_deleted"))
                    return
                rewritten = built.rewritten
                state.notices += built.notices(state.language)
                state.running = (backend, built.request.id)
                if state.reservation is not None:
                    state.reservation.raise_for(built.request)
                if state.stopped:
                    return
                came = ""
                generated = backend.generate(built.request)
                if built.clean_up:
                    generated = cleaned_chunks(generated, target.unfinished.text if target.unfinished else "")
                async with aclosing(generated) as chunks:
                    try:
                        async for chunk in chunks:
                            came += "" if chunk.thinking else chunk.text
                            if chunk.finish is not None:
                                state.finish = chunk.finish
                                keeping = self._keep(state, target, built, chunk.finish)
                                await asyncio.gather(keeping, self._settle(state, chunk.finish))
                            yield chunk
                    finally:
                        if state.finish is None and came:
                            # Whoever was listening is gone, or the model failed: what people saw is kept.
                            before = target.unfinished.text if target.unfinished and not built.before else ""
                            finish = Finish("cancelled", Reply((before + came).strip()), Usage())
                            await self._keep(state, target, built, finish)
        except ChatbridgeError as error:
            self._report(FinishedReply(self.bot.name, self.channel, model, None, str(error), state.author))
            raise
        if state.finish is not None:
            done = FinishedReply(
                self.bot.name, self.channel, model, state.finish, author=state.author, rewritten=rewritten
            )
            self._report(done)

    def _settings_for(self, context: ReplyContext | None, conversation: Conversation) -> ChannelSettings:
        """Those that were merged when the message came, unless something has been changed on top or beneath since."""
        unchanged = context is not None and context.merged_from is self.bot.services.settings
        if context is not None and unchanged and not conversation.overrides:
            return context.settings
        return self.bot.effective(self.channel, conversation.overrides)

    async def _build(
        self, conversation: Conversation, target: AnswerTarget, settings: ChannelSettings, backend: Backend
    ) -> BuiltRequest | None:
        """The request for an answer, None where its question was deleted. Where its prompt begins is stored."""
        template = choose_template(self.bot.templates, settings, backend.info)
        await self.bot.services.look_over(template, backend.info, settings.template_options)
        path, room = [target.asked], room_for(settings, backend.info)
        # What was left out for less room than there is now (another model, another context_length) may fit again.
        grown = conversation.trim is not None and conversation.trim_room is not None and room > conversation.trim_room
        trim = None if grown else conversation.trim
        if settings.history:  # what was left out so far, and what can't fit by any means, is not even read back
            most = MAX_BYTES_PER_TOKEN * backend.info.context_length
            path = await self.store.path(conversation.id, target.asked.id, since=trim, max_bytes=most)
            if not path or path[-1].id != target.asked.id:
                return None
        asked_of = backend.info.vocabulary, backend.info.context_length, settings
        if self._too_long is not None and self._too_long[1] == asked_of:
            too_long, _, why = self._too_long
            if target.asked.id == too_long:
                raise PromptTooLong(why)  # as the last time, at no cost
            after = next((node.id for before, node in pairwise(path) if before.id == too_long), None)
            if after is not None and (trim is None or trim < after):
                trim = after
        try:
            built = await build_request(
                target,
                path,
                settings,
                template,
                backend.info,
                backend.count_tokens,
                bot=self.bot.name,
                channel=self.channel,
                trim=trim,
                # What a person set by /system is theirs; what bots.yaml says is ours.
                system_trusted="system" not in conversation.overrides,
                renderer=self.bot.services.renderer,
            )
        except PromptTooLong as error:
            self._too_long = (target.asked.id, asked_of, str(error))
            raise
        self.bot.services.note(template, backend.info, built.notes)
        if grown:  # less is left out than before, and people were told of that
            built = replace(built, newly_dropped=0, trim_moved=True)
        if built.newly_dropped:
            built = replace(built, left_out=built.left_out + await self.store.count_above(path[0].id))
        if built.trim_moved and settings.history:
            await self.store.set_trim(conversation.id, built.trim, room)
            log.info("conversation %d begins at another message from now on: %s", conversation.id, built.trim)
        return built

    async def _settle(self, state: ReplyState, finish: Finish) -> None:
        if state.author is not None:
            await self.bot.permissions.settle(state.author, self.channel, finish.usage, state.reservation)

    async def _keep(self, state: ReplyState, target: AnswerTarget, built: BuiltRequest, finish: Finish) -> None:
        reply, partial = finish.reply, finish.reason in _PARTIAL
        if built.before:  # its ids are another model's: from now on the answer is text
            blank = "" if _CJK.match(built.before[-1]) or _CJK.match(reply.text[:1]) else " "
            reply = Reply(f"{built.before}{blank}{reply.text}")
        if target.unfinished is not None:
            await self.store.update_reply(target.unfinished.id, reply.text, reply, partial)
        elif reply.text or finish.reason != "cancelled":  # one that was stopped before its first word is none
            kept = await self.store.append(
                target.asked.conversation,
                "assistant",
                reply.text,
                parent=target.asked.id,
                reply=reply,
                partial=partial,
            )
            state.node = kept.id

    def _report(self, finished: FinishedReply) -> None:
        self.last = finished
        self.bot.services.hooks.ask("turn_finished", reply=finished)


def _takes_over(later: ReplyState, earlier: ReplyState) -> bool:
    """Whether a reply may be given in the place of an earlier one."""
    return later.gives_way and (later.over is None or asker_of(earlier.author) in later.over)


async def _completed(begin: Awaitable[T]) -> T:
    """Begin and, where that is cancelled, end the beginning before: it is short, and half of it would lose words."""
    work = asyncio.ensure_future(begin)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
