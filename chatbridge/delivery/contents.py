"""A whole answer in Markdown as the messages that a chat takes. Knows the limits of the chat, makes no call."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

from chatbridge.delivery.chat import Button, Limits, MessageContent
from chatbridge.delivery.rendered import as_text
from chatbridge.delivery.splitting import Piece, split
from chatbridge.texts import LANGUAGES, say
from chatbridge.types import Attachment

log = logging.getLogger(__name__)


def split_answer(
    source: str, limits: Limits, language: str = "en", buttons: tuple[Button, ...] = ()
) -> tuple[MessageContent, ...]:
    """The messages of a finished answer: `limits.parts` of them at most, what is left in a file behind the last.

    Each leaves room for the mark of a possible duplicate; the last one has the buttons.
    """
    pieces = _pieces(source, limits)
    parts = [_part(piece) for piece in pieces[: limits.parts]]
    if rest := pieces[limits.parts :]:
        text = rest[0].head + "".join(piece.body for piece in rest)
        file = Attachment("answer.md", "text/markdown", text.encode())
        parts.append(MessageContent(say(language, "rest_in_file"), file=file))
    return (*parts[:-1], replace(parts[-1], last=True, buttons=buttons)) if parts else ()


def split_preview(source: str, limits: Limits, buttons: tuple[Button, ...] = ()) -> tuple[MessageContent, ...]:
    """The messages of an answer that is still being written."""
    parts = [_part(piece) for piece in _pieces(source, limits)[: limits.parts]]
    return (*parts[:-1], replace(parts[-1], live=True, buttons=buttons)) if parts else ()


def _pieces(source: str, limits: Limits) -> list[Piece]:
    mark = max(limits.count(say(language, "maybe_duplicate") + "\n") for language in LANGUAGES)
    try:
        rendered = limits.render(source)
    except Exception:
        log.exception("an answer can't be rendered; it is shown as it is")
        rendered = as_text(source)
    pieces = split(rendered, limits.length - mark, limits.count)
    return [piece for piece in pieces if piece.text.strip()]


def _part(piece: Piece) -> MessageContent:
    return MessageContent(piece.text, piece.entities, _hushed(piece.text) if piece.entities else None)


def _hushed(text: str) -> str:
    """Names stay without effect where they were in code, which shields them no longer. As long as before."""
    return re.sub(r"(?<!\w)@(?=\w)", "＠", text)
