"""The talk of one person with one bot, whatever shows it: starts or resumes a conversation, passes messages on,
stops answers. Knows no terminal; what is to be shown goes to a `View`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, aclosing
from typing import Protocol
from uuid import uuid4

from chatbridge import Attachment, Author, Bot, Channel, Chunk, Message, Notice, ReplyStream, StoreError
from chatbridge_repl.texts import say

Ask = Callable[[str], Awaitable[bool]]

CHANNEL = Channel(id="terminal", name="terminal", kind="terminal")


class Stream(Protocol):
    """One answer on its way to the person."""

    def feed(self, chunk: Chunk) -> None: ...

    def loading(self, model: str, share: float, doing: str) -> None:
        """The model that is to answer is still being loaded."""
        ...


class View(Protocol):
    """What shows a talk to the person."""

    def answering(self) -> AbstractContextManager[Stream]:
        """An answer is awaited and will be streamed; what came of it is complete when the block ends."""
        ...

    def answer(self, text: str) -> None:
        """What a command says, in Markdown."""
        ...

    def notice(self, text: str) -> None:
        """A line beside the talk."""
        ...

    def error(self, text: str) -> None:
        """Why a message was not answered, in a line."""
        ...


class Session:
    """One talk. `language` is the terminal's, for the core's lines where nothing else decides it."""

    def __init__(self, bot: Bot, view: View, author: Author, language: str) -> None:
        self.language = language
        self._bot = bot
        self._view = view
        self._author = author
        self._conversation = 0
        self._turn: ReplyStream | None = None
        self._answering: asyncio.Task[object] | None = None
        self._came = False
        self.ask: Ask | None = None
        """How to ask the person something, where one sits at a terminal."""

    async def begin(self, resume: str = "", commands: Iterable[str] = ()) -> None:
        """Begin a new conversation, or go on with the one that `resume` names ("latest", "c12" or "12").

        `commands` are carried out before the first message; what they say is not shown.
        Raises: StoreError for a conversation that is not there, CommandError from a command.
        """
        dialogue = self._bot.dialogue(CHANNEL)
        if not (resume and await self._resume(resume)):
            await dialogue.reset()
        self._conversation = (await dialogue.conversation()).id
        for command in commands:
            await self._bot.receive(self._message(command))

    async def send(self, text: str, files: tuple[Attachment, ...] = ()) -> None:
        """Pass one message on and show what comes back. `files`: what comes with it.

        Raises: ChatbridgeError with a text for the person.
        """
        # Another terminal may have begun a conversation since; this one stays with its own.
        await self._bot.services.store.make_current(self._conversation)
        result = await self._bot.receive(self._message(text, files), ask=self.ask)
        if isinstance(result, ReplyStream):
            await self._stream(result)
        elif isinstance(result, Notice):
            self._view.answer(result.text)
            self._conversation = (await self._bot.dialogue(CHANNEL).conversation()).id
        else:
            self._view.notice(say(self.language, "silent"))

    def interrupt(self) -> None:
        """Stop the answer and keep what came; asked again, give it up, as while its model is loaded."""
        if self._answering is None:
            return
        if self._turn is not None:
            self._turn.stop()
            self._turn = None
            if not self._came:
                self._view.notice(say(self.language, "stopping"))
        else:
            self._answering.cancel()

    async def model(self) -> str:
        """The name of the model that answers next."""
        return (await self._bot.dialogue(CHANNEL).settings()).model

    def _message(self, text: str, files: tuple[Attachment, ...] = ()) -> Message:
        # English is what a Chinese speaker's terminal often is set to, so it decides nothing; the script does.
        language = self.language if self.language == "zh" else ""
        return Message(
            uuid4().hex,
            CHANNEL,
            self._author,
            text,
            attachments=files,
            sent_at=time.time(),
            mentions_bot=True,
            language=language,
        )

    async def _stream(self, turn: ReplyStream) -> None:
        self._turn, self._answering, self._came = turn, asyncio.current_task(), False
        models = self._bot.services.models
        before = models.on_progress
        try:
            with self._view.answering() as stream:
                models.on_progress = stream.loading
                shown = 0
                async with aclosing(aiter(turn)) as chunks:
                    async for chunk in chunks:
                        self._came = self._came or not chunk.loading
                        shown = self._notices(turn, shown)
                        stream.feed(chunk)
                self._notices(turn, shown)
        finally:
            models.on_progress = before
            self._turn = self._answering = None

    def _notices(self, turn: ReplyStream, shown: int) -> int:
        for notice in turn.notices[shown:]:
            self._view.notice(notice)
        return len(turn.notices)

    async def _resume(self, resume: str) -> bool:
        """Make that conversation the current one; False where the latest is wanted and there is none."""
        store, bot = self._bot.services.store, self._bot.name
        if resume == "latest":
            # Starts that nobody said anything in are passed over, however many there are.
            known = await store.conversations(bot, CHANNEL.id, limit=_ALL)
            found = next((conversation for conversation in known if conversation.head is not None), None)
            if found is None:
                return False
        else:
            number = resume.removeprefix("c")
            if not re.fullmatch(r"\d{1,18}", number):  # the store's numbers have no more digits
                raise StoreError(say(self.language, "no_id", id=resume))
            found = await store.get(int(number))
            if (found.bot, found.channel) != (bot, CHANNEL.id):
                raise StoreError(say(self.language, "not_here", id=resume))
        found = await store.make_current(found.id)
        title = " ".join(found.title.split())
        self._view.notice(say(self.language, "resumed", id=f"c{found.id}", title=title[:60]))
        return True


_ALL = 1_000_000
