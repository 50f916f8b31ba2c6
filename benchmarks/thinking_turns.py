"""What conversations with thoughts cost with each chat template of a folder, and whether its prompts are its own.

    python benchmarks/thinking_turns.py FOLDER [--turns 8]

FOLDER holds `*.jinja` files, such as llama.cpp's `models/templates`. For each, a model that thinks as the template
expects it answers a conversation, by bytes in the place of tokens. Printed are the tokens that are read again each turn
(what the prompt before and the answer do not cover), the same for states that can't be trimmed, how many answers went
back as text, and whether a thought's marks are alone or double where the template itself would not write them so. Ends
with 1 where anything is odd.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chatbridge import Reply, TemplateError
from chatbridge.engine.detokenizer import StreamingDetokenizer, opens_thinking
from chatbridge.engine.generation import settled
from chatbridge.engine.prefix_cache import common_prefix
from chatbridge.prompts import Prompt, Special, Text, presets, render
from chatbridge.prompts.answer_format import AnswerFormat
from chatbridge.prompts.jinja import probed
from chatbridge.prompts.rendered import RenderedPrompt
from chatbridge.prompts.segments import encode
from chatbridge.types import ModelInfo, Turn

_CONTROLS = re.compile(
    r"<\|[^|<>\s{}]{1,40}\|>|<｜[^｜<>{}]{1,40}｜>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]"
)
_LETTERS = 256
_THOUGHT = "They ask about number {n}. I count the steps, look at each of them again, and then I say it in one line."
_ANSWER = "The answer to question {n} is {n}, as you may have guessed."


class _Bytes:
    """A tokenizer of bytes and control tokens."""

    def __init__(self, names: Sequence[str]) -> None:
        self.ids = {name: _LETTERS + at for at, name in enumerate(names)}

    def encode(self, text: str, *, start: bool) -> list[int]:
        return list(text.encode())

    def special(self, token: str) -> int | None:
        return self.ids.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        return bytes(token for token in tokens if token < _LETTERS)

    def sampled(self, text: str) -> list[int]:
        """The ids that a model writes a text with, in which control tokens stand by their names."""
        names = sorted(filter(None, self.ids), key=len, reverse=True)
        pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
        return [id for piece in pieces for id in ([self.ids[piece]] if piece in self.ids else piece.encode())]


@dataclass
class Measured:
    """A conversation: tokens read again each turn, also where states can't be trimmed, and what is odd in prompts."""

    again: list[int]
    untrimmable: list[int]
    rewritten: int
    odd: list[str]


def measure(source: str, count: int) -> Measured:
    """Hold a conversation of `count` turns. Raises TemplateError for a template that refuses it."""
    names = list(dict.fromkeys(_CONTROLS.findall(source)))
    tokenizer = _Bytes(names)
    info = ModelInfo("bench", "x", 1 << 20, 1 << 10, "f", "v", (), specials=tokenizer.ids, chat_template=source)
    found = probed(source, info)
    ends = tuple(id for name, id in tokenizer.ids.items() if found.turn_end.lstrip().startswith(name))
    info = replace(info, eos=ends[:1])
    answer = probed(source, info).answer
    turns: list[Turn] = []
    again, untrimmable, odd = [], [], []
    before: list[int] = []
    kept: list[int] = []  # lengths of the states that can't be trimmed
    made = None
    for number in range(1, count + 1):
        turns.append(Turn("user", f"What about question {number}?"))
        made = render(presets()["model"], turns, info=info)
        ids = encode(made.prompt, tokenizer, bos=info.bos, eos=info.eos[0] if info.eos else None)
        shared = common_prefix(before, ids)
        again.append(len(ids) - shared)
        untrimmable.append(len(ids) - max((length for length in kept if length <= shared), default=0))
        odd += _odd(made, turns, info, number)
        sampled = tokenizer.sampled(_written(answer, made.prompt, number))
        reply = _reply(made, sampled, tokenizer, info)
        turns.append(Turn("assistant", reply.text, reply=reply))
        if reply.text != _ANSWER.format(n=number):
            odd.append(f"turn {number}: the answer is shown as {reply.text!r}")
        before = [*ids, *sampled]
        kept += [settled(made.prompt, ids, tokenizer, info), len(before)]
    assert made is not None
    return Measured(again, untrimmable, made.rewritten, list(dict.fromkeys(odd)))


