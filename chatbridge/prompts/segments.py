"""A prompt as a row of segments, so that no text can pass for a control token. Knows tokenizers only by protocol.

Only `Special` becomes control ids. Runs of adjacent `Text` are joined and tokenised together with the parsing of
special tokens off, so that honest text gives exactly the reference ids. `Tokens` are an earlier reply's own ids.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def encode(prompt: Prompt, tokenizer: Tokenizer, *, bos: int | None, eos: int | None) -> list[int]:
    """The ids of `prompt`. Raises TemplateError where the model lacks a control token that the template uses."""
    ids: list[int] = []
    run: list[str] = []
    start = True

    def flush() -> None:
        nonlocal start
        if text := "".join(run):
            ids.extend(tokenizer.encode(text, start=start))
            start = False
        run.clear()

    for segment in prompt:
        if isinstance(segment, Text):
            run.append(segment.text)
        elif isinstance(segment, Special):
            flush()
            ids.extend(_special(segment.token, tokenizer, bos, eos))
            start = True
        elif segment.ids:
            flush()
            ids.extend(segment.ids)
            start = False
    flush()
    return ids


def _special(token: str, tokenizer: Tokenizer, bos: int | None, eos: int | None) -> list[int]:
    if not token:
        return []
    if token == "bos":
        return [] if bos is None else [bos]
    found = eos if token == "eos" else tokenizer.special(token)
    if found is None:
        raise TemplateError(f"the template uses the control token {token!r}, which this model does not have")
    return [found]
