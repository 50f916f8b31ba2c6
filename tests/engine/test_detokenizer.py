"""Text assembly against an obvious reference on the whole text, however that text is cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbridge.engine.answer_splitter import TextDelta
from chatbridge.engine.detokenizer import StreamingDetokenizer, opens_thinking
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens

OPEN, CLOSE = "<think>", "</think>"
SHARDS = ["a", "b", "c", " ", "\n", "é", "你", "好", "😀", "<", OPEN, CLOSE, "<th", "/think>", "#", "### U", "User:"]
STOPS = ["abc", "b", "ca", "### U", "User:", "\n\n", "你好", "😀", " a", "a ", "<b", "\n#"]

TEXTS = st.lists(st.sampled_from(SHARDS), max_size=14).map("".join)
STOP_SETS = st.lists(st.sampled_from(STOPS), max_size=3)


class Stream:
    """What came of one reply: the pieces so far and the assembly."""

    def __init__(self, tokens: Sequence[bytes], stops: Sequence[str] = (), *, thinking: bool = False) -> None:
        self.tokens = tokens
        self.deltas: list[TextDelta] = []
        self.detokenizer = StreamingDetokenizer(self.decode, stops, thinking=thinking)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.tokens[token] for token in ids)

    def play(self) -> Stream:
        for token in range(len(self.tokens)):
            self.deltas += self.detokenizer.push(token)
            if self.detokenizer.stopped:
                break
        self.deltas += self.detokenizer.finish()
        return self

    def shown(self, *, thinking: bool = False) -> str:
        return "".join(delta.text for delta in self.deltas if delta.thinking == thinking)

    def raw(self) -> str:
        reply = self.detokenizer.reply("")
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


@settings(deadline=None)
@given(text=TEXTS, stops=STOP_SETS, thinking=st.booleans(), places=st.lists(st.integers(0, 100), max_size=40))
@example(text="abc", stops=["abc", "b"], thinking=False, places=[])
@example(text="abc", stops=["abc", "b"], thinking=False, places=[1, 2])
def test_however_text_is_cut_into_tokens(text: str, stops: list[str], thinking: bool, places: list[int]) -> None:
    stream = Stream(cut(text.encode(), places), stops, thinking=thinking).play()
    raw = stopped(text, stops)
    assert stream.raw() == raw
    assert (stream.shown(thinking=True), stream.shown()) == sorted_out(raw, thinking=thinking)
    assert stream.detokenizer.reply("toy").text == stream.shown()
    assert stream.detokenizer.reply("toy").vocabulary == "toy"
    assert stream.detokenizer.stopped == (raw != text)
    assert not any(stop in stream.shown(thinking=kind) for stop in stops for kind in (True, False))
    assert all(delta.text for delta in stream.deltas)


@settings(deadline=None)
@given(
    data=st.lists(st.sampled_from([b"a", b"\xe4", b"\xbd", b"\xa0", b"\xff", b"\xf0\x9f", b" ", b"b"]), max_size=12),
    stops=st.lists(st.sampled_from(["a", "ab", "你", " b"]), max_size=2),
    places=st.lists(st.integers(0, 100), max_size=20),
)
def test_bytes_that_are_no_text(data: list[bytes], stops: list[str], places: list[int]) -> None:
    whole = b"".join(data)
    stream = Stream(cut(whole, places), stops).play()
    raw = stopped(whole.decode("utf-8", "replace"), stops)
    assert stream.raw() == raw
    assert stream.shown() == stream.detokenizer.reply("").text == raw.strip()


@settings(deadline=None)
@given(text=TEXTS, stops=STOP_SETS, thinking=st.booleans())
def test_what_was_shown_is_never_taken_back(text: str, stops: list[str], thinking: bool) -> None:
    """At each moment the shown text begins whatever could still come, stop strings among it."""
    tokens = [bytes([byte]) for byte in text.encode()]
    for count in range(len(tokens)):
        stream = Stream(tokens[:count], stops, thinking=thinking)
        for token in range(count):
            stream.deltas += stream.detokenizer.push(token)
        if stream.detokenizer.stopped:
            break
        so_far = b"".join(tokens[:count]).decode("utf-8", "ignore")
        for end in ["", *stops, *(stop[1:] for stop in stops), CLOSE]:
            thoughts, answer = sorted_out(stopped(so_far + end, stops), thinking=thinking)
            assert thoughts.startswith(stream.shown(thinking=True))
            assert answer.startswith(stream.shown())


def test_text_is_shown_as_soon_as_it_can_be() -> None:
    stream = Stream([b" Hel", b"lo", b" ", b"wor", b"ld\n", b"\xe4\xbd", b"\xa0\xe5", b"U", b"s", b"a"], ["User:"])
    shown = ["".join(delta.text for delta in stream.detokenizer.push(token)) for token in range(10)]
    assert shown == ["Hel", "lo", "", " wor", "ld", "", "\n你", "\ufffd", "", "Usa"]


def test_thoughts_are_told_apart() -> None:
    stream = Stream([b"\n<thi", b"nk>\n Let me", b" see.\n</thi", b"nk>\n\n", b"Hello </think>"]).play()
    assert stream.deltas == [
        TextDelta("Let me", thinking=True),
        TextDelta(" see.", thinking=True),
        TextDelta("Hello </think>"),
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
    stream = Stream([bytes([byte]) for byte in text.encode()]).play()
    assert (stream.shown(thinking=True), stream.shown()) == (thoughts, answer)


def test_a_stop_string_ends_thoughts_too() -> None:
    stream = Stream([b"<think>well", b" User", b": hi"], ["User:"]).play()
    assert (stream.shown(thinking=True), stream.shown(), stream.detokenizer.stopped) == ("well", "", True)


@pytest.mark.parametrize("tokens", [[b"a", b"\n", b"Us", b"er:"], [b"a", b"\xe3\x80", b"\x82"], [b"a", b"\xe3", b"b"]])
def test_holding_lasts_while_the_end_may_begin_a_stop_string(tokens: list[bytes]) -> None:
    detokenizer = Stream(tokens, ["\nUser:", "\u3002"]).detokenizer
    in_partial_stop = []
    for token in range(len(tokens)):
        detokenizer.push(token)
        in_partial_stop.append(detokenizer.in_partial_stop)
    assert in_partial_stop == [False, *[True] * (len(tokens) - 2), False]


def test_a_token_cut_by_a_stop_string_is_no_part_of_the_reply() -> None:
    stream = Stream([b"yes", b"! <", b"|im_end|> no"], ["<|im_end|>"]).play()
    reply = stream.detokenizer.reply("")
    assert (reply.text, reply.tokens, reply.tail) == ("yes!", (0,), "! ")


def test_an_answer_that_ends_inside_a_character_says_so() -> None:
    stream = Stream([b"ok ", b"\xe4\xbd"]).play()
    assert stream.shown() == stream.detokenizer.reply("").text == "ok \ufffd"
    assert stream.detokenizer.reply("").tokens == (0, 1)


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
        ((Text("<think>"), Text("hi", "person"), Special("<think>")), True),
        ((Text("<think>"), Text("hi", "person"), Text("\n")), False),
        ((Special("<think>"), Text("hi", "person"), Text("\n")), False),
        ((), False),
    ],
)
def test_who_opens_a_think_block(prompt: Prompt, thinking: bool) -> None:
    assert (opens_thinking(prompt, bytes) is not None) == thinking


@pytest.mark.parametrize("length", range(1, len(CLOSE)))
def test_only_what_may_be_the_end_of_a_thought_is_held_back(length: int) -> None:
    stream = Stream([b"<think>so", CLOSE[:length].encode(), b"."])
    detokenizer = stream.detokenizer
    assert [detokenizer.push(token) for token in range(3)] == [
        [TextDelta("so", thinking=True)],
        [],
        [TextDelta(CLOSE[:length] + ".", thinking=True)],
    ]


def test_where_one_token_holds_a_whole_stop_text_and_the_beginning_of_another_all_before_it_is_shown() -> None:
    stream = Stream([b"a", b"b.c"], [".", "cd"])
    assert [stream.detokenizer.push(token) for token in range(2)] == [[TextDelta("a")], [TextDelta("b")]]


def test_a_reply_that_is_cut_ends_with_a_whole_character() -> None:
    stream = Stream([b"a", b"\xe4", b"\xbd\xa0 so", b"!"], ["so"]).play()
    reply = stream.detokenizer.reply("")
    assert (reply.text, reply.tokens, reply.tail) == ("a你", (0,), "你 ")
    stream = Stream([b"a", b"\xe4", b"\xff!"], ["\ufffd"]).play()
    reply = stream.detokenizer.reply("")
    assert (reply.text, reply.tokens, reply.tail) == ("a", (0,), "")