def _written(answer: AnswerFormat, prompt: Prompt, number: int) -> str:
    """What the model writes, by the template's own marks."""
    opened = opens_thinking(prompt, bytes, answer)
    marks = opened or answer.thinking[0]
    thought = f"\n{_THOUGHT.format(n=number)}\n{marks.closing}\n\n"
    between = answer.between or ""
    if answer.block_head or marks.opening.endswith("|>"):
        thought = thought.strip().replace("\n", "")
    return ("" if opened else marks.opening) + thought + between + _ANSWER.format(n=number) + answer.end


def _reply(made: RenderedPrompt, sampled: Sequence[int], tokenizer: _Bytes, info: ModelInfo) -> Reply:
    opened = opens_thinking(made.prompt, tokenizer.decode, made.answer)
    rest = tuple(marks for marks in made.answer.thinking if marks != opened)
    answer = made.answer if opened is None else replace(made.answer, thinking=(opened, *rest))
    marks = {tokenizer.ids[name]: name for name in answer.controls(tokenizer.ids)}
    detokenizer = StreamingDetokenizer(tokenizer.decode, thinking=opened is not None, answer=answer, marks=marks)
    for token in sampled:
        detokenizer.push(token)
    detokenizer.finish()
    return detokenizer.reply(info.vocabulary)


def _odd(made: RenderedPrompt, turns: Sequence[Turn], info: ModelInfo, number: int) -> list[str]:
    """Where marks are alone or double, and the template by itself would not write them so."""
    own = [replace(turn, reply=turn.reply and replace(turn.reply, vocabulary="")) for turn in turns]
    wanted = _flat(render(presets()["model"], own, info=info).prompt)
    got = _flat(made.prompt)
    if got == wanted:
        return []
    texts = {text for marks in made.answer.thinking[:1] for text in (marks.opening, marks.closing) if text}
    counts = [f"{text!r} {got.count(_squeezed(text))} for {wanted.count(_squeezed(text))}" for text in sorted(texts)]
    return [f"turn {number}: not the template's text ({', '.join(counts)})"]


def _flat(prompt: Prompt) -> str:
    texts = []
    for part in prompt:
        text = part.token if isinstance(part, Special) else part.text if isinstance(part, Text) else _ids(part.ids)
        texts.append(text)
    return _squeezed("".join(texts))


def _ids(ids: Sequence[int]) -> str:
    return bytes(id for id in ids if id < _LETTERS).decode()


def _squeezed(text: str) -> str:
    return "".join(text.split())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--only", default="", help="a part of the names of the templates to try")
    options = parser.parse_args()
    print("| template | read again, turns 2 on | states that can't be trimmed | rewritten | odd |")
    print("|---|---|---|---|---|")
    odd = False
    for path in sorted(path for path in options.folder.glob("*.jinja") if options.only in path.stem):
        try:
            one = measure(path.read_text(encoding="utf-8"), options.turns)
        except TemplateError as error:
            print(f"| {path.stem} | refused: {str(error)[:80]} | | | |")
            continue
        odd |= bool(one.odd)
        rows = (" ".join(map(str, row[1:])) for row in (one.again, one.untrimmable))
        print(f"| {path.stem} | {' | '.join(rows)} | {one.rewritten} | {'; '.join(one.odd[:2]) or 'nothing'} |")
    return int(odd)


if __name__ == "__main__":
    raise SystemExit(main())
