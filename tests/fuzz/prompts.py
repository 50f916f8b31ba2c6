"""What must hold of every prompt, whoever wrote what: it has the control tokens and the headers of a harmless one.

Knows templates and how they are rendered; deliberately knows nothing of the guard, and has a plain reading of its own
of what looks alike.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import chatbridge.bots.request
from chatbridge.engine.backend import Request
from chatbridge.prompts import formats
from chatbridge.prompts.formats import Placeholder
from chatbridge.prompts.rendering import render
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens
from chatbridge.prompts.template import Template
from chatbridge.types import ModelInfo, Turn

from .model import control_ids

Report = Callable[[str, str], None]

_LINE_END = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_ENDS = (":", "：", "]", ">")
_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class Made:
    """What a prompt is made of."""

    template: Template
    turns: tuple[Turn, ...]
    info: ModelInfo
    variables: Mapping[str, str]
    continue_last: bool

    def again(self, turns: Sequence[Turn]) -> Prompt:
        return render(
            self.template, turns, info=self.info, variables=self.variables, continue_last=self.continue_last
        ).prompt


class Prompts:
    """Remembers from what each prompt was made, and looks at those that a model is asked with."""

    def __init__(self, report: Report, seed: int) -> None:
        self.looked = 0
        self._report = report
        self._rng = random.Random(seed)
        self._made: OrderedDict[int, tuple[Prompt, Made]] = OrderedDict()

    def remember(self, prompt: Prompt, made: Made) -> None:
        """That a prompt was made of this."""
        self._made[id(prompt)] = (prompt, made)
        if len(self._made) > _REMEMBERED:
            self._made.popitem(last=False)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear of every prompt that is made, as long as the context lasts."""
        place: Any = chatbridge.bots.request  # where prompts are made
        ours = place.render

        def listen(template: Template, turns: Sequence[Turn], *, info: ModelInfo, **about: Any) -> Any:
            rendered = ours(template, turns, info=info, **about)
            variables, continued = about.get("variables") or {}, bool(about.get("continue_last"))
            self.remember(rendered.prompt, Made(template, tuple(turns), info, variables, continued))
            return rendered

        place.render = listen
        try:
            yield
        finally:
            place.render = ours

    def look(self, request: Request, info: ModelInfo) -> None:
        """Report whatever is wrong with a request's prompt."""
        if forged := control_ids(request.prompt):
            self._report("control ids", f"{forged} in an earlier answer")
        if forged := [id for id in request.resume if id >= 256]:
            self._report("control ids", f"{forged} in an answer that goes on")
        found = self._made.pop(id(request.prompt), None)
        if found is None:
            self._report("prompt", "it was made by nobody")
            return
        self.looked += 1
        made = found[1]
        harmless = made.again(_harmless(made.turns))
        if _skeleton(request.prompt) != _skeleton(harmless):
            self._report(
                "control tokens", f"{made.template.name}: {_skeleton(request.prompt)!r} for {_skeleton(harmless)!r}"
            )
        said, meant = _flat(request.prompt), _flat(harmless)
        bare = [turn if turn.trusted else replace(turn, text="x", reply=None) for turn in _harmless(made.turns)]
        written = _flat(made.again(bare))
        for header in headers_of(made.template):
            if (count := _count(header, said, written)) > (wanted := _count(header, meant, written)):
                self._report("header", f"{made.template.name}: {header!r} {count} times, not {wanted}: {said!r}")
        self._impersonated(made)

    def _impersonated(self, made: Made) -> None:
        """One speaker, drawn at random: nobody else's words read as theirs, from when they first spoke."""
        names = sorted({turn.name for turn in made.turns if turn.name.strip()})
        if not names or self._rng.random() < 0.7:
            return
        name = self._rng.choice(names)
        since = next(at for at, turn in enumerate(made.turns) if turn.name == name)
        harmless = _harmless(made.turns, names=False)
        later = [turn if at > since else harmless[at] for at, turn in enumerate(made.turns)]
        said, meant = _flat(made.again(later)), _flat(made.again(harmless))
        head = _looks(_named(made.template, name))
        if head.strip() and (count := _count(head, said, None)) > (wanted := _count(head, meant, None)):
            self._report("impersonation", f"{made.template.name}: {name!r} {count} times, not {wanted}: {said!r}")


def _harmless(turns: Sequence[Turn], *, names: bool = True) -> list[Turn]:
    """The conversation with a word in place of what people have said, and in place of their `names`."""
    called: dict[str, str] = {}
    made: list[Turn] = []
    for turn in turns:
        if turn.role == "assistant" or turn.trusted:
            made.append(turn)
            continue
        name = called.setdefault(turn.name, f"N{len(called)}") if turn.name and names else turn.name
        made.append(replace(turn, text="x", name=name))
    return made


def _skeleton(prompt: Prompt) -> str:
    """The control tokens and the template's own text, put together."""
    parts = (
        f"\0{part.token}\0" if isinstance(part, Special) else part.text if isinstance(part, Text) else ""
        for part in prompt
        if not (isinstance(part, Text) and part.origin == "person")
    )
    return "".join(parts)


def _flat(prompt: Prompt) -> str:
    """All of a prompt as it looks, each control token as one sign."""
    parts = ["\0" if isinstance(part, Special) else part.text for part in prompt if not isinstance(part, Tokens)]
    return _looks("".join(parts))


def _looks(text: str) -> str:
    """A text without what is not seen, in compatibility forms, all in lower case."""
    text = unicodedata.normalize("NFKC", _LINE_END.sub("\n", text)).casefold()
    if text.isascii():
        return re.sub(r"[^\S\n]+", " ", text)
    seen = (" " if char.isspace() and char != "\n" else char for char in text if char in "\n\0" or not _unseen(char))
    return re.sub(" +", " ", "".join(seen))


@cache
def _unseen(char: str) -> bool:
    return unicodedata.category(char) in ("Cf", "Mn", "Me", "Cc", "Co", "Cn") or char in "\ufffc\ufffd"


@cache
def _pattern(header: str, inline: bool) -> re.Pattern[str]:
    inner = r"\s*".join(re.escape(char) for char in header if not char.isspace())
    return re.compile((r"(?<![a-z0-9])" if inline else r"(?:\A|[\n\0])[^\S\n]*") + inner)


def _count(header: str, text: str, written: str | None) -> int:
    """How often a header is in a text: where a line begins, or anywhere if the template has `written` it in lines."""
    inline = written is not None and any(
        written[: found.start()].rstrip(" ")[-1:] not in ("", "\n", "\0")
        for found in _pattern(header, True).finditer(written)
    )
    return sum(1 for _ in _pattern(header, inline).finditer(text))


def _named(template: Template, name: str) -> str:
    parts = formats.parse(template.name_format)
    before = parts[: parts.index(Placeholder("text"))]
    return "".join(part if isinstance(part, str) else name for part in before if not isinstance(part, formats.Control))


@cache
def headers_of(template: Template) -> tuple[str, ...]:
    """What a template writes before a text that says whose it is, as it looks."""
    if template.jinja is not None:
        return ()
    found: dict[str, None] = {}
    for source in (template.user, template.assistant, template.system_turn, template.single or "", template.generate):
        before: str | None = None
        for part in (*formats.parse(source), None):
            if isinstance(before, str) and (part is None or part == Placeholder("text")):
                line = before.rstrip().split("\n")[-1].strip()
                if line.endswith(_ENDS) and any(char.isalpha() for char in line):
                    found[_looks(line)] = None
            before = part if isinstance(part, str) else None
    return tuple(found)
