"""The messages in which an answer is shown while it is still being written. Knows the chat, not when to call it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from zlib import crc32

from chatbridge.delivery.chat import Button, Chat, Limits, MessageContent, quoted
from chatbridge.delivery.contents import split_preview
from chatbridge.delivery.errors import ContentRejected, NotFound, OutcomeUnknown
from chatbridge.delivery.rate_limiter import Route
from chatbridge.errors import StoreError
from chatbridge.types import Chunk

log = logging.getLogger(__name__)

PLACEHOLDER = "…"
_BLANK_LINES = re.compile(r"\A\s*\n")
MAX_RENDERINGS = 64
"""So many times an answer's length is rendered for all of its previews together. Each preview renders all that came so
far; long answers are shown in larger steps, so that it does not come to the square of their length."""

_KEY_BYTES = 6
"""Of a key that nobody gives: its hexadecimal digits and a number make a nonce of less than 25 characters."""

LONG = 8_000
"""Texts from this length on are rendered on another thread: a chat service's heartbeat must not wait for them."""


class StreamedMessage:
    """One answer being written: what came of it so far, and which messages show it.

    message_ids: the messages that show it, in order; "" stands for one that somebody deleted.
    remember: is told of each new one. buttons: under what is shown. text_before: how the answer begins.
    key: short, and the same after a crash, so that an `idempotent` service knows again what was sent for this answer.
    fold: thoughts are shown folded, not as a quotation.
    redelivered: an earlier run of the program may have sent one message more than `message_ids` has.
    `status` is shown until the first word comes. `withdrawn`: the answer is not wanted any more, and what shows it is
    to be deleted.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        key: str = "",
        redelivered: bool = False,
        language: str = "en",
        reply_to: str | None = None,
        message_ids: Sequence[str] = (),
        remember: Callable[[Sequence[str]], Awaitable[None]] | None = None,
        text_before: str = "",
        buttons: tuple[Button, ...] = (),
        fold: bool = False,
    ) -> None:
        self.limits = limits
        self.language = language
        self.reply_to = reply_to
        self.key = key or secrets.token_hex(_KEY_BYTES)
        self.message_ids = list(message_ids)
        self.status = ""
        self.buttons = buttons
        self.withdrawn = False
        self.notices: Sequence[str] = ()
        self.route: Route | None = None
        """What the latest step was; None where there was nothing to do."""
        # A message may be in the chat though its id never came back: the response got lost, or the program was killed
        # before the id was stored. Where the service is idempotent, sending with the same nonce finds that message
        # again, so its nonce is kept here until an id comes. Where it is not, sending again might leave a placeholder
        # in the chat that nobody could ever delete: no further message is begun then (`_stalled`), and what those
        # that are there have no room for comes with the final messages.
        self.uncertain_nonce = f"{self.key}-{len(self.message_ids)}" if redelivered and limits.idempotent else ""
        """The nonce of a message that may be in the chat though its id is not known; "" where there is none."""
        self._stalled = False
        self._rendered = 0
        self._wanted: tuple[str, tuple[MessageContent, ...]] = ("", ())
        self._remember = remember
        self._thoughts: list[str] = []
        self._quoted = limits.fold if fold else quoted
        self._words = [text_before] if text_before else []
        self._shown: list[MessageContent | None] = [None] * len(self.message_ids)
        self._draft_id = crc32(self.key.encode()) % 2**31 or 1
        self._drafted: MessageContent | None = None
        self._drafts = limits.previews == "draft"

    def feed(self, chunk: Chunk) -> None:
        """The answer goes on."""
        (self._thoughts if chunk.thinking else self._words).append(chunk.text)

    def is_shown_by(self, id: str) -> bool:
        """Whether a message of this id shows the answer, or a draft does."""
        return id in self.message_ids or (self._drafted is not None and id == str(self._draft_id))

    @property
    def text(self) -> str:
        """The answer so far, without what stands around it. The blanks before its first line may indent code."""
        return _BLANK_LINES.sub("", "".join(self._words)).rstrip()

    @property
    def source(self) -> str:
        """All that is to be shown: notices, thoughts apart from the answer, and the answer, in Markdown."""
        thoughts = "".join(self._thoughts).strip()
        apart = self._quoted(thoughts) if thoughts else ""
        return "\n\n".join(filter(None, ("\n".join(self.notices), apart, self.text)))

    async def step(self, chat: Chat) -> bool:
        """Make one call that brings what is shown nearer to the answer so far. Returns whether more are needed.

        Raises: ChatError, after which `route` tells what was tried.
        """
        self.route = None
        source = self.source
        if not source.strip():
            wanted: tuple[MessageContent, ...] = (self._placeholder(self.status),)
        else:
            wanted = await self._preview(source)
        if self._drafts:
            for content in wanted[-1:]:
                await self._draft(chat, content)
            return False
        for i, content in enumerate(wanted):
            if i == len(self.message_ids):
                if self._stalled:
                    return False
                await self._begin_message(chat)
                return self._shown[i] != content or i + 1 < len(wanted)
            if self.message_ids[i] and self._shown[i] != content:
                await self._edit(chat, i, content)
                return self._shown[i + 1 :] != [*wanted[i + 1 :]]
        return False

    async def _preview(self, source: str) -> tuple[MessageContent, ...]:
        """What the messages are to hold; as before, where enough was rendered for an answer of this length."""
        shown, wanted = self._wanted
        if shown == source or self._rendered + len(source) > MAX_RENDERINGS * max(len(source), LONG):
            return wanted
        self._rendered += len(source)
        if len(source) < LONG:
            wanted = split_preview(source, self.limits, self.buttons)
        else:
            wanted = await asyncio.to_thread(split_preview, source, self.limits, self.buttons)
        self._wanted = source, wanted
        return wanted

    def _placeholder(self, status: str = "") -> MessageContent:
        return MessageContent(status or PLACEHOLDER, preview=True, buttons=self.buttons)

    async def _draft(self, chat: Chat, content: MessageContent) -> None:
        if content == self._drafted:
            return
        self.route = "draft"
        try:
            await chat.draft(self._draft_id, content)
        except ContentRejected:
            self._drafts = False  # such a chat takes none; messages will do
            raise
        self._drafted = content

    async def _begin_message(self, chat: Chat) -> None:
        """A new message. Its words come by editing, which can be repeated: one sent twice would show them twice."""
        placeholder, at = self._placeholder(), len(self.message_ids)
        nonce = f"{self.key}-{at}"
        self.route = "send"
        try:
            sent = await chat.send(placeholder, reply_to=None if at else self.reply_to, nonce=nonce)
        except OutcomeUnknown:
            self._stalled = not self.limits.idempotent
            self.uncertain_nonce = nonce if self.limits.idempotent else ""
            raise
        self.uncertain_nonce = ""
        self.message_ids.append(sent)
        self._shown.append(placeholder)
        if self._remember is not None:
            try:
                await self._remember(self.message_ids)
            except StoreError as error:
                log.error("a message that shows an answer can't be remembered: %s", error)

    async def _edit(self, chat: Chat, at: int, content: MessageContent) -> None:
        self.route = "edit"
        # Until the call went well nobody knows what the message shows: a lost response may have changed it.
        self._shown[at] = None
        try:
            await chat.edit(self.message_ids[at], content)
        except NotFound:
            self.message_ids[at] = ""
            self._stalled = True  # a new message would come after those that are there
            raise
        self._shown[at] = content
