"""Prompts as token ids: the reference's own for honest text, and stable beginnings from turn to turn."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from chatbridge.errors import TemplateError
from chatbridge.prompts import Prompt, Special, Text, Tokens, presets, render
from chatbridge.prompts.segments import encode
from chatbridge.types import ModelInfo, Reply, Turn

from .tokenizers import Family, there

FORMATTED = [name for name, preset in presets().items() if preset.jinja is None]
TWO_WAY = {"chatglm-6b", "glm-130b"}
"""Their models read the prompt in both directions, so nothing of it can be kept from turn to turn."""


def recorded(path: str) -> Any:
    return json.loads(there(path).read_text(encoding="utf-8"))


def cases() -> list[tuple[str, str, list[int]]]:
    """Text and ids as the original tokenizers gave them."""
    llama, glm = recorded("llama/tokenizer_cases.json"), recorded("chatglm/tokenizer_cases.json")
    bloom = recorded("belle-bloom/reference_hf.json")["tokenizer"]
    # The layer above ChatGLM's SentencePiece model takes typed control tokens for real; that is what we prevent.
    typed = ("[gMASK]", "<pad>")
    return [
        *(("llama", case["text"], case["sp_ids"]) for case in llama["llama"]),
        *(("chinese-alpaca", case["text"], case["sp_ids"]) for case in llama["chinese_alpaca"]),
        *(("chatglm", case["text"], case["ids"]) for case in glm["cases"] if not case["text"].startswith(typed)),
        *(("belle-bloom", case["text"], case["ids"]) for case in bloom),
    ]


def test_ids_are_the_reference_ids(tokenizers_by_name: dict[str, Family]) -> None:
    for name, text, ids in cases():
        family = tokenizers_by_name[name]
        bos = [] if family.info.bos is None else [family.info.bos]
        assert family.ids((Special("bos"), Text(text, "person"))) == bos + ids, (name, text)
        # However a text is divided between the template and people, it is tokenised as one.
        halves = (Text(text[: len(text) // 2]), Text(text[len(text) // 2 :], "person"))
        assert family.ids(halves) == ids, (name, text)


def test_chatglm_prompts_have_the_ids_of_its_own_chat(tokenizers_by_name: dict[str, Family]) -> None:
    family = tokenizers_by_name["chatglm"]
    for case in recorded("chatglm/reference.json")["chat"]:
        turns = [turn for q, a in case["history"] for turn in (Turn("user", q), Turn("assistant", a))]
        prompt = render(presets()["chatglm-6b"], [*turns, Turn("user", case["query"])], info=family.info).prompt
        assert family.ids(prompt) == case["input_ids"]


def test_rwkv_prompts_have_the_ids_of_its_own_chat(tokenizers_by_name: dict[str, Family]) -> None:
    family = tokenizers_by_name["rwkv"]
    session = recorded("rwkv/chat_session.json")
    line_end = session["toy_ids"]["END_OF_LINE"]
    alice = presets()["rwkv-raven-alice"]
    turns = [Turn("system", session["init_prompt_text"], trusted=True)]
    start = len(session["init_ids"])
    for spoken in itertools.takewhile(lambda turn: not turn["message"].startswith("+"), session["turns"]):
        message = re.sub(r"-(?:top_p|temp)=\S+", "", spoken["message"])
        turns.append(Turn("user", message))
        ids = family.ids(render(alice, turns, info=family.info).prompt)
        after = spoken["tokens_after"]
        assert ids == after[: len(ids)]
        assert len(ids) > start
        # What the model said; the reference ends it with two line ends, as the next prompt does.
        assert after[-2:] == [line_end, line_end]
        start = len(after)
        turns.append(Turn("assistant", "…", reply=Reply("…", tuple(after[len(ids) : -2]), "", "rwkv")))


def test_belle_llama_encodes_each_block_by_itself(tokenizers_by_name: dict[str, Family]) -> None:
    family = tokenizers_by_name["llama"]
    turns = [Turn("user", "hello"), Turn("assistant", "hi there"), Turn("user", "bye")]
    blocks = ["Human: \nhello\n\nAssistant: \n", "hi there", "Human: \nbye\n\nAssistant: \n"]
    first, second, third = (family.tokenizer.encode(block, start=True) for block in blocks)
    assert family.ids(render(presets()["belle-llama-ext"], turns, info=family.info).prompt) == [
        *first, *second, family.info.eos[0], *third,
    ]  # fmt: skip


def test_a_control_token_that_the_model_lacks_is_an_error(tokenizers_by_name: dict[str, Family]) -> None:
    with pytest.raises(TemplateError, match=r"'<\|nothing\|>', which this model does not have"):
        tokenizers_by_name["llama"].ids((Special("<|nothing|>"),))


@pytest.mark.parametrize("preset", FORMATTED)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_next_turn_extends_this_one(preset: str, data: st.DataObject) -> None:
    if preset in TWO_WAY:
        return
    vocabulary = Bytes()
    info = ModelInfo("bytes", "toy", 4096, 999, "bytes", "bytes", (257,), 256)
    texts = st.text(max_size=30) | st.sampled_from(["### Response:", "Bob: hi\n\nAlice: ho", "a\r\n\r\nb", " x "])
    turns: list[Turn] = []
    before: list[int] = []
    segments: Prompt = ()
    for _ in range(data.draw(st.integers(1, 5))):
        turns.append(Turn("user", data.draw(texts), name=data.draw(st.sampled_from(["", "Carol", "Bob", "D\n:"]))))
        prompt = render(presets()[preset], turns, info=info).prompt
        ids = encode(prompt, vocabulary, bos=256, eos=257)
        assert ids[: len(before)] == before
        assert flat(prompt).startswith(flat(segments))
        sampled = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=5))
        reply = Reply("fine", tuple(sampled), data.draw(st.text(max_size=2)), "bytes")
        turns.append(Turn("assistant", reply.text, reply=reply))
        going_on = render(presets()[preset], turns, info=info, continue_last=True).prompt
        said = [*reply.tokens, *reply.tail.encode("utf-8", "replace")]
        before, segments = ids + said, (*prompt, Tokens(reply.tokens, reply.text), Text(reply.tail))
        assert encode(going_on, vocabulary, bos=256, eos=257) == before
        if random.Random(len(before)).random() < 0.3:  # sometimes somebody asks again without an answer
            turns.pop()
            before, segments = [], ()


def flat(prompt: Prompt) -> str:
    """The segments in a row, whichever of them were put together."""
    return "".join(part.text if isinstance(part, Text) else f"\0{part!r}\0" for part in prompt)


AROUND = st.text(st.sampled_from("ab \n\t\r\v\f\x1c\x85\u00a0\u2028\u3000\u200b"), max_size=6)


@given(texts=st.lists(AROUND, min_size=3, max_size=3))
@example(texts=["\n hi \n", " there\n", "\n"])
@settings(deadline=None)
def test_blanks_beside_control_tokens_that_take_them_in_are_the_librarys(texts: list[str]) -> None:
    first, second, last = texts
    library = byte_level(AddedToken("<|user|>", rstrip=True), AddedToken("<|sep|>", lstrip=True, rstrip=True))
    user, sep = (library.token_to_id(name) for name in ("<|user|>", "<|sep|>"))
    prompt = (
        Special("<|user|>"), Text(first, "person"), Special("<|sep|>"), Text(second), Special("<|user|>"), Text(last),
    )  # fmt: skip
    whole = f"<|user|>{first}<|sep|>{second}<|user|>{last}"
    ids = encode(prompt, ByLibrary(library), bos=None, eos=None, lstrip={sep}, rstrip={user, sep})
    assert ids == library.encode(whole).ids


def test_blanks_of_a_sampled_reply_stay_behind_a_token_that_takes_blanks_in() -> None:
    vocabulary = Bytes()
    token = vocabulary.special("<|user|>")
    prompt = (Special("<|user|>"), Text("\n"), Special(""), Text(" "), Tokens((32, 65)), Text(" b "))
    ids = encode(prompt, vocabulary, bos=None, eos=None, rstrip={token})
    assert ids == [token, 32, 65, 32, 98, 32]


def byte_level(*added: AddedToken) -> Tokenizer:
    """A tokenizer of single bytes with these control tokens."""
    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: at for at, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(list(added))
    return tokenizer


class ByLibrary:
    """A tokenizer of the library as chatbridge wants one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, start: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def special(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def decode(self, tokens: Sequence[int]) -> bytes:
        raise NotImplementedError


class Bytes:
    """One id a byte; the control tokens of the presets behind them."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def special(self, token: str) -> int:
        return 300 + sum(map(ord, token)) % 600

    def decode(self, tokens: list[int]) -> bytes:
        return bytes(tokens)
