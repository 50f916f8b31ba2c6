"""A Jinja chat template at work: it is told of a conversation with sentinels for contents, and cut at these.

What lies between contents is the template's own text, in which the model's control tokens are looked for. Knows no
turn, and what contents say, but for the configuration's own system text: templates look for switches there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from chatbridge.errors import TemplateError
from chatbridge.prompts.answer_format import frame_parts
from chatbridge.prompts.jinja_renderer import JinjaRenderer, TemplateLimitError
from chatbridge.prompts.probing import Probed
from chatbridge.prompts.segments import Special, Text
from chatbridge.prompts.telling import FORMS, Form, Options
from chatbridge.types import ModelInfo, Role

# Private-use characters have no upper case; the blanks around tell whether the template strips its contents; and
# the backslash does not survive quoting as JSON, whose quotes a person could otherwise close.
_SENTINEL = "\u2003\ue000{}\\\ue001\u2003"
_SENTINELS = re.compile("(\u2003?)\ue000([\ue100-\uf8ff]+)\\\\\ue001(\u2003?)")
_BOS, _EOS = "\ue002", "\ue003"
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_JOINT = "\n"


@dataclass(frozen=True, slots=True)
class Message:
    """One entry for the template: its role, which contents it is made of, and which one is its thought, if any.

    `frame`: the marks that the answer was written with, see `Reply`.
    """

    role: Role
    contents: tuple[int, ...]
    thought: int | None = None
    frame: str | None = None

    def __or__(self, other: Message) -> Message:
        return Message(other.role, (*self.contents, *other.contents))

    def told(self, probed: Probed, text_of: Callable[[int], str]) -> dict[str, str]:
        """As the template gets it: the thought by its key, or within the content where the template knows no key."""
        content = _JOINT.join(map(text_of, self.contents))
        if self.thought is None:
            return {"role": self.role, "content": content}
        thought, answer = text_of(self.thought), probed.answer
        if probed.key:
            return {"role": self.role, "content": content, probed.key: thought}
        marks = answer.marks_of(self.frame)
        if (frame_parts(self.frame) or ("", "", ""))[2]:
            content = f"{answer.between}\n{content}\n{answer.end}"
        return {"role": self.role, "content": f"{marks.opening}\n{thought}\n{marks.closing}\n\n{content}"}


@dataclass(frozen=True, slots=True)
class Content:
    """A sentinel found in the output: which content goes there, and whether the template strips it left or right.

    `shown`: where the template got to see the content, what it has made of that, and numbers of pieces that it did not
    see.
    """

    index: int
    lstrip: bool
    rstrip: bool
    shown: tuple[str | int, ...] | None = None


Part = str | Special | Content


@dataclass(frozen=True, slots=True)
class Plan:
    """Messages that tell the template of the conversation. `note`: what is other than asked for, in words."""

    messages: tuple[Message, ...]
    note: str = ""

    def thinking(self, turns: Mapping[int, str | None], first: int) -> Plan:
        """The same with the thoughts of these turns, whose indices begin at `first`; how each was framed."""
        messages = (
            replace(entry, thought=first + entry.contents[0], frame=turns[entry.contents[0]])
            if entry.role == "assistant" and entry.contents[0] in turns
            else entry
            for entry in self.messages
        )
        return Plan(tuple(messages), self.note)


@dataclass(frozen=True, slots=True)
class Shown:
    """The system text as the template may see it: what the configuration says, since it looks for switches there.

    `index`: the content's. What people wrote, a value of {user} for instance, has a sentinel in its place here, too.
    """

    index: int
    pieces: tuple[Text, ...]

    @classmethod
    def of(cls, index: int, pieces: Sequence[Text]) -> Shown | None:
        """None where there is nothing to see, or it can't be told from sentinels."""
        seen = [piece.text for piece in pieces if piece.origin == "template"]
        return cls(index, tuple(pieces)) if any(seen) and not any(map(_PRIVATE.search, seen)) else None

    def told(self, *, bare: bool) -> str:
        """What stands for it in a message. `bare`: without the sentinels around it, where nothing of it remains."""
        text = "".join(
            piece.text if piece.origin == "template" else _sentinel(self.index + 2 + at)
            for at, piece in enumerate(self.pieces)
        )
        return text if bare else f"{_sentinel(self.index)}{text}{_sentinel(self.index + 1)}"

    def gathered(self, first: Content, rest: Iterator[str | Content]) -> Content:
        """The content that begins at `first`, with all up to its end. Raises TemplateError where it is in disorder."""
        shown: list[str | int] = []
        for part in rest:
            if isinstance(part, str):
                shown.append(part)
            elif part.index == self.index + 1:
                wanted = [at for at, piece in enumerate(self.pieces) if piece.origin != "template"]
                if [at for at in shown if isinstance(at, int)] == wanted:
                    return replace(first, rstrip=part.rstrip, shown=tuple(shown))
                break
            else:
                shown.append(part.index - self.index - 2)
        raise TemplateError("the model's chat template takes the system text apart")

    def texts(self, content: Content) -> list[Text]:
        """The system text as the template has left it."""
        return [Text(part) if isinstance(part, str) else self.pieces[part] for part in content.shown or ()]


