"""A whole answer in Markdown as the messages that a chat takes. Knows the limits of the chat, makes no call."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

from chatbridge.delivery.chat import Button, Limits, MessageContent
from chatbridge.delivery.growing import settled
from chatbridge.delivery.rendered import as_text
from chatbridge.delivery.splitting import Fragment, split
from chatbridge.texts import LANGUAGES, say
from chatbridge.types import Attachment

log = logging.getLogger(__name__)


def split_answer(
    source: str, limits: Limits, language: str = "en", buttons: tuple[Button, ...] = ()
) -> tuple[MessageContent, ...]:
    """The messages of a finished answer: at most `limits.max_messages`, then one more with the rest in a file.

    Each leaves room for the note of a possible duplicate. The last one has the buttons.
    """
    fragments = _fragments(source, limits)
    contents = [_content(fragment) for fragment in fragments[: limits.max_messages]]
    if rest := fragments[limits.max_messages :]:
        text = rest[0].head + "".join(fragment.body for fragment in rest)
        file = Attachment("answer.md", "text/markdown", text.encode())
        contents.append(MessageContent(say(language, "rest_in_file"), file=file))
    return (*contents[:-1], replace(contents[-1], ends_answer=True, buttons=buttons)) if contents else ()


def split_preview(source: str, limits: Limits, buttons: tuple[Button, ...] = ()) -> tuple[MessageContent, ...]:
    """The messages of an answer that is still being written; none while there is nothing of it to be shown."""
    if limits.render is not as_text:
        source = settled(source)
    contents = [_content(fragment) for fragment in _fragments(source, limits)[: limits.max_messages]]
    return (*contents[:-1], replace(contents[-1], preview=True, buttons=buttons)) if contents else ()


def _fragments(source: str, limits: Limits) -> list[Fragment]:
    note = max(limits.count(say(language, "maybe_duplicate") + "\n") for language in LANGUAGES)
    try:
        rendered = limits.render(source)
    except Exception:
        log.exception("an answer can't be rendered; it is shown as it is")
        rendered = as_text(_without_mentions(source))
    fragments = split(rendered, limits.length - note, limits.count, limits.max_messages, limits.max_entities)
    return [fragment for fragment in fragments if fragment.text.strip()]


def _content(fragment: Fragment) -> MessageContent:
    return MessageContent(
        fragment.text, fragment.entities, _without_mentions(fragment.text) if fragment.entities else None
    )


def _without_mentions(text: str) -> str:
    """No name calls anybody, since code shields them no longer without its formatting. As long as before."""
    return re.sub(r"(?<!\w)@(?=\w)", "＠", text)
