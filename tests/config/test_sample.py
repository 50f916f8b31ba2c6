"""What good files mean; `good.yaml` has every feature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chatbridge import ChannelSettings, Plugins, Sampling, Settings
from chatbridge.config import default_settings, load

from .conftest import Diagnostics, Read
from .samples import ENVIRONMENT, GOOD, MODEL, Cpu, EngineOptions, Gpu, RoomsOptions, write_files

DAY = 86_400.0


@pytest.fixture
def good(read: Read) -> Settings:
    return read(GOOD.read_bytes())


def test_the_sample_means_what_it_says(good: Settings, folder: Path) -> None:
    assert list(good.models) == ["big", "careful", "plain"]
    assert list(good.bots) == ["guild", "club"]
    assert good.store == folder / "data/talks.sqlite3"
    assert (good.keep.answered, good.keep.usage, good.keep.conversations) == (14 * DAY, 364 * DAY, 30 * DAY)
    assert good.defaults == ChannelSettings(model="big", reply_to="mentions", sampling=Sampling(top_k=20, top_p=0.9))


def test_options_become_the_plugins_own_type(good: Settings, folder: Path) -> None:
    options: Any = good.models["big"].options
    assert isinstance(options, EngineOptions)
    assert options.path == folder / "models/big.bin"
    assert options.api_key is not None
    assert options.api_key.get_secret_value() == "k3y-of-the-engine"
    assert (options.precision, options.threads, options.share, options.verbose) == ("half", 4, 0.5, True)
    assert options.device == Gpu(kind="gpu", layers="all")
    assert [adapter.path for adapter in options.adapters] == [folder / "adapters/one.bin", Path("/opt/two.bin")]
    assert options.headers == {"X-Name": "chatbridge", "X-Literal": "${not a variable}"}
    assert options.login is not None
    assert (options.login.user, options.login.password.get_secret_value()) == ("guest", "xR7-rooms-token")
    assert options.note == "Two lines,\nboth of them text.\n"
    assert options.model == "a key of the plugin's own"


def test_a_merge_gives_what_the_mapping_lacks(good: Settings) -> None:
    big, careful = good.models["big"], good.models["careful"]
    options: Any = careful.options
    assert isinstance(options, EngineOptions)
    assert options.device == Cpu(kind="cpu", threads=4)
    assert options.precision == "full"
    assert options.path == big.options.path  # type: ignore[attr-defined]
    assert (careful.template, careful.max_batch) == ("chatml", 8)
    assert careful.sampling == Sampling(temperature=0, seed=11, logit_bias={5: -100, 7: 10})
    assert careful.sampling.model_fields_set == {"temperature", "seed", "logit_bias"}


def test_bots_have_their_channels_and_people(good: Settings) -> None:
    guild = good.bots["guild"]
    options: Any = guild.options
    assert isinstance(options, RoomsOptions)
    assert options.token.get_secret_value() == "xR7-rooms-token"
    assert options.retries == [0, 1, 5]
    assert list(guild.channels) == ["1122334455", "-100200", "7"]
    assert guild.channels["-100200"].system == "You are kind.\nYou are brief."
    assert guild.channels["-100200"].history is False
    assert guild.allow.users == {"12345", "-67"}
    assert guild.allow.channels == {"1122334455", "-100200"}
    assert guild.deny.users == {"666"}
    assert good.bots["club"].channels["lobby"].system == ""


def test_templates_extend_each_other(good: Settings) -> None:
    alpaca, librarian, quiet = (good.templates[name] for name in ("alpaca", "librarian", "quiet-librarian"))
    assert alpaca.name_format == librarian.name_format == "<{name}> {text}", "one's own alpaca, not the preset"
    assert quiet.system == librarian.system == "You are the librarian of {channel}."
    assert quiet.stop == ("!",)
    assert quiet.name == "quiet-librarian"
    assert good.templates["theirs"].jinja == "model"
    assert "letter" in good.templates, "a plugin's"


def test_merges_of_merges_and_lists_of_them(read: Read) -> None:
    text = """
        models: {m: {backend: simple}}
        bots:
          b:
            frontend: open
            channels:
              one: &one {language: en, thinking: show}
              two: &two {<<: *one, language: zh}
              three: {<<: *two, reply_to: never}
              four: {<<: [*two, {language: en, reply_to: always}]}
    """
    channels = read(text).bots["b"].channels
    assert channels["three"] == ChannelSettings(language="zh", thinking="show", reply_to="never")
    assert channels["four"] == ChannelSettings(language="zh", thinking="show", reply_to="always")


def test_words_in_quotes_are_not_ambiguous(diagnostics: Diagnostics) -> None:
    text = (
        MODEL + 'defaults: {system: "on", model: \'m\', sampling: {stop: ["0123", "12:30", "1_000", ".nan", "null"]}}\n'
    )
    assert diagnostics(text) == []


def test_keys_are_text_whatever_they_look_like(read: Read) -> None:
    ids = ["on", "0123", "1_000", "12:30", ".nan", "null", "0x1F", "1e3", "~", "true"]
    text = MODEL + "bots: {b: {frontend: open, channels: {" + ", ".join(f"{id}: {{}}" for id in ids) + "}}}"
    assert list(read(text).bots["b"].channels) == ids


def test_empty_sections_are_good(read: Read, plugins: Plugins) -> None:
    for text in (
        "models:\nbots:\ntemplates:\ndefaults:\n",
        "bots: {b: {frontend: open, allow: }}",
    ):
        settings = read(text)
        assert list(settings.models) == ["guide"]
        guide = default_settings(plugins, Path("x")).models["guide"]
        assert replace(settings.models["guide"], states_folder=None) == guide


def test_a_variable_or_a_file_may_be_the_users_own_folder(
    read: Read, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    settings = read(MODEL + "store: ~/talks.sqlite3\nbots: {b: {frontend: rooms, token_file: ~/key.txt}}\n")
    assert settings.store == folder / "talks.sqlite3"
    options: Any = settings.bots["b"].options
    assert options.token.get_secret_value() == "k3y-of-the-engine"


def test_files_stand_beside_bots_yaml_wherever_the_program_runs(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    write_files(folder)
    (folder / "bots.yaml").write_bytes(GOOD.read_bytes())
    monkeypatch.chdir(tmp_path)
    settings = load(Path("etc/bots.yaml"), plugins, ENVIRONMENT)
    assert settings.store == folder / "data/talks.sqlite3"
    assert settings.bots["guild"].defaults.system == "You are kind.\nYou are brief."


def test_a_text_from_a_file_may_have_a_bom_and_line_ends(folder: Path, read: Read) -> None:
    (folder / "windows.txt").write_bytes(b"\xef\xbb\xbft0ken\r\n")
    options: Any = read(MODEL + "bots: {b: {frontend: rooms, token_file: windows.txt}}\n").bots["b"].options
    assert options.token.get_secret_value() == "t0ken"
