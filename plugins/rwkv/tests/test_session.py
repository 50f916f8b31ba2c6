"""A recorded session of ChatRWKV's `v2/chat.py`, said again to chatbridge: the same ids, turn after turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from chatbridge_rwkv.model import RwkvModel

from chatbridge import Plugins, Reply, Request, Sampling, Tokens, Turn
from chatbridge.engine.engine import Engine
from chatbridge.prompts import render
from chatbridge.prompts.segments import encode
from chatbridge.testing import finish_all

from .conftest import V4, opened, recorded

SESSION = recorded("chat_session.json")
DEFAULTS = SESSION["defaults"]
END_OF_ANSWER = [SESSION["toy_ids"]["END_OF_LINE"]] * 2
ASIDE = ("+qq ", "+i ", "+gen ")
GREEDY = Sampling(
    temperature=0,
    top_k=0,
    min_p=0,
    presence_penalty=DEFAULTS["GEN_alpha_presence"],
    frequency_penalty=DEFAULTS["GEN_alpha_frequency"],
    max_tokens=999,
)
"""The session was recorded with top_p 0, which always takes the likeliest."""


@pytest.fixture(scope="module")
def model() -> RwkvModel:
    return opened(
        V4,
        alpha_decay=DEFAULTS["GEN_penalty_decay"],
        avoid_repeat=SESSION["toy_ids"]["AVOID_REPEAT"],
        chat_length=(DEFAULTS["CHAT_LEN_SHORT"], DEFAULTS["CHAT_LEN_LONG"]),
        token_ban=(SESSION["toy_ids"]["END_OF_TEXT"],),
        uncounted="",
    )


@pytest.fixture(scope="module")
def free() -> RwkvModel:
    """As `+gen`, `+i` and `+qq` go on: nothing hurries a line's end, and the end token ends it."""
    return opened(V4, avoid_repeat=SESSION["toy_ids"]["AVOID_REPEAT"], uncounted="")


def message_of(turn: dict[str, Any]) -> str:
    """What was said, without the options of chat.py."""
    return re.sub(r" ?-(?:top_p|temp)=\S+", "", turn["message"])


def answered(model: RwkvModel, ids: Sequence[int], *stop: str, **sampling: object) -> Reply:
    """What the model says after these ids, through the engine."""
    request = Request((Tokens(tuple(ids)),), id="r", sampling=GREEDY.model_copy(update=sampling), stop=stop)
    return finish_all(Engine(model), [request])["r"].reply


def test_the_chat_is_repeated(model: RwkvModel) -> None:
    alice = Plugins(discover=False).templates["rwkv-raven-alice"]
    engine = Engine(model)
    conversation: list[Turn] = []
    last = ""
    said = 0
    chats = [turn for turn in SESSION["turns"] if not turn["message"].startswith((*ASIDE, "++"))]
    for turn in chats:
        message = message_of(turn)
        if message == "+reset":
            conversation = []
            continue
        if message == "+":  # the same again
            conversation, message = conversation[:-2], last
        last = message
        if not conversation:
            conversation = [Turn("system", SESSION["init_prompt_text"], trusted=True)]
        conversation.append(Turn("user", message))
        rendered = render(alice, conversation, info=model.info)
        request = Request(rendered.prompt, id="r", sampling=GREEDY, stop=rendered.stop)
        reply = finish_all(engine, [request])["r"].reply
        ids = encode(rendered.prompt, model.tokenizer, bos=None, eos=0)
        assert [*ids, *reply.tokens, *END_OF_ANSWER] == turn["tokens_after"]
        conversation.append(Turn("assistant", reply.text, reply=reply))
        said += 1
    assert said == len([turn for turn in chats if turn["message"] != "+reset"]) > 2
    assert engine.stats()["tokens_reused"] > engine.stats()["tokens_read"]


@pytest.mark.parametrize(
    "turn", [turn for turn in SESSION["turns"] if turn["message"].startswith(ASIDE)], ids=message_of
)
def test_free_generation_is_repeated(free: RwkvModel, turn: dict[str, Any]) -> None:
    after = turn["tokens_after"]
    command, _, text = message_of(turn).partition(" ")
    prompt = {
        "+qq": f"\nQ: {text}\nA:",
        "+i": "\nBelow is an instruction that describes a task. Write a response that appropriately completes the "
        f"request.\n\n# Instruction:\n{text}\n\n# Response:\n",
        "+gen": f"\n{text}",
    }[command]
    ids = free.tokenizer.encode(prompt, start=True)
    assert after[: len(ids)] == ids
    reply = answered(free, ids, max_tokens=len(after) - len(ids))
    assert [*ids, *reply.tokens] == after
