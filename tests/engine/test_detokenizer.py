"""Text assembly against an obvious reference on the whole text, however that text is cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbridge.engine.detokenizer import CLOSE, OPEN, Assembly, Piece, opens_thinking
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens

SHARDS = ["a", "b", "c", " ", "\n", "é", "你", "好", "😀", "<", OPEN, CLOSE, "<th", "/think>", "#", "### U", "User:"]
STOPS = ["abc", "b", "ca", "### U", "User:", "\n\n", "你好", "😀", " a", "a ", "<b", "\n#"]

TEXTS = st.lists(st.sampled_from(SHARDS), max_size=14).map("".join)
STOP_SETS = st.lists(st.sampled_from(STOPS), max_size=3)


class Told:
    """What came of one reply: the pieces so far and the assembly."""

    def __init__(self, tokens: Sequence[bytes], stops: Sequence[str] = (), *, thinking: bool = False) -> None:
        self.tokens = tokens
        self.pieces: list[Piece] = []
        self.assembly = Assembly(self.decode, stops, thinking=thinking)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.tokens[token] for token in ids)

    def play(self) -> Told:
        for token in range(len(self.tokens)):
            self.pieces += self.assembly.push(token)
            if self.assembly.stopped:
                break
        self.pieces += self.assembly.finish()
        return self

    def said(self, *, thinking: bool = False) -> str:
        return "".join(piece.text for piece in self.pieces if piece.thinking == thinking)

    def raw(self) -> str:
        reply = self.assembly.reply("")
        return self.decode(reply.tokens).decode("utf-8", "replace") + reply.tail


def stopped(text: str, stops: Sequence[str]) -> str:
    """`text` up to the stop string that is complete first (the longest, where several end together)."""
    for end in range(1, len(text) + 1):
        if starts := [end - len(stop) for stop in stops if text[:end].endswith(stop)]:
            return text[: min(starts)]
    return text


def sorted_out(text: str, *, thinking: bool) -> tuple[str, str]:
    """Thoughts and answer of a whole reply."""
    if not thinking:
        if not text.lstrip().startswith(OPEN):
            return "", text.strip()
        text = text.lstrip().removeprefix(OPEN)
    thoughts, _, answer = text.partition(CLOSE)
    return thoughts.strip(), answer.strip()


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` in tokens; equal places make empty ones, as control tokens are."""
    ends = sorted({0, len(data)}) + [place % (len(data) + 1) for place in places]
    return [data[start:end] for start, end in pairwise(sorted(ends))]


@settings(deadline=None, max_examples=400)
@given(text=TEXTS, stops=STOP_SETS, thinking=st.booleans(), places=st.lists(st.integers(0, 100), max_size=40))
@example(text="abc", stops=["abc", "b"], thinking=False, places=[])
@example(text="abc", stops=["abc", "b"], thinking=False, places=[1, 2])
def test_however_text_is_cut_into_tokens(text: str, stops: list[str], thinking: bool, places: list[int]) -> None:
    told = Told(cut(text.encode(), places), stops, thinking=thinking).play()
    raw = stopped(text, stops)
    assert told.raw() == raw
    assert (told.said(thinking=True), told.said()) == sorted_out(raw, thinking=thinking)
    assert told.assembly.reply("toy").text == told.said()
    assert told.assembly.reply("toy").vocabulary == "toy"
    assert told.assembly.stopped == (raw != text)
    assert not any(stop in told.said(thinking=kind) for stop in stops for kind in (True, False))
    assert all(piece.text for piece in told.pieces)


@settings(deadline=None, max_examples=200)
@given(
    data=st.lists(st.sampled_from([b"a", b"\xe4", b"\xbd", b"\xa0", b"\xff", b"\xf0\x9f", b" ", b"b"]), max_size=12),
    stops=st.lists(st.sampled_from(["a", "ab", "你", " b"]), max_size=2),
    places=st.lists(st.integers(0, 100), max_size=20),
)
def test_bytes_that_are_no_text(data: list[bytes], stops: list[str], places: list[int]) -> None:
    whole = b"".join(data)
    told = Told(cut(whole, places), stops).play()
    raw = stopped(whole.decode("utf-8", "replace"), stops)
    assert told.raw() == raw
    assert told.said() == told.assembly.reply("").text == raw.strip()