@dataclass(slots=True)
class Chat:
    """A chat template, for one model."""

    source: str
    info: ModelInfo
    renderer: JinjaRenderer
    form: Form = FORMS[0]
    options: Options = field(default_factory=dict)
    now: str = ""
    shown: Shown | None = None
    probed: Probed = field(default_factory=Probed)

    def write(self, messages: Sequence[Message], *, generate: bool) -> list[Part]:
        """The pieces of the prompt. Raises TemplateError unless every content is there once, and no thought twice."""
        shown = self.shown
        if shown is not None and any(shown.index in entry.contents for entry in messages):
            try:
                parts = self._write(messages, generate, shown)
                content = next(part for part in parts if isinstance(part, Content) and part.index == shown.index)
                if any(isinstance(part, int) or part.strip() for part in content.shown or ()):
                    return parts
                return self._write(messages, generate, shown, bare=True)
            except TemplateLimitError:
                raise
            except TemplateError:
                pass  # it can't do with the text: it gets a sentinel
        return self._write(messages, generate)

    def _write(
        self, messages: Sequence[Message], generate: bool, shown: Shown | None = None, *, bare: bool = False
    ) -> list[Part]:
        def told(index: int) -> str:
            return shown.told(bare=bare) if shown is not None and index == shown.index else _sentinel(index)

        output = self.output([entry.told(self.probed, told) for entry in messages], generate)
        parts = self.cut(output, None if bare else shown)
        found = sorted(part.index for part in parts if isinstance(part, Content))
        thoughts = [entry.thought for entry in messages if entry.thought is not None]
        if any(found.count(thought) > 1 for thought in thoughts):
            raise TemplateError("the model's chat template writes the thought of an answer twice")
        found = [index for index in found if index not in thoughts]
        hidden = {shown.index} if shown is not None and bare else set()
        wanted = sorted(index for message in messages for index in message.contents if index not in hidden)
        if found != wanted:
            lost = next(entry.role for entry in messages if any(found.count(i) != 1 for i in entry.contents))
            raise TemplateError(
                f"the model's chat template does not give the text of a {lost} turn back exactly once; choose "
                "another template with `template:` (chatbridge templates lists them)"
            )
        return parts

    def output(self, messages: Sequence[Mapping[str, str]], generate: bool) -> str:
        """What the template writes, with marks for BOS and EOS."""
        bos, eos = _BOS if self.info.bos is not None else "", _EOS if self.info.eos else ""
        values = self.form.values(messages, generate=generate, bos=bos, eos=eos, options=self.options)
        return self.renderer.output(self.source, values, now=self.now)

    def named(self, messages: Sequence[Mapping[str, str]], generate: bool) -> str:
        """The same with the end token by its name, and without BOS."""
        end = next((name for name, id in self.info.specials.items() if id in self.info.eos[:1]), "")
        return self.output(messages, generate).replace(_BOS, "").replace(_EOS, end)

    def cut(self, output: str, shown: Shown | None = None) -> list[Part]:
        """An output in pieces: contents, control tokens, and the template's own text."""
        pieces: list[str | Content] = []
        end = 0
        for match in _SENTINELS.finditer(output):
            pieces += [output[end : match.start()], _content(match)]
            end = match.end()
        parts: list[Part] = []
        rest = iter([*pieces, output[end:]])
        for piece in rest:
            if isinstance(piece, str):
                parts += self._controls(piece)
            else:
                whole = shown is not None and piece.index == shown.index
                parts.append(shown.gathered(piece, rest) if shown is not None and whole else piece)
        return parts

    def _controls(self, text: str) -> list[Part]:
        """The template's own text, with its control tokens told apart, the longest first."""
        names = sorted((name for name in self.info.specials if name and name in text), key=len, reverse=True)
        split = re.split("(" + "|".join(map(re.escape, (_BOS, _EOS, *names))) + ")", text)
        return [self._control(part) if at % 2 else part for at, part in enumerate(split) if part]

    def _control(self, token: str) -> Special:
        added = self.info.added_bos
        bos = token == _BOS or (added is not None and self.info.specials.get(token) == added)
        return Special("bos" if bos else "eos" if token == _EOS else token)


def plans_for(roles: Sequence[Role], system: bool) -> list[Plan]:
    """Ways to tell the conversation, the plain one first. The system text has the index after the turns'."""
    turns = [Message(role, (at,)) for at, role in enumerate(roles)]
    plans = []
    if system:
        text = Message("system", (len(turns),))
        plans.append(Plan((text, *turns)))
        note = "the model's chat template takes no system text: it stands before the first message instead"
        if turns and turns[0].role == "user":
            plans.append(Plan((text | turns[0], *turns[1:]), note))
        else:
            plans.append(Plan((Message("user", text.contents), *turns), note))
    else:
        plans.append(Plan(tuple(turns)))
        if turns and turns[0].role == "assistant":
            note = "the model's chat template wants a message first: an empty one stands before the answer"
            plans.append(Plan((Message("user", (-1,)), *turns), note))
    return plans


def first_that_works(chat: Chat, plans: Sequence[Plan], *, generate: bool) -> tuple[list[Part], str]:
    failed: TemplateError | None = None
    for plan in plans:
        try:
            return chat.write(plan.messages, generate=generate), plan.note
        except TemplateLimitError:
            raise
        except TemplateError as error:
            failed = failed or error
    raise failed or TemplateError("there is nothing to render")


def _sentinel(index: int) -> str:
    return _SENTINEL.format("".join(chr(0xE100 + int(digit)) for digit in str(index + 1)))


def _content(match: re.Match[str]) -> Content:
    index = int("".join(str(ord(char) - 0xE100) for char in match[2])) - 1
    return Content(index, lstrip=not match[1], rstrip=not match[3])
