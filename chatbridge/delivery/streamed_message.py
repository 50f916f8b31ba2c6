"""The messages in which an answer is shown while it is still being written. Knows the chat, not when to call it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

from chatbridge.delivery.chat import Button, Chat, ContentRejected, Limits, MessageContent, NotFound, OutcomeUnknown
from chatbridge.delivery.contents import split_preview
from chatbridge.delivery.rate_limiter import Route
from chatbridge.errors import StoreError
from chatbridge.types import Chunk

log = logging.getLogger(__name__)

PLACEHOLDER = "…"
LONG = 8_000
"""Texts from this length on are rendered on another thread: a chat service's heartbeat must not wait for them."""


class Posting:
    """One answer being written: what came of it so far, and which messages show it.

    `live` are the ids of these messages, in order; an empty one was taken away by somebody. `remember` is told of
    each new one. `status` is shown until the first word comes. `buttons` are under what is shown. `withdrawn`: the
    answer is not wanted any more, and what shows it is taken away. `key`: short, and the same after a crash, so that
    an `idempotent` service knows the messages again that were sent at its moment. `begun`: there may be one more
    message than `live` has, which a run of the program sent that ended before it knew.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        key: str = "",
        begun: bool = False,
        language: str = "en",
        reply_to: str | None = None,
        live: Sequence[str] = (),
        remember: Callable[[Sequence[str]], Awaitable[None]] | None = None,
        before: str = "",
        buttons: tuple[Button, ...] = (),
    ) -> None:
        self.limits = limits
        self.language = language
        self.reply_to = reply_to
        self.key = key or secrets.token_hex(6)
        self.live = list(live)
        self.status = ""
        self.buttons = buttons
        self.withdrawn = False
        self.notices: Sequence[str] = ()
        self.route: Route | None = None
        """What the latest step was; None where there was nothing to do."""
        self.unsure = f"{self.key}-{len(self.live)}" if begun and limits.idempotent else ""
        """The nonce of a message that may have been begun, where sending with it again leaves one message."""
        self._remember = remember
        self._thoughts: list[str] = []
        self._words = [before] if before else []
        self._shown: list[MessageContent | None] = [None] * len(self.live)
        self._draft_id = crc32(self.key.encode()) % 2**31 or 1
        self._drafted: MessageContent | None = None
        self._drafts = limits.previews == "draft"
        self._stalled = False

    def feed(self, chunk: Chunk) -> None:
        """The answer goes on."""
        (self._thoughts if chunk.thinking else self._words).append(chunk.text)

    def is_shown_by(self, id: str) -> bool:
        """Whether a message of this id shows the answer, or a draft does."""
        return id in self.live or (self._drafted is not None and id == str(self._draft_id))

    @property
    def text(self) -> str:
        """The answer so far, without what stands around it."""
        return "".join(self._words).strip()

    @property
    def source(self) -> str:
        """All that is to be shown: notices, thoughts as a quote, and the answer, in Markdown."""
        thoughts = "".join(self._thoughts).strip()
        quoted = "\n".join(f"> {line}" for line in thoughts.split("\n")) if thoughts else ""
        return "\n\n".join(filter(None, ("\n".join(self.notices), quoted, self.text)))

    async def step(self, chat: Chat) -> bool:
        """Make one call that brings the chat nearer to the answer so far; whether more are needed.

        Raises: ChatError, after which `route` tells what was tried.
        """
        self.route = None
        source = self.source
        if not source.strip():
            wanted: tuple[MessageContent, ...] = (self._placeholder(self.status),)
        elif len(source) < LONG:
            wanted = split_preview(source, self.limits, self.buttons)
        else:
            wanted = await asyncio.to_thread(split_preview, source, self.limits, self.buttons)
        if self._drafts:
            for part in wanted[-1:]:
                await self._draft(chat, part)
            return False
        for i, part in enumerate(wanted):
            if i == len(self.live):
                if self._stalled:
                    return False
                await self._begin_message(chat)
                return self._shown[i] != part or i + 1 < len(wanted)
            if self.live[i] and self._shown[i] != part:
                await self._edit(chat, i, part)
                return self._shown[i + 1 :] != [*wanted[i + 1 :]]
        return False

    def _placeholder(self, status: str = "") -> MessageContent:
        return MessageContent(status or PLACEHOLDER, live=True, buttons=self.buttons)

    async def _draft(self, chat: Chat, part: MessageContent) -> None:
        if part == self._drafted:
            return
        self.route = "draft"
        try:
            await chat.draft(self._draft_id, part)
        except ContentRejected:
            self._drafts = False  # such a chat takes none; messages will do
            raise
        self._drafted = part

    async def _begin_message(self, chat: Chat) -> None:
        """A new message. Its words come by editing, which can be repeated: one sent twice would show them twice."""
        placeholder, at = self._placeholder(), len(self.live)
        nonce = f"{self.key}-{at}"
        self.route = "send"
        try:
            sent = await chat.send(placeholder, reply_to=None if at else self.reply_to, nonce=nonce)
        except OutcomeUnknown:
            self._stalled = not self.limits.idempotent
            self.unsure = nonce if self.limits.idempotent else ""
            raise
        self.unsure = ""
        self.live.append(sent)
        self._shown.append(placeholder)
        if self._remember is not None:
            try:
                await self._remember(self.live)
            except StoreError as error:
                log.error("a message that shows an answer can't be remembered: %s", error)

    async def _edit(self, chat: Chat, at: int, part: MessageContent) -> None:
        self.route = "edit"
        self._shown[at] = None
        try:
            await chat.edit(self.live[at], part)
        except NotFound:
            self.live[at] = ""
            self._stalled = True  # a new message would come after those that are there
            raise
        self._shown[at] = part
