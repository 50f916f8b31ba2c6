"""One Discord channel as delivery knows it: four calls of the REST API, each made once. Decides nothing about when."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from chatbridge import (
    Budget,
    ContentRejected,
    Limits,
    MessageContent,
    OutcomeUnknown,
    Unreachable,
    as_markdown,
    folded,
)
from chatbridge_discord.failures import UNREADABLE
from chatbridge_discord.options import DiscordOptions
from chatbridge_discord.rest import Rest

MAX_TEXT = 2000
MAX_COMPONENTS_TEXT = 4000
SUPPRESS_EMBEDS, COMPONENTS_V2 = 1 << 2, 1 << 15
ROW, BUTTON, TEXT = 1, 2, 10
GREY = 2

IN_CHANNEL = Budget(5, 5.0)
EVERYWHERE = Budget(45, 1.0)
"""What Discord lets a bot do in one channel, as far as is known, and in all; a few calls are left to the library."""

MAX_LAYOUTS = 200


def limits_of(options: DiscordOptions) -> Limits:
    """What a channel takes, and how fast."""
    return Limits(
        MAX_COMPONENTS_TEXT if options.long_messages else MAX_TEXT,
        render=partial(as_markdown, mentions=bool(options.allowed_mentions)),
        fold=folded,
        max_messages=options.max_parts,
        preview_every=1.2,
        typing_every=8.0,  # Discord shows it for ten seconds
        budget=IN_CHANNEL,
        idempotent=True,
    )


class DiscordChat:
    """A `chatbridge.Chat`."""

    def __init__(self, rest: Rest, channel: str, options: DiscordOptions) -> None:
        self._rest, self._channel, self._options = rest, channel, options
        self._path = f"/channels/{channel}/messages"
        self._layouts: deque[str] = deque(maxlen=MAX_LAYOUTS)
        """Messages made of components, which can't have ordinary text any more."""

    async def send(self, part: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        layout = len(part.text) > MAX_TEXT
        body = self._body(part, layout=layout) | {"nonce": nonce, "enforce_nonce": True}
        if reply_to not in (None, self._channel):  # what a thread began with may be in the channel above
            body["message_reference"] = {"message_id": reply_to, "fail_if_not_exists": False}
        sent = await self._rest.call("POST", self._path, body, file=part.file)
        if not isinstance(sent, dict) or "id" not in sent:
            raise OutcomeUnknown(UNREADABLE)
        id = str(sent["id"])
        if (sent.get("content") or "") != body.get("content", ""):  # an earlier try, with other words, is there
            await self.edit(id, part)
        elif layout:
            self._layouts.append(id)
        return id

    async def edit(self, message_id: str, part: MessageContent) -> None:
        layout = len(part.text) > MAX_TEXT or message_id in self._layouts
        body = self._body(part, layout=layout)
        if layout:
            body["content"] = None
        try:
            await self._rest.call("PATCH", f"{self._path}/{message_id}", body)
        except ContentRejected as refused:
            if layout or "LEGACY_FIELDS_WITH_COMPONENTS_V2" not in str(refused):
                raise
            self._layouts.append(message_id)  # from before a restart
            raise Unreachable(str(refused)) from refused
        if layout and message_id not in self._layouts:
            self._layouts.append(message_id)

    async def delete(self, message_id: str) -> None:
        await self._rest.call("DELETE", f"{self._path}/{message_id}")

    async def typing(self) -> None:
        await self._rest.call("POST", f"/channels/{self._channel}/typing")

    async def draft(self, draft_id: int, part: MessageContent) -> None:
        raise ContentRejected("Discord has no drafts")

    def _body(self, part: MessageContent, *, layout: bool) -> dict[str, Any]:
        components = buttons(part)
        flags = 0 if self._options.embeds else SUPPRESS_EMBEDS
        allowed = {"parse": sorted(self._options.allowed_mentions), "replied_user": False}
        if layout:
            components = [{"type": TEXT, "content": part.text}, *components]
            return {"components": components, "flags": flags | COMPONENTS_V2, "allowed_mentions": allowed}
        return {"content": part.text, "components": components, "flags": flags, "allowed_mentions": allowed}


def buttons(part: MessageContent) -> list[dict[str, Any]]:
    """The buttons of a part, in one row."""
    row = [
        {"type": BUTTON, "style": GREY, "label": button.label, "custom_id": button.action} for button in part.buttons
    ]
    return [{"type": ROW, "components": row}] if row else []
