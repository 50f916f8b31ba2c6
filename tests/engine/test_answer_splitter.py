"""Thoughts told from answers by any marks, however the text is cut, and which control tokens end what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.engine.answer_splitter import AnswerSplitter
from chatbridge.engine.backend import Request
from chatbridge.engine.detokenizer import StreamingDetokenizer
from chatbridge.engine.generation import prepare, prompt_ids
from chatbridge.prompts import Text
from chatbridge.prompts.answer_format import COMMON, HARMONY, PLAIN, AnswerFormat, ThinkingMarks
from chatbridge.testing.toy import LETTERS, SPECIALS, ToyModel
from chatbridge.types import ModelInfo

WRAPPED = AnswerFormat(COMMON, between="<response>", end="</response>")
RECIPIENT = AnswerFormat(COMMON, lead="all\n")
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"


def split(pieces: Iterable[str], answer: AnswerFormat, thinking: bool | None = False) -> tuple[str, str, str | None]:
    splitter = AnswerSplitter(answer, thinking)
    deltas = [delta for piece in pieces for delta in splitter.feed(piece)] + splitter.finish()
    texts = ["".join(delta.text for delta in deltas if delta.thinking == kind).strip() for kind in (True, False)]
    return texts[0], texts[1], splitter.frame


CASES: list[tuple[str, AnswerFormat, bool | None, tuple[str, str, str | None]]] = [
    *(
        (f"\n{marks.opening}\nSee.\n{marks.closing}\n\nFour.", PLAIN, False,
         ("See.", "Four.", f"{''.join(marks.opening.split())} {marks.closing} "))
        for marks in COMMON
    ),
    ("See.\n</think>\n\nFour.", PLAIN, True, ("See.", "Four.", " </think> ")),
    ("See.\n</think>\n\nFour.", PLAIN, None, ("See.", "Four.", " </think> ")),
    ("Four, without a thought.", PLAIN, None, ("", "Four, without a thought.", "")),
    ("<thought>See.</thought>Four.", PLAIN, None, ("See.", "Four.", "<thought> </thought> ")),
    ("See.\n</think>\n\nFour.", PLAIN, False, ("", "See.\n</think>\n\nFour.", "")),
    ("<think>See </thinking>.</think>Four.", PLAIN, False, ("See </thinking>.", "Four.", "<think> </think> ")),
    ("<think>S</think><response>\nFour.\n</response> And so on.", WRAPPED, False,
     ("S", "Four.", "<think> </think><response> </response>")),
    ("<think>S</think>Four.", WRAPPED, False, ("S", "Four.", "<think> </think> ")),
    ("<response>Four.</response>", WRAPPED, False, ("", "Four.", "<response>  </response>")),
    ("all\nFour.", RECIPIENT, False, ("", "Four.", "all  ")),
    ("allow me", RECIPIENT, False, ("", "allow me", "")),
    (f"{ANALYSIS}S<|end|>{FINAL}Hello!", HARMONY, False, ("S", "Hello!", f"{ANALYSIS} <|end|>{FINAL} ")),
    ("<|channel|>final<|message|>Hello!", HARMONY, False, ("", "Hello!", "<|channel|>final<|message|>  ")),
    (f"{ANALYSIS}S<|end|><|start|>assistant{ANALYSIS} T<|end|>{FINAL}Hello!", HARMONY, False, ("S T", "Hello!", None)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer", "thinking", "wanted"), CASES)
@given(places=st.lists(st.integers(0, 99), max_size=6))
def test_thoughts_answers_and_marks_are_told_apart_however_the_text_is_cut(
    text: str,
    answer: AnswerFormat,
    thinking: bool | None,
    wanted: tuple[str, str, str | None],
    places: Sequence[int],
) -> None:
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    assert split([text[a:b] for a, b in pairwise(ends)], answer, thinking) == wanted
    assert split(text, answer, thinking) == wanted


def test_another_channel_is_not_for_people_and_the_final_one_is_still_reached() -> None:
    other = "<|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
    thoughts, answer, frame = split([f"{ANALYSIS}S<|end|>{other}{FINAL}Hello!"], HARMONY)
    assert answer == "Hello!"
    assert "Let me look." in thoughts
    assert frame is None


def test_a_plain_answer_is_shown_at_once_and_one_that_may_be_a_thought_only_at_its_end() -> None:
    sure, unsure = AnswerSplitter(PLAIN), AnswerSplitter(PLAIN, None)
    assert [delta.text for delta in sure.feed("Hello")] == ["Hello"]
    assert [delta.text for delta in unsure.feed("Hello")] == []
    assert [delta.text for delta in unsure.finish()] == ["Hello"]


def test_control_tokens_that_are_marks_stand_by_their_names_and_no_stop_text_goes_on_behind_one() -> None:
    names = {300: "[THINK]", 301: "[/THINK]"}
    detokenizer = StreamingDetokenizer(
        lambda ids: bytes(id for id in ids if id < 256), ["Four.No"], answer=PLAIN, marks=names
    )
    deltas = [delta for id in [300, *b"Four.", 301, *b"No, five."] for delta in detokenizer.push(id)]
    reply = detokenizer.reply("v")
    assert "".join(delta.text for delta in deltas if delta.thinking) == reply.thoughts == "Four."
    assert (reply.text, reply.frame, detokenizer.stopped) == ("No, five.", "[THINK] [/THINK] ", False)


def test_what_ends_a_thought_does_not_end_the_answer_and_ends_it_behind_the_thought() -> None:
    model = ToyModel()
    end = LETTERS + SPECIALS.index("<|im_end|>")
    answer = AnswerFormat((ThinkingMarks("<think>", "<|im_end|>"), *COMMON))
    request = Request((Text("Hi"),), stop_tokens=("<|im_end|>",), answer=answer)
    generation = prepare(request, model, 0.0, prompt_ids(request.prompt, model))
    opening = LETTERS + SPECIALS.index("<think>")
    ended = [generation.append([id], 0.0)[0] for id in [opening, *b"so", end, *b"Yes", end]]
    assert ended == [None] * 7 + ["end"]
    reply = generation.detokenizer.reply("toy")
    assert (reply.thoughts, reply.text, reply.frame) == ("so", "Yes", "<think> <|im_end|> ")


def test_the_marks_among_control_tokens_are_those_of_the_format() -> None:
    info = ModelInfo("toy", "x", 9, 9, "f", "v", (1,), specials={"<|end|>": 1, "<|call|>": 2, "": 3, "<|channel|>": 4})
    assert HARMONY.controls(info.specials) == ("<|end|>", "<|channel|>")


NAMES = ("bot: ", "Alice: ", "Bob: ")


def spoken(text: str, thinking: bool | None = False) -> tuple[str, str, str, int]:
    """What comes of an answer in a group, byte by byte: thought, text, tail, and how many of its tokens are kept."""
    detokenizer = StreamingDetokenizer(bytes, speakers=NAMES, thinking=thinking)
    for byte in text.encode():
        detokenizer.push(byte)
        if detokenizer.stopped:
            break
    detokenizer.finish()
    reply = detokenizer.reply("")
    return reply.thoughts or "", reply.text, reply.tail, len(reply.tokens)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hi Alice!\nAlice: thanks, and Bob?\nbot: He is fine.", "Hi Alice!"),
        ("Hi!\nbot: And you?", "Hi!"),
        ("bot: Hi Alice!\nBob: me, too", "Hi Alice!"),
        ("Hi!\nAlicia: no", "Hi!\nAlicia: no"),
        ("Ask Alice: she knows.", "Ask Alice: she knows."),
        ("Alice: is who asks", "Alice: is who asks"),
        ("bo", "bo"),
    ],
)
def test_an_answer_in_a_group_ends_where_it_goes_on_as_a_speaker_and_loses_its_own_name(text: str, shown: str) -> None:
    assert spoken(text)[1] == shown


def test_in_a_thought_anybody_may_be_quoted() -> None:
    thought = "<think>They said:\nAlice: hello\nSo I greet.</think>"
    assert spoken(f"{thought}bot: Hello!\nAlice: hi")[:2] == ("They said:\nAlice: hello\nSo I greet.", "Hello!")


def test_the_ids_of_another_speaker_s_line_are_no_part_of_the_answer() -> None:
    assert spoken("Hi!\nAlice: thanks") == ("", "Hi!", "", 3)


def test_an_answer_that_lost_its_own_name_is_not_as_it_was_sampled() -> None:
    detokenizer = StreamingDetokenizer(bytes, speakers=NAMES)
    for byte in b"bot: Hi":
        detokenizer.push(byte)
    assert detokenizer.reply("").frame == "bot:  "


def test_a_mark_within_the_answer_is_a_control_token_like_any_other_and_has_no_text() -> None:
    names = {300: "<|channel|>", 301: "<|message|>", 302: "<|end|>", 303: "<|start|>"}
    detokenizer = StreamingDetokenizer(lambda ids: bytes(id for id in ids if id < 256), answer=HARMONY, marks=names)
    for id in [300, *b"final", 301, *b"Hel", 303, 300, *b"lo", 302]:
        detokenizer.push(id)
    detokenizer.finish()
    reply = detokenizer.reply("v")
    assert (reply.thoughts, reply.text, reply.frame) == ("", "Hello", "<|channel|>final<|message|>  ")


def test_in_a_thought_a_line_of_somebody_may_come_as_one_token() -> None:
    pieces = [b"<think>", b"They said", b"\nAlice: ", b"hello</think>", b"Hi!", b"\nAlice: ", b"hello"]
    detokenizer = StreamingDetokenizer(lambda ids: b"".join(pieces[id] for id in ids), speakers=NAMES)
    for id in range(6):
        assert not detokenizer.stopped
        detokenizer.push(id)
    assert detokenizer.stopped
    assert (detokenizer.reply("").thoughts, detokenizer.reply("").text) == ("They said\nAlice: hello", "Hi!")
