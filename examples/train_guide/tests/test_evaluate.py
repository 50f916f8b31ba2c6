"""How answers are judged, held against answers whose worth is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
from dialogue import LANGUAGES, load_answers
from evaluate import judge

ANSWERS = load_answers()


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_taught_answer_is_right_for_its_intent_and_wrong_for_the_others(language: str) -> None:
    for intent, other in pairwise(ANSWERS):
        answer = ANSWERS[intent][language]
        assert judge({"intent": intent, "language": language}, answer) == "right"
        assert judge({"intent": other, "language": language}, answer) != "right"


@pytest.mark.parametrize(
    ("asked", "said", "verdict"),
    [
        ("reset", ("undo", "en"), "wrong intent"),
        ("reset", ("reset", "zh"), "wrong language"),
        ("reset", ("decline", "en"), "false decline"),
        ("decline", ("reset", "en"), "no decline"),
        ("decline", ("decline_unknown_chatbridge", "en"), "wrong decline"),
    ],
)
def test_what_is_wrong_with_an_answer(asked: str, said: tuple[str, str], verdict: str) -> None:
    intent, language = said
    assert judge({"intent": asked, "language": "en"}, ANSWERS[intent][language]) == verdict


def test_another_intent_that_is_right_as_well_counts() -> None:
    case = {"intent": "reset", "also": ["undo"], "language": "en"}
    assert judge(case, ANSWERS["undo"]["en"]) == "right"


@pytest.mark.parametrize("answer", ["", "`/reset` begins the song of the sea.", "Banana."])
def test_words_that_were_never_taught_are_invented(answer: str) -> None:
    assert judge({"intent": "undo", "language": "en"}, answer) == "invented"