@settings(deadline=None, max_examples=100)
@given(text=TEXTS, stops=STOP_SETS, thinking=st.booleans())
def test_what_was_shown_is_never_taken_back(text: str, stops: list[str], thinking: bool) -> None:
    """At each moment the shown text begins whatever could still come, stop strings among it."""
    tokens = [bytes([byte]) for byte in text.encode()]
    for count in range(len(tokens)):
        told = Told(tokens[:count], stops, thinking=thinking)
        for token in range(count):
            told.pieces += told.assembly.push(token)
        if told.assembly.stopped:
            break
        so_far = b"".join(tokens[:count]).decode("utf-8", "ignore")
        for end in ["", *stops, *(stop[1:] for stop in stops), CLOSE]:
            thoughts, answer = sorted_out(stopped(so_far + end, stops), thinking=thinking)
            assert thoughts.startswith(told.said(thinking=True))
            assert answer.startswith(told.said())


def test_text_is_shown_as_soon_as_it_can_be() -> None:
    told = Told([b" Hel", b"lo", b" ", b"wor", b"ld\n", b"\xe4\xbd", b"\xa0\xe5", b"U", b"s", b"a"], ["User:"])
    shown = ["".join(piece.text for piece in told.assembly.push(token)) for token in range(10)]
    assert shown == ["Hel", "lo", "", " wor", "ld", "", "\n你", "\ufffd", "", "Usa"]


def test_thoughts_are_told_apart() -> None:
    told = Told([b"\n<thi", b"nk>\n Let me", b" see.\n</thi", b"nk>\n\n", b"Hello </think>"]).play()
    assert told.pieces == [
        Piece("Let me", thinking=True),
        Piece(" see.", thinking=True),
        Piece("Hello </think>"),
    ]


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("<think>on and on", "on and on", ""),
        ("<think>on</thin", "on</thin", ""),
        ("<think></think>yes", "", "yes"),
        ("<thi", "", "<thi"),
        ("so <think>no</think>", "", "so <think>no</think>"),
        ("", "", ""),
        (" \n ", "", ""),
    ],
)
def test_think_tags_that_are_missing_or_out_of_place(text: str, thoughts: str, answer: str) -> None:
    told = Told([bytes([byte]) for byte in text.encode()]).play()
    assert (told.said(thinking=True), told.said()) == (thoughts, answer)


def test_a_stop_string_ends_thoughts_too() -> None:
    told = Told([b"<think>well", b" User", b": hi"], ["User:"]).play()
    assert (told.said(thinking=True), told.said(), told.assembly.stopped) == ("well", "", True)


@pytest.mark.parametrize("tokens", [[b"a", b"\n", b"Us", b"er:"], [b"a", b"\xe3\x80", b"\x82"], [b"a", b"\xe3", b"b"]])
def test_holding_lasts_while_the_end_may_begin_a_stop_string(tokens: list[bytes]) -> None:
    assembly = Told(tokens, ["\nUser:", "\u3002"]).assembly
    holding = []
    for token in range(len(tokens)):
        assembly.push(token)
        holding.append(assembly.holding)
    assert holding == [False, *[True] * (len(tokens) - 2), False]


def test_a_token_cut_by_a_stop_string_is_no_part_of_the_reply() -> None:
    told = Told([b"yes", b"! <", b"|im_end|> no"], ["<|im_end|>"]).play()
    reply = told.assembly.reply("")
    assert (reply.text, reply.tokens, reply.tail) == ("yes!", (0,), "! ")


def test_an_answer_that_ends_inside_a_character_says_so() -> None:
    told = Told([b"ok ", b"\xe4\xbd"]).play()
    assert told.said() == told.assembly.reply("").text == "ok \ufffd"
    assert told.assembly.reply("").tokens == (0, 1)


@pytest.mark.parametrize(
    ("prompt", "thinking"),
    [
        ((Text("hi\nBot:"),), False),
        ((Text("hi\nBot: <think>\n"),), True),
        ((Text("Bot: <th"), Text("ink>\n")), True),
        ((Special("<think>"), Text("\n")), True),
        ((Special("<think>"), Text("\n"), Special("</think>"), Text("\n")), False),
        ((Text("Bot: <think>\n\n</think>\n"),), False),
        ((Text("<think>", "person"),), False),
        ((Text("<thi", "person"), Text("nk>")), False),
        ((Text("Bot:"), Tokens(tuple(b" <think>let me"))), True),
        ((Text("Bot: <think>\n"), Tokens(tuple(b"let me"))), True),
        ((Text("Bot: <think>\n"), Tokens(tuple(b"done</think> so"))), False),
        ((Tokens(tuple(b"<think>let me")), Special("<|im_end|>"), Text("Bot:")), False),
        ((), False),
    ],
)
def test_who_opens_a_think_block(prompt: Prompt, thinking: bool) -> None:
    assert opens_thinking(prompt, bytes) == thinking
