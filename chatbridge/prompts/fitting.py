"""Fits a conversation to the context: which turns stay, so that there is room and the prompt begins as before.

Old turns go in blocks, half of them at a time. Leaving out one a message would change how each prompt begins,
and the model would have to read all of it anew. Knows no template and no tokenizer: it is told counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from chatbridge.errors import PromptTooLong
from chatbridge.prompts.segments import Prompt, Text, Tokens
from chatbridge.types import Turn

MAX_BYTES_PER_TOKEN = 16
"""More bytes a token does not stand for on average, in any text that people write; ordinary are three to six."""


MAX_TOKENS_PER_BYTE = 12
"""More tokens one byte never becomes: a token is a byte at least, and no character's compatibility form (NFKC), which
some tokenizers read in its place, has more than eleven times its bytes."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The turns that fit. `dropped`: how many stay out. `start`: the first kept one, for next time."""

    turns: tuple[Turn, ...]
    dropped: int
    start: int


async def fit(
    turns: Sequence[Turn],
    *,
    count: Callable[[list[Turn]], Awaitable[int]],
    context_length: int,
    reserve: int,
    start: int = 0,
) -> Fitted:
    """The longest end of a conversation, in blocks, whose prompt leaves `reserve` tokens for the answer.

    `count`: how many tokens the prompt of these turns has. `start`: what the last fit of the conversation gave, an
    index of `turns`, so that prompts go on beginning there. System turns stay, and so does everything from
    the last message on.
    Raises: PromptTooLong where the last message does not even fit alone.
    """
    spoken = [at for at, turn in enumerate(turns) if turn.role != "system"]
    asked = max((at for at in spoken if turns[at].role == "user"), default=spoken[-1] if spoken else 0)
    room = context_length - reserve
    start = _not_at_an_answer(turns, min(start, asked), asked)
    while True:
        kept = [turn for at, turn in enumerate(turns) if turn.role == "system" or at >= start]
        old = [at for at in spoken if start <= at < asked]
        # What can't fit by far is not even counted: a long history would be rendered and tokenised for nothing.
        size = sum(len(turn.text.encode("utf-8", "replace")) for turn in kept)
        if (not old or size <= MAX_BYTES_PER_TOKEN * room) and (tokens := await count(kept)) <= room:
            return Fitted(tuple(kept), len(turns) - len(kept), start)
        if not old:
            raise PromptTooLong(
                f"the message and the system text are {tokens} tokens long, and {max(0, room)} fit: the context "
                f"has {context_length}, of which {reserve} are kept for the answer; shorten the message, or set a "
                "larger context_length or smaller max_tokens"
            )
        half = old[len(old) // 2] if len(old) > 1 else asked
        start = _not_at_an_answer(turns, half, asked)


def max_tokens(prompt: Prompt) -> int:
    """So many tokens a prompt has at most, whatever the tokenizer."""
    return sum(
        len(part.ids)
        if isinstance(part, Tokens)
        else 1 + (MAX_TOKENS_PER_BYTE * len(part.text.encode("utf-8", "replace")) if isinstance(part, Text) else 0)
        for part in prompt
    )


def _not_at_an_answer(turns: Sequence[Turn], start: int, asked: int) -> int:
    """`start`, or the next message after it: an answer makes no sense without its question."""
    if start == 0:
        return 0
    return next((at for at in range(start, asked) if turns[at].role == "user"), asked)
