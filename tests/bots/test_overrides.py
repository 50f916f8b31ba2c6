"""What a person may set, by /set or in a file for /load: within bounds, and never so that an answer forges a turn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbridge import Author, Bot, Bridge, Channel, CommandContext, CommandError, Message, Notice, Options, Plugins
from chatbridge.bots.overrides import KEYS, loadable
from chatbridge.bots.stored_overrides import sound
from chatbridge.config import Admins, BotSettings, ChannelSettings, ModelSettings, Settings, SettingsSource
from chatbridge.engine.sampler import LogitsSampler
from chatbridge.sampling import MAX_TOKENS, Sampling
from chatbridge.testing import ToyOptions, bridge_with, plugin_of
from chatbridge.testing.toy import BOS, EOS, VOCABULARY, ToyTokenizer, toy_backend

from .conftest import ALONE, Say, command

IM_START = ToyTokenizer().special("<|im_start|>")
IM_END = ToyTokenizer().special("<|im_end|>")

ODD = (
    "\\x", "\\N{foo}", "\\ud800", "-1", "nan", ".nan", "inf", "1e999", "-1e999", "9" * 26, "9" * 5000, "0x" + "f" * 250,
    "a:b", ":", "1:", ":1", "9" * 20 + ":1", "1:nan", "1:1e999", "true", "null", "1e9", "[]", "{}", "x" * 3000, "1_0",
)  # fmt: skip
NUMBERS = st.integers().map(str) | st.floats().map(str)
PAIRS = st.lists(st.tuples(st.integers(), st.floats())).map(lambda them: " ".join(f"{a}:{b}" for a, b in them))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(KEYS), value=st.sampled_from(ODD) | NUMBERS | PAIRS | st.text(max_size=50))
async def test_whatever_is_said_is_set_within_bounds_or_refused_in_words(bot: Bot, key: str, value: str) -> None:
    try:
        said: object = await command(bot, f"/set {key} {value}")
    except CommandError as error:
        said = Notice(str(error))
    assert isinstance(said, Notice)
    assert key in said.text
    assert len(said.text) < 4000
    conversation = await bot.dialogue(ALONE).conversation()
    assert sound(conversation.overrides) == (conversation.overrides, [])


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        ("penalty_window 1e9", str(MAX_TOKENS)),
        ("max_tokens " + "9" * 26, str(MAX_TOKENS)),
        ("top_k 2000000000", str(MAX_TOKENS)),
        ("stop " + "x" * 257, "256 characters"),
        ("logit_bias " + " ".join(f"{n}:-1" for n in range(301)), "300 entries"),
        ("logit_bias 5:-1001", "-1000"),
        ("adapter " + "x" * 201, "200 characters"),
    ],
)
async def test_a_refusal_names_the_bound(bot: Bot, value: str, bound: str) -> None:
    with pytest.raises(CommandError, match=bound):
        await command(bot, f"/set {value}")


async def test_control_tokens_are_made_likelier_by_nobody(bot: Bot, say: Say) -> None:
    await command(bot, f"/set logit_bias {VOCABULARY}:1")  # no model is loaded that could tell; its engine will
    await command(bot, "/set logit_bias default")
    await say("hello")
    for bad in (f"{IM_START}:0.1", f"5:1 {BOS}:1000", f"{VOCABULARY}:-1"):
        with pytest.raises(CommandError, match="logit_bias can't"):
            await command(bot, f"/set logit_bias {bad}")
    for good in (f"{EOS}:5", f"{EOS}:-5", f"{IM_START}:-1000", "5:1000", f"{IM_END}:3"):
        assert isinstance(await command(bot, f"/set logit_bias {good}"), Notice)


def test_every_bound_can_be_sampled_with() -> None:
    logits = [1.0, -3.0, 2.0, 0.5]
    import numpy as np

    for name, values in EXTREMES.items():
        for value in values:
            sampling = Sampling.model_validate({"seed": 1, "repeat_penalty": 1.1, name: value})
            sampler = LogitsSampler(sampling, [1, 2], 0)
            assert 0 <= sampler.sample(np.array(logits)) < 4, (name, value)


EXTREMES: dict[str, list[object]] = {
    "temperature": [0, 5e-324, 10],
    "top_k": [0, 1, MAX_TOKENS],
    "top_p": [5e-324, 1],
    "min_p": [0, 1],
    "typical_p": [5e-324, 1],
    "repeat_penalty": [0.1, 10],
    "presence_penalty": [-2, 2],
    "frequency_penalty": [-2, 2],
    "penalty_window": [0, 1, MAX_TOKENS],
    "seed": [0, 2**63 - 1],
    "max_tokens": [1, MAX_TOKENS],
    "logit_bias": [{0: 1000, 1: -1000}],
}


def test_the_extremes_are_complete() -> None:
    assert {*EXTREMES, "stop"} == {*Sampling.model_fields}


async def test_settings_of_an_older_row_are_left_out_alone(bot: Bot) -> None:
    dialogue = bot.dialogue(ALONE)
    odd = {"sampling": {"penalty_window": 10**10, "top_k": 7}, "thinking": "loud", "system": "Be kind.", "what": 1}
    await dialogue.override("history", False)
    conversation = await dialogue.conversation()
    await bot.services.store.set_overrides(conversation.id, {**conversation.overrides, **odd})
    settings = await dialogue.settings()
    assert (settings.system, settings.history, settings.sampling.top_k) == ("Be kind.", False, 7)
    assert (settings.thinking, settings.sampling.penalty_window) == ("hide", 64)
    await command(bot, "/set top_k 8")
    assert "what" not in (await dialogue.conversation()).overrides


@pytest.mark.parametrize("row", [[], "x", 3, None, [{"system": "x"}]])
def test_a_row_that_is_no_mapping_sets_nothing(row: object) -> None:
    assert sound(row)[0] == {}  # type: ignore[arg-type]


async def test_a_system_text_has_a_length_however_long_messages_may_be(tmp_path: Path) -> None:
    defaults = ChannelSettings(max_text=1024, reply_to="always")
    async with bridge_with(toy_backend, tmp_path / "store", defaults=defaults) as bridge:
        with pytest.raises(CommandError, match="100000 characters"):
            await command(bridge.bot("bot"), "/system " + "x" * 100_001)
        assert isinstance(await command(bridge.bot("bot"), "/system " + "x" * 100_000), Notice)


def saved(path: Path, **fields: object) -> Path:
    node = {"id": 1, "parent": None, "role": "user", "text": "hi", "created": 0.0, "trusted": True, "reply": None}
    path.write_text(json.dumps({"chatbridge": 1, "head": 1, "overrides": {}, "nodes": [node], **fields}))
    return path


async def test_a_file_sets_what_commands_could_set_and_no_more(bot: Bot, tmp_path: Path) -> None:
    given = {
        "sampling": {"top_k": 3, "penalty_window": 10**10},
        "model": "short",
        "template": "nothing",
        "system": "S",
        "aliases": {"+x": "/usage"},
        "reply_to": "always",
    }
    answer = await command(bot, f"/load {saved(tmp_path / 'a.json', overrides=given)}")
    assert isinstance(answer, Notice)
    for key in ("penalty_window", "template", "aliases", "reply_to"):
        assert key in answer.text
    kept = dict((await bot.dialogue(ALONE).conversation()).overrides)
    assert kept == {"sampling": {"top_k": 3}, "model": "short", "system": "S"}
    assert isinstance(ChannelSettings.model_validate(kept), ChannelSettings)
    assert not any(node.trusted for node in await bot.dialogue(ALONE).path())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"chatbridge": 1, "x": ' + "9" * 5000 + "}", "digits"),
        ("\x00", "it is no JSON"),
        ('{"chatbridge": 1, "head": null, "nodes": {}}', "nodes"),
    ],
)
async def test_a_file_of_no_use_is_refused_in_words(bot: Bot, tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(Exception, match=words) as caught:
        await command(bot, f"/load {file}")
    assert type(caught.value).__name__ in ("CommandError", "StoreError")


async def test_a_file_too_large_is_refused(bot: Bot, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as large:
        large.truncate(33 << 20)
    with pytest.raises(CommandError, match="more than 32 MiB"):
        await command(bot, f"/load {file}")


@pytest.mark.parametrize(("user", "kept"), [("1", {"system", "sampling"}), ("7", set())])
async def test_a_file_gives_nobody_what_commands_would_refuse(tmp_path: Path, user: str, kept: set[str]) -> None:
    own = BotSettings("bot", "fake", Options(), admins=Admins(users=frozenset({"1"})))
    async with bridge_with(toy_backend, tmp_path / "store", bots=[own]) as bridge:
        room = Channel("room", kind="group")
        message = Message("1", room, Author(user, "Ann"), "/load file")
        context = CommandContext(bridge.bot("bot").dialogue(room), message, "en")
        found, left_out = await loadable(context, {"system": "Be kind.", "sampling": {"top_k": 3}})
    assert set(found) == kept
    assert set(left_out) == {"system", "sampling"} - kept


@asynccontextmanager
async def adapted(folder: Path) -> AsyncIterator[Bot]:
    """A bot with a model that has adapters, and one that has none."""
    plugins = Plugins([plugin_of(backends=[toy_backend])], discover=False)
    toys = {"singing": {"poet": Options(), "tenor": Options()}, "plain": {}}
    models = {name: ModelSettings(name, "toy", ToyOptions(adapters=own), "chatml") for name, own in toys.items()}
    settings = Settings(models, plugins.templates, folder / "store")
    async with Bridge(SettingsSource(settings), plugins) as bridge:
        yield bridge.bot("bot")


async def test_an_adapter_that_the_model_has_not_is_refused_with_those_it_has(tmp_path: Path) -> None:
    async with adapted(tmp_path) as bot:
        with pytest.raises(CommandError) as told:
            await command(bot, "/set adapter peot")
        assert str(told.value) == "The model singing has no adapter 'peot'; did you mean 'poet'? Known: poet, tenor."
        assert await command(bot, "/set adapter poet") == Notice("adapter is poet in this conversation.")
        said = await command(bot, "/model plain")
        assert isinstance(said, Notice)
        assert "It has no adapter 'poet'" in said.text
        assert (await bot.dialogue(ALONE).conversation()).overrides == {"model": "plain"}
        with pytest.raises(CommandError, match=r"The model plain has no adapter 'poet'\. Known: -"):
            await command(bot, "/set adapter poet")
        kept, left_out = await loadable(
            CommandContext(bot.dialogue(ALONE), Message("1", ALONE, Author("ann", "Ann"), ""), "en"),
            {"model": "singing", "adapter": "bass", "language": "zh"},
        )
        assert (kept, left_out) == ({"model": "singing", "language": "zh"}, ["adapter"])


@pytest.mark.parametrize("key", KEYS)
async def test_no_key_takes_a_name_of_nothing(bot: Bot, key: str) -> None:
    if key == "stop":  # any text may be that
        return
    with pytest.raises(CommandError, match=key):
        await command(bot, f"/set {key} of-nothing")
