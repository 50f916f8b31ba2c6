"""A recorded session of ChatRWKV's `v2/chat.py`, said again to chatbridge: the same ids, turn after turn."""

from __future__ import annotations

from collections.abc import Sequence

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


def answered(model: RwkvModel, ids: Sequence[int], *stop: str, **sampling: object) -> Reply:
    """What the model says after these ids, through the engine."""
    request = Request((Tokens(tuple(ids)),), id="r", sampling=GREEDY.model_copy(update=sampling), stop=stop)
    return finish_all(Engine(model), [request])["r"].reply


def test_the_chat_is_repeated(model: RwkvModel) -> None:
    alice = Plugins(discover=False).templates["rwkv-raven-alice"]
    engine = Engine(model)
    conversation: list[Turn] = []
    chats = [turn for turn in SESSION["turns"] if "Alice:" in turn["printed"]]
    said = 0
    for turn in chats:
        message = turn["message"].replace("-top_p=0", "")
        if message == "+reset":
            conversation = []
            continue
        if message.strip() == "+":  # the same again
            conversation = conversation[:-2]
            message = [t for t in chats if not t["message"].startswith("+")][1]["message"].replace("-top_p=0", "")
        if not conversation:
            conversation = [Turn("system", SESSION["init_prompt_text"], trusted=True)]
        conversation.append(Turn("user", message))
        rendered = render(alice, conversation, info=model.info)
        request = Request(rendered.prompt, id="r", sampling=GREEDY, stop=rendered.stop)
        reply = finish_all(engine, [request])["r"].reply
        ids = encode(rendered.prompt, model.tokenizer, bos=None, eos=0)
        assert [*ids, *reply.tokens] == turn["tokens_after"][:-2]
        assert turn["tokens_after"][-2:] == [199, 199]  # which end the answer
        conversation.append(Turn("assistant", reply.text, reply=reply))
        said += 1
    assert said == 4
    assert engine.stats()["tokens_reused"] > engine.stats()["tokens_read"]


@pytest.mark.parametrize("message", ["+qq what is a fox", "+i Write a story", "+gen The fox"])
def test_free_generation_is_repeated(free: RwkvModel, message: str) -> None:
    (after,) = [turn["tokens_after"] for turn in SESSION["turns"] if turn["message"].startswith(message)]
    command, _, text = message.partition(" ")
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
