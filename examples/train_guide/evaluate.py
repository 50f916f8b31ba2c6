"""Asks the shipped file every question of an evaluation set and judges the answers by the facts that must be in them.

    python examples/train_guide/evaluate.py --set dev --file chatbridge/bundled/guide.gguf

Greedy, in the NumPy backend, by the model's own chat template: just what `chatbridge repl` does. An answer is right
when it holds every required fact of the intent, or of one that is right as well. What is not right is told apart:
another intent's answer, the other language, a decline of something that the guide knows, an answer to something that
it can't know (or that one of the two declines which fits the other case), or words that it was never taught.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from chatbridge_numpy.backend import NumpyOptions, load
from dialogue import LANGUAGES, Writer, load_answers, load_cases, load_needs

from chatbridge.engine.backend import Request
from chatbridge.engine.engine import Engine
from chatbridge.prompts import presets, render
from chatbridge.sampling import Sampling
from chatbridge.types import Turn

BUNDLED = Path(__file__).parents[2] / "chatbridge" / "bundled" / "guide.gguf"
DECLINES = ("decline", "decline_unknown_chatbridge")
"""Intents whose answer says that the guide can't tell."""

NEAR = 0.9
"""How alike an answer must be to one that was taught, for it not to count as invented."""


def ask(file: Path, questions: list[str], earlier: int = 0) -> list[str]:
    """The guide's answer to each question, asked by itself or after `earlier` other questions and their answers."""
    writer = Writer(seed=3)
    model = load(NumpyOptions(path=file), lambda share, doing: None)
    engine = Engine(model)
    answers = dict.fromkeys(range(len(questions)), "")
    template = presets()["model"]
    for number, question in enumerate(questions):
        talk = [writer.exchange() for _ in range(earlier)]
        turns = [turn for one in talk for turn in (Turn("user", one.question), Turn("assistant", one.answer))]
        rendered = render(template, [*turns, Turn("user", question)], info=model.info)
        sampling = Sampling(temperature=0, max_tokens=200)
        engine.submit(Request(rendered.prompt, id=str(number), sampling=sampling, stop=rendered.stop))
    while not engine.idle:
        for event in engine.step():
            if event.error is not None:
                raise event.error
            if event.chunk is not None and event.chunk.finish is not None:
                answers[int(event.request_id)] = event.chunk.finish.reply.text
    engine.close()
    return list(answers.values())


def judge(case: dict[str, Any], answer: str) -> str:
    """`right`, or in which way an answer is not."""
    language, needs = case["language"], load_needs()
    for intent in (case["intent"], *case.get("also", ())):
        if all(fact in answer for fact in needs[intent][language]):
            return "right"
    known = {(intent, lang): text for intent, texts in load_answers().items() for lang, text in texts.items()}
    said = max(known, key=lambda key: SequenceMatcher(None, known[key], answer, autojunk=False).quick_ratio())
    if SequenceMatcher(None, known[said], answer, autojunk=False).ratio() < NEAR:
        return "invented"
    intent, spoken = said
    if spoken != language:
        return "wrong language"
    if case["intent"] in DECLINES:
        return "wrong decline" if intent in DECLINES else "no decline"
    return "false decline" if intent in DECLINES else "wrong intent"


def evaluate(file: Path, name: str, earlier: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Counts by language, and every case with its answer and verdict; see `ask` for `earlier`."""
    cases = load_cases((name,))
    for case, answer in zip(cases, ask(file, [case["text"] for case in cases], earlier), strict=True):
        case["answer"], case["verdict"] = answer, judge(case, answer)
    counts: dict[str, Any] = {}
    for language in LANGUAGES:
        verdicts = Counter(case["verdict"] for case in cases if case["language"] == language)
        total = sum(verdicts.values())
        honest = sum(case["verdict"] == "right" for case in cases if _beyond(case, language))
        counts[language] = {
            "questions": total,
            "share_right": round(verdicts["right"] / total, 4),
            **verdicts,
            "beyond it": sum(_beyond(case, language) for case in cases),
            "beyond it and declined": honest,
        }
    return counts, cases


def _beyond(case: dict[str, Any], language: str) -> bool:
    return case["language"] == language and case["intent"] in DECLINES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("dev", "validation", "blind"), default="dev", help="which questions")
    parser.add_argument("--file", type=Path, default=BUNDLED, help="the GGUF file")
    parser.add_argument("--earlier", type=int, default=0, help="other questions asked before, in one conversation")
    parser.add_argument("--wrong", action="store_true", help="print what was answered wrongly (not for the blind set)")
    options = parser.parse_args()
    counts, cases = evaluate(options.file, options.set, options.earlier)
    json.dump({options.set: counts}, sys.stdout, ensure_ascii=False, indent=1)
    print()
    if options.wrong and options.set == "dev":
        for case in cases:
            if case["verdict"] != "right":
                print(f"{case['verdict']:<14} {case['intent']:<20} {case['text']}  →  {case['answer'][:90]}")


if __name__ == "__main__":
    main()
