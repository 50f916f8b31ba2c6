"""Puts right what a model writes, as the model's own `chat()` does before it shows an answer, while the answer streams.

Of a template that says `clean_up: chatglm`: `process_response` of THUDM/chatglm-6b, modeling_chatglm.py. ChatGLM's
tokenizer writes full-width signs as ASCII ones, so that in Chinese text they have to be made full-width again; and a
mark stands for the time of its training. What may still become something else is held back until what follows is known.
Knows no tokens: of an answer that was changed only the text is kept, and the next prompt has that, as the model's own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from chatbridge.types import Chunk, Finish, Reply

_SIGNS = (",", "!", ":", ";", "?")
_FULL_WIDTH = str.maketrans("".join(_SIGNS), "，！：；？")
_MARK, _YEAR = "[[训练时间]]", "2023年"
_BESIDE_CHINESE = re.compile("(?<=[\u4e00-\u9fff])[,!:;?]|[,!:;?](?=[\u4e00-\u9fff])")


def cleaned(text: str) -> str:
    """A whole answer, put right."""
    return _signs(text.strip().replace(_MARK, _YEAR))


async def cleaned_chunks(chunks: AsyncGenerator[Chunk, None], before: str = "") -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer, put right. `before`: what was shown of it earlier, if it is one that goes on."""
    stream = _Stream(before[-1:])
    async with aclosing(chunks):
        async for chunk in chunks:
            if chunk.thinking:
                yield chunk
                continue
            text = stream.feed(chunk.text)
            if chunk.finish is not None:
                yield replace(chunk, text=text + stream.end(), finish=_finish(chunk.finish))
            elif text or not chunk.text:
                yield replace(chunk, text=text)


def _finish(finish: Finish) -> Finish:
    text = cleaned(finish.reply.text)
    if text == finish.reply.text:
        return finish
    return replace(finish, reply=Reply(text, thoughts=finish.reply.thoughts))


class _Stream:
    """The same answer in pieces. `last`: the character before the next piece."""

    def __init__(self, last: str) -> None:
        self._last, self._held = last, ""

    def feed(self, piece: str) -> str:
        """What can be shown by now."""
        self._held += piece
        keep = _open_mark(self._held) or int(self._held.endswith(_SIGNS))
        return self._take(len(self._held) - keep)

    def end(self) -> str:
        """All that is left."""
        return self._take(len(self._held))

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count].replace(_MARK, _YEAR), self._held[count:]
        shown = _signs(self._last + taken)[len(self._last) :]
        self._last = taken[-1:] or self._last
        return shown


def _signs(text: str) -> str:
    return _BESIDE_CHINESE.sub(lambda sign: sign[0].translate(_FULL_WIDTH), text)


def _open_mark(text: str) -> int:
    """How many characters at the end may become the mark."""
    return next((count for count in range(len(_MARK) - 1, 0, -1) if text.endswith(_MARK[:count])), 0)
