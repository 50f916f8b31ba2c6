"""Channel over bot over file over model: by hand, and against a reference too simple to be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chatbridge import Channel, ChannelSettings, Options, Sampling, Settings
from chatbridge.config import BotSettings, ModelSettings
from chatbridge.prompts import presets

from .conftest import Read
from .samples import GOOD

ROOM = Channel("room", kind="group")
THREAD = Channel("thread", kind="group", parent="room")


def make(
    *,
    models: Mapping[str, dict[str, Any]] | None = None,
    file: dict[str, Any] | None = None,
    bot: dict[str, Any] | None = None,
    channels: Mapping[str, dict[str, Any]] | None = None,
) -> Settings:
    """Settings with one bot, `b`; each level as bots.yaml would say it."""
    models = models or {"one": {"template": "alpaca"}, "two": {"template": "vicuna"}, "three": {}}
    loaded = {
        name: ModelSettings(
            name,
            "x",
            Options(),
            model.get("template"),
            Sampling(**model.get("sampling", {})),
            template_options=model.get("template_options", {}),
        )
        for name, model in models.items()
    }
    levels = {id: ChannelSettings.model_validate(level) for id, level in (channels or {}).items()}
    bots = {"b": BotSettings("b", "x", Options(), ChannelSettings.model_validate(bot or {}), levels)}
    return Settings(loaded, presets(), Path("db"), ChannelSettings.model_validate(file or {}), bots)


def test_without_any_word_the_first_model_and_its_template() -> None:
    settings = make().channel("b", ROOM)
    assert (settings.model, settings.template, settings.reply_to) == ("one", "alpaca", "mentions")


def test_the_nearest_level_counts() -> None:
    levels: dict[str, Any] = {
        "file": {"system": "file"},
        "bot": {"system": "bot"},
        "channels": {"room": {"system": "room"}},
    }
    assert make(**levels).channel("b", ROOM).system == "room"
    assert make(**levels).channel("b", Channel("other")).system == "bot"
    assert make(**levels).channel("nobody", ROOM).system == "file"
    assert make(**levels).channel("b", ROOM, overrides={"system": "said"}).system == "said"


def test_a_default_that_is_written_out_counts_as_written() -> None:
    settings = make(file={"reply_to": "always", "history": False}, bot={"reply_to": "mentions", "history": True})
    assert settings.channel("b", ROOM).reply_to == "mentions"
    assert settings.channel("b", ROOM).history is True


def test_a_thread_has_its_own_settings_over_its_channels() -> None:
    settings = make(channels={"room": {"system": "room", "language": "zh"}, "thread": {"system": "thread"}})
    found = settings.channel("b", THREAD)
    assert (found.system, found.language) == ("thread", "zh")
    assert settings.channel("b", Channel("another", parent="room")).system == "room"
    assert settings.channel("b", ROOM).system == "room", "a channel has nothing of its threads"


def test_a_level_that_names_another_model_brings_that_models_template() -> None:
    settings = make(
        file={"model": "one", "template": "chatml"},
        bot={"model": "two"},
        channels={"room": {"model": "three"}, "own": {"model": "one", "template": "mistral"}, "same": {"model": "two"}},
    )
    assert settings.channel("nobody", ROOM).template == "chatml"
    assert settings.channel("b", Channel("x")).template == "vicuna", "the one that was chosen for `one` is gone"
    assert settings.channel("b", ROOM).template is None, "the model decides"
    assert settings.channel("b", Channel("own")).template == "mistral"
    assert settings.channel("b", Channel("same")).template == "vicuna"


def test_the_same_model_once_more_keeps_the_template() -> None:
    settings = make(file={"template": "chatml"}, bot={"model": "one"})
    assert settings.channel("b", ROOM).template == "chatml"


def test_an_empty_template_is_the_models_own_again() -> None:
    settings = make(file={"template": "chatml"}, bot={"template": None}, channels={"room": {"system": None}})
    assert settings.channel("b", ROOM).template == "alpaca"


def test_sampling_is_merged_field_by_field() -> None:
    settings = make(
        models={"one": {"sampling": {"temperature": 0.1, "top_k": 1, "seed": 1, "stop": ["one"]}}},
        file={"sampling": {"top_k": 2, "seed": 2, "min_p": 0.2}},
        bot={"sampling": {"seed": 3, "max_tokens": 3}},
        channels={"room": {"sampling": {"max_tokens": 4, "stop": []}}},
    )
    sampling = settings.channel("b", ROOM, overrides={"sampling": {"seed": None}}).sampling
    assert sampling == Sampling(temperature=0.1, top_k=2, min_p=0.2, seed=None, max_tokens=4, stop=())


def test_another_models_own_sampling_comes_with_it() -> None:
    settings = make(
        models={"one": {"sampling": {"temperature": 0.1}}, "two": {"sampling": {"top_k": 7}}},
        channels={"room": {"model": "two", "sampling": {"seed": 1}}},
    )
    assert settings.channel("b", ROOM).sampling == Sampling(top_k=7, seed=1)
    assert settings.channel("b", Channel("x")).sampling == Sampling(temperature=0.1)


def test_a_model_that_is_gone_leaves_the_rest() -> None:
    found = make().channel("b", ROOM, overrides={"model": "gone", "system": "x"})
    assert (found.model, found.template, found.system) == ("gone", None, "x")


@pytest.mark.parametrize("bad", [{"modle": "x"}, {"sampling": {"top_k": -1}}, {"history": "perhaps"}])
def test_bad_overrides_are_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make().channel("b", ROOM, overrides=bad)


def test_the_good_sample(read: Read) -> None:
    settings = read(GOOD.read_bytes())
    room = settings.channel("guild", Channel("1122334455", kind="group"))
    assert (room.model, room.template, room.system) == ("big", "librarian", "You are kind.\nYou are brief.")
    assert room.sampling == Sampling(temperature=0.2, stop=("END", "停"), top_k=20, top_p=0.9)
    careful = settings.channel("guild", Channel("-100200", kind="group"))
    assert (careful.model, careful.template, careful.history) == ("careful", "alpaca", False)
    assert careful.sampling == Sampling(temperature=0, seed=11, logit_bias={5: -100, 7: 10}, top_k=20, top_p=0.9)
    plain = settings.channel("guild", Channel("7"))
    assert (plain.model, plain.template, plain.sampling.max_tokens) == ("plain", "letter", 5)
    assert settings.channel("club", Channel("lobby")).template == "quiet-librarian"
    assert settings.channel("club", Channel("elsewhere")).template == "chatml"


# --- against a reference -------------------------------------------------------------------------------------------

SAMPLING = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.5]),
        "top_k": st.integers(0, 3),
        "seed": st.none() | st.integers(0, 2),
        "stop": st.lists(st.sampled_from("ab"), max_size=2),
    },
)
LEVEL = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["one", "two", "three"]),
        "template": st.sampled_from([None, "alpaca", "chatml", "vicuna"]),
        "system": st.sampled_from([None, "", "s1", "s2"]),
        "reply_to": st.sampled_from(["mentions", "always", "never"]),
        "history": st.booleans(),
        "language": st.sampled_from(["auto", "en", "zh"]),
        "sampling": SAMPLING,
    },
)
MODELS = st.fixed_dictionaries(
    {
        name: st.fixed_dictionaries({"template": st.sampled_from([None, "mistral", "llama-2"]), "sampling": SAMPLING})
        for name in ("one", "two", "three")
    }
)


def reference(models: dict[str, Any], levels: list[dict[str, Any]]) -> dict[str, Any]:
    """What applies, worked out from the nearest level outwards, key by key."""
    # Where the model changed for the last time; templates that were chosen below were for another one.
    model, since = next(iter(models)), 0
    for n, level in enumerate(levels):
        if level.get("model", model) != model:
            model, since = level["model"], n
    result: dict[str, Any] = {"model": model}
    template = next((level["template"] for level in reversed(levels[since:]) if "template" in level), None)
    result["template"] = template or models[model]["template"]
    for key in ("system", "reply_to", "history", "language"):
        result[key] = next(
            (level[key] for level in reversed(levels) if key in level), ChannelSettings.model_fields[key].default
        )
    sampled = [models[model]["sampling"], *(level.get("sampling", {}) for level in levels)]
    result["sampling"] = {
        key: next((level[key] for level in reversed(sampled) if key in level), Sampling.model_fields[key].default)
        for key in ("temperature", "top_k", "seed", "stop")
    }
    return result


@given(models=MODELS, file=LEVEL, bot=LEVEL, room=LEVEL, thread=LEVEL, said=LEVEL)
def test_it_agrees_with_the_reference(
    models: dict[str, Any],
    file: dict[str, Any],
    bot: dict[str, Any],
    room: dict[str, Any],
    thread: dict[str, Any],
    said: dict[str, Any],
) -> None:
    settings = make(models=models, file=file, bot=bot, channels={"room": room, "thread": thread})
    for bot_name, channel, overrides, levels in (
        ("b", THREAD, said, [file, bot, room, thread, said]),
        ("b", THREAD, None, [file, bot, room, thread]),
        ("b", ROOM, said, [file, bot, room, said]),
        ("b", Channel("other"), None, [file, bot]),
        ("nobody", THREAD, said, [file, said]),
    ):
        found = settings.channel(bot_name, channel, overrides=overrides)
        expected = reference(models, levels)
        sampling = expected.pop("sampling")
        assert {key: getattr(found, key) for key in expected} == expected
        assert {key: getattr(found.sampling, key) for key in sampling} == {**sampling, "stop": tuple(sampling["stop"])}


def options(settings: Settings, channel: Channel = ROOM, **overrides: Any) -> dict[str, Any]:
    return dict(settings.channel("b", channel, overrides=overrides).template_options)


def test_template_options_are_merged_one_by_one() -> None:
    settings = make(
        models={"one": {"template": "model", "template_options": {"a": "model", "b": "model", "c": "model"}}},
        file={"template_options": {"b": "file", "d": "file"}},
        bot={"template_options": {"d": "bot"}},
        channels={"room": {"template_options": {"c": None}}},
    )
    assert options(settings) == {"a": "model", "b": "file", "c": None, "d": "bot"}
    assert options(settings, Channel("x")) == {"a": "model", "b": "file", "c": "model", "d": "bot"}


def test_template_options_go_with_the_model_and_the_template_that_they_were_chosen_for() -> None:
    settings = make(
        models={
            "one": {"template": "model", "template_options": {"of": "one"}},
            "two": {"template": "model", "template_options": {"of": "two"}},
        },
        file={"template_options": {"from": "file"}},
        channels={
            "model": {"model": "two"},
            "template": {"template": "chatml"},
            "same": {"template": "model"},
            "own": {"template": "librarian", "template_options": {"from": "own"}},
        },
    )
    assert options(settings) == {"of": "one", "from": "file"}
    assert options(settings, Channel("model")) == {"of": "two"}
    assert options(settings, Channel("template")) == {}
    assert options(settings, Channel("same")) == {"of": "one"}
    assert options(settings, Channel("own")) == {"from": "own"}
    assert options(settings, template="chatml") == {}
