"""Turns token ids into the text that people see: whole characters, no stop strings, no blanks around.

Done once, here, for every backend. Knows bytes and strings; knows no model and no chat service.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence

from chatbridge.engine.answer_splitter import AnswerSplitter, TextDelta
from chatbridge.prompts.answer_format import PLAIN, AnswerFormat, ThinkingMarks
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens
from chatbridge.types import Reply

Decode = Callable[[Sequence[int]], bytes]


class StreamingDetokenizer:
    """The text of one reply as it grows.

    `decode` gives the bytes of ids. `stop`: strings that end the reply; they are never shown, not even in part.
    `thinking`: the prompt has opened a thought already, by the first marks of `answer`; None where nobody knows.
    `answer`: how this model writes answers. `marks`: the names of control tokens that are part of that, by id.
    `speakers`: see `Request`.
    `stopped` is set once a stop string is complete. The texts of all deltas that are no thoughts, put together, are
    always exactly `reply(...).text`.
    """

    def __init__(
        self,
        decode: Decode,
        stop: Sequence[str] = (),
        *,
        thinking: bool | None = False,
        answer: AnswerFormat = PLAIN,
        marks: Mapping[int, str] | None = None,
        speakers: Sequence[str] = (),
    ) -> None:
        self.stopped = False
        self._decode = decode
        self._marks = marks or {}
        self._stop = StopTexts(stop)
        self._speakers = StopTexts([f"\n{head}" for head in speakers])
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[int] = []
        self._raw = ""
        self._ends: list[int | None] = []  # len(_raw) after each token; None inside a character
        self._splitter = AnswerSplitter(answer, thinking, own_head=speakers[0] if speakers else "")
        self._emitted = 0  # how much of _raw was handed to the splitter
        self._answer = _Trimmed()
        self._thoughts = _Trimmed()

    @property
    def thinking(self) -> bool:
        """Whether the next token belongs to a thought."""
        return self._splitter.thinking

    @property
    def in_partial_stop(self) -> bool:
        """Whether the last token may be the beginning of a stop string: part of its text, or of a character."""
        return bool(self._utf8.getstate()[0]) or self._begun > 0

    @property
    def _begun(self) -> int:
        """How much may be the beginning of what ends the reply."""
        return max(self._stop.begun, self._speakers.begun)

    def push(self, token: int) -> list[TextDelta]:
        """Take in one more token and return what can be shown now. Sets `stopped` at a stop string."""
        self._tokens.append(token)
        if (mark := self._marks.get(token)) is not None:
            return self._push_mark(mark)
        before = len(self._raw)
        self._raw += self._utf8.decode(self._decode([token]))
        whole = not self._utf8.getstate()[0]
        self._ends.append(len(self._raw) if whole else None)
        new = self._raw[before:]
        ends = [self._stop.find(new), None if self.thinking else self._speakers.find(new)]
        cuts = [cut for cut in ends if cut is not None]
        if cuts:
            self._raw = self._raw[: before + min(cuts)]
            self.stopped = True
        deltas = self._emit(withheld=0 if cuts else self._begun)
        if self.thinking:  # there a line may begin with anybody's name
            self._speakers.forget()
        return deltas

    def _push_mark(self, mark: str) -> list[TextDelta]:
        """A control token, which has no text; no stop string goes on behind it."""
        self._raw += self._utf8.decode(b"", final=True) + (mark if self._splitter.takes(mark) else "")
        self._stop.forget()
        self._speakers.forget()
        self._ends.append(len(self._raw))
        return self._emit(withheld=0)

    def finish(self) -> list[TextDelta]:
        """What was withheld and can be shown after all, now that nothing follows."""
        if not self.stopped:
            self._raw += self._utf8.decode(b"", final=True)
        deltas = self._emit(withheld=0)
        return [*deltas, *self._trimmed(self._splitter.finish())]

    def reply(self, vocabulary: str) -> Reply:
        """The reply so far, as it is kept."""
        kept = len(self._tokens)
        tail = ""
        if self.stopped:
            ends = [(i + 1, end) for i, end in enumerate(self._ends) if end is not None and end <= len(self._raw)]
            kept, end = ends[-1] if ends else (0, 0)
            tail = self._raw[end:]
        return Reply(
            self._answer.text, tuple(self._tokens[:kept]), tail, vocabulary, self._thoughts.text, self._splitter.frame
        )

    def _emit(self, *, withheld: int) -> list[TextDelta]:
        """What can be shown now of the raw text, but for its last `withheld` characters."""
        # Text passes three filters, and each may keep back an end that what follows decides about: a stop string begun
        # (`withheld`), a mark begun (the splitter), blanks that may be the last (`_Trimmed`). `_emitted` never
        # goes back: where a stop string is found, only characters that were withheld are cut off.
        end = len(self._raw) - withheld
        new, self._emitted = self._raw[self._emitted : end], max(end, self._emitted)
        return self._trimmed(self._splitter.feed(new))

    def _trimmed(self, deltas: list[TextDelta]) -> list[TextDelta]:
        return [
            TextDelta(text, delta.thinking)
            for delta in deltas
            if (text := (self._thoughts if delta.thinking else self._answer).add(delta.text))
        ]


class _Trimmed:
    """Text without blanks around: leading ones are dropped, later ones wait until something follows."""

    def __init__(self) -> None:
        self.text = ""
        self._blanks = ""

    def add(self, text: str) -> str:
        text = self._blanks + text
        if not self.text:
            text = text.lstrip()
        shown = text.rstrip()
        self._blanks = text[len(shown) :]
        self.text += shown
        return shown


class StopTexts:
    """Texts that end an answer, looked for in text that comes in pieces. `begun`: how much of one has come already.

    By Knuth, Morris and Pratt: each character is looked at once for each text, whatever these are. People choose them.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(text for text in texts if text)
        self._borders = tuple(map(_borders, self._texts))
        self._matched = [0] * len(self._texts)

    @property
    def begun(self) -> int:
        return max(self._matched, default=0)

    def forget(self) -> None:
        """What came so far is no beginning of a stop text any more."""
        self._matched = [0] * len(self._texts)

    def find(self, text: str) -> int | None:
        """Where the one begins that is complete first in what came so far; counted from the beginning of `text`."""
        if not self._texts:
            return None
        for end, char in enumerate(text, start=1):
            begins = [
                end - len(stop)
                for at, stop in enumerate(self._texts)
                if (self._matched[at] or char == stop[0]) and self._advance(at, char) == len(stop)
            ]
            if begins:
                self.forget()
                return min(begins)
        return None

    def _advance(self, at: int, char: str) -> int:
        stop, borders, matched = self._texts[at], self._borders[at], self._matched[at]
        while matched and stop[matched] != char:
            matched = borders[matched - 1]
        self._matched[at] = matched = matched + (stop[matched] == char)
        return matched


def _borders(text: str) -> list[int]:
    """For each beginning of the text, how long its longest beginning is that it also ends with."""
    borders = [0]
    for char in text[1:]:
        length = borders[-1]
        while length and text[length] != char:
            length = borders[length - 1]
        borders.append(length + (text[length] == char))
    return borders


def opens_thinking(prompt: Prompt, decode: Decode, answer: AnswerFormat = PLAIN) -> ThinkingMarks | None:
    """By which marks the answer to `prompt` begins inside a thought, opened by the template or by what it continues.

    A person's `<think>` opens nothing: the answer would be hidden.
    """
    opening, reply = "", ""
    for segment in reversed(prompt):
        if isinstance(segment, Special):
            opening = segment.token + opening
        elif isinstance(segment, Text) and segment.origin == "template":
            opening = segment.text + opening
        elif isinstance(segment, Tokens) and segment is prompt[-1]:
            reply = decode(segment.ids).decode("utf-8", "replace")
        else:
            break
    opening, reply = opening.rstrip(), reply.lstrip()
    for marks in answer.thinking:
        begun = opening.endswith(marks.opening.rstrip()) or reply.startswith(marks.opening)
        if marks.opening and begun and marks.closing not in reply:
            return marks
    return None
