"""A prompt as a row of segments, so that no text can pass for a control token. Knows tokenizers only by protocol.

Only `Special` becomes control ids. Runs of adjacent `Text` are joined and tokenised together with the parsing of
special tokens off, so that honest text gives exactly the reference ids. `Tokens` are an earlier reply's own ids.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from chatbridge.errors import TemplateError

Origin = Literal["template", "person"]


@dataclass(frozen=True, slots=True)
class Special:
    """A control token by its text (`<|im_end|>`), or by its part: `bos`, `eos`.

    `bos` becomes nothing where the model wants none. `eos` is the first of `ModelInfo.eos`. The empty token is a
    border: it gives no id, and the text on either side is tokenised by itself.
    """

    token: str


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, from the template or from a person."""

    text: str
    origin: Origin = "template"


@dataclass(frozen=True, slots=True)
class Tokens:
    """An earlier reply as it was sampled; `text` is what the ids say, for people to read."""

    ids: tuple[int, ...]
    text: str = ""


Segment = Special | Text | Tokens
Prompt = tuple[Segment, ...]


class Tokenizer(Protocol):
    """A model's tokenizer; safe to call from any thread."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text; never a control id, whatever it says.

        `start`: this text begins the prompt or follows a control token (SentencePiece models then put their
        dummy space before it); otherwise it continues an earlier reply.
        """
        ...

    def special(self, token: str) -> int | None:
        """The id of a control token, or None if this model has none of that text."""
        ...

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes that ids stand for, control tokens giving none; decoded pieces joined equal the whole."""
        ...


_BLANKS = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space, the blanks of Hugging Face's tokenizers. `str.strip` would take \\x1c to \\x1f as well."""


def encode(
    prompt: Prompt,
    tokenizer: Tokenizer,
    *,
    bos: int | None,
    eos: int | None,
    lstrip: Container[int] = (),
    rstrip: Container[int] = (),
) -> list[int]:
    """The ids of `prompt`. Raises TemplateError where the model lacks a control token that the template uses.

    `lstrip`, `rstrip`: control tokens that take in the blanks before and behind them, see `ModelInfo`. Ids of earlier
    replies stay as they were sampled.
    """
    ids: list[int] = []
    run: list[str] = []
    start, stripping = True, False  # what the next text comes after: a control token, and one that takes in blanks

    def flush(*, before: int | None = None) -> None:
        nonlocal start, stripping
        text = "".join(run)
        run.clear()
        text = text.lstrip(_BLANKS) if stripping else text
        text = text.rstrip(_BLANKS) if before in lstrip else text
        if text:
            ids.extend(tokenizer.encode(text, start=start))
            start = stripping = False

    for segment in prompt:
        if isinstance(segment, Text):
            run.append(segment.text)
        elif isinstance(segment, Special):
            found = _special(segment.token, tokenizer, bos, eos)
            flush(before=found)
            if found is not None:
                ids.append(found)
                stripping = found in rstrip
            start = True
        elif segment.ids:
            flush()
            ids.extend(segment.ids)
            start = stripping = False
    flush()
    return ids


def _special(token: str, tokenizer: Tokenizer, bos: int | None, eos: int | None) -> int | None:
    """The id of a control token; None for a border, and for the bos of a model that wants none."""
    if not token:
        return None
    if token == "bos":
        return bos
    found = eos if token == "eos" else tokenizer.special(token)
    if found is None:
        raise TemplateError(f"the template uses the control token {token!r}, which this model does not have")
    return found
