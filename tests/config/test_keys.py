"""Sizes and addresses in bots.yaml: what people may write, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field, SecretStr, ValidationError

from chatbridge import Channel, Options
from chatbridge.config import nodes
from chatbridge.config.diagnostics import secrets_in
from chatbridge.config.keys import ModelKeys, TopKeys
from chatbridge.config.nodes import parse
from chatbridge.config.settings import BotSettings, ChannelSettings, Keep, ModelSettings, Settings
from chatbridge.config.values import Values, file_keys


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("8 GiB", 8 << 30),
        ("8g", 8 << 30),
        (" 1.5 GB ", 3 << 29),
        ("500 MiB", 500 << 20),
        ("2 TiB", 2 << 40),
        ("65536K", 1 << 26),
        (1 << 26, 1 << 26),
        (None, None),
    ],
)
def test_a_size_is_written_with_its_unit_or_in_bytes(written: object, size: int | None) -> None:
    assert ModelKeys(backend="toy", memory_limit=written).memory_limit == size  # type: ignore[arg-type]


@pytest.mark.parametrize("written", ["8", "8 XB", "GiB", "-1 GiB", "8 GiB more", True, False, 1e9, [1]])
def test_what_is_no_size_is_told_so(written: object) -> None:
    for key in ("memory_limit", "kept_states"):
        with pytest.raises(ValidationError, match="this is no size, such as 8 GiB"):
            ModelKeys(backend="toy", **{key: written})  # type: ignore[arg-type]


def test_a_size_can_be_too_small() -> None:
    with pytest.raises(ValidationError, match="memory_limit"):
        ModelKeys(backend="toy", memory_limit=(1 << 26) - 1)
    assert ModelKeys(backend="toy", kept_states=0).kept_states == 0


@pytest.mark.parametrize("address", ["", "127.0.0.1:9464", ":0", "localhost:65535", "[::1]:80"])
def test_a_host_and_a_port_are_an_address(address: str) -> None:
    assert TopKeys(monitor=address).monitor == address


@pytest.mark.parametrize("address", ["9464", "localhost:", "localhost:65536", "::1:80", "a b:80", "host:80/x"])
def test_what_is_no_address_is_told_so(address: str) -> None:
    with pytest.raises(ValidationError, match="no address and port"):
        TopKeys(monitor=address)


def test_each_kind_is_kept_for_as_long_as_it_is_needed_at_least() -> None:
    assert Keep(answered="1d", usage="2d", conversations="1h").usage == 2 * 86_400
    for key, written in (("answered", "23h"), ("usage", "47h"), ("conversations", "0h")):
        with pytest.raises(ValidationError, match="and it has to be kept for so long"):
            Keep(**{key: written})


class Posted(Options):
    """Keys of a plugin: some take text, one has a file already."""

    token: Annotated[str, Field(min_length=3)] | None = None
    secret: SecretStr | int = 5
    name: Annotated[str, Field(max_length=9)] = ""
    names: list[str] = Field(default_factory=list)
    level: int | None = None
    key: str = ""
    key_file: Path | None = None


def test_whatever_takes_free_text_may_come_from_a_file() -> None:
    assert [*file_keys(Posted)] == ["token_file", "secret_file", "name_file"]


def test_a_text_that_no_file_gave_is_one_mistake(tmp_path: Path) -> None:
    document = parse(b"token_file: nowhere\nname_file: here\n", {})
    (tmp_path / "here").write_text("so\r\nit is\n\n")
    values = Values(document, tmp_path)
    found = values.texts_from_files((), document.value, Posted)
    assert found == {"token": "", "name": "so\nit is"}
    assert values.validated((), Posted, found) is None, "an empty token is none"
    assert [one.message.partition(":")[0] for one in document.diagnostics] == ["`token_file`"]
    assert document.at(("name",)) == document.at(("name_file",))
    assert document.secrets == {"so\nit is"}
    assert values.files == {tmp_path / "nowhere", tmp_path / "here"}


@pytest.mark.parametrize("number", ["00110000", "FFFFFFFF"])
def test_without_libyaml_a_character_that_does_not_exist_is_a_mistake_too(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "_Loader", yaml.SafeLoader)
    document = parse(f'a: "\\U{number}"'.encode(), {})
    assert [one.message.partition(":")[0] for one in document.diagnostics] == ["this is not YAML"]
    assert document.value is None


def test_a_file_may_hold_just_so_many_values_and_be_nested_just_so_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_NODES", 4)
    assert parse(b"[1, 2, 3]", {}).value == [1, 2, 3]
    too_many = parse(b"[1, 2, 3, 4]", {})
    assert (too_many.value, len(too_many.diagnostics)) == (None, 1)
    monkeypatch.setattr(nodes, "MAX_DEPTH", 2)
    assert parse(b"[[1], [2]]"[:4] + b"]", {}).diagnostics == []
    assert [one.message for one in parse(b"[[[1]]]", {}).diagnostics] == ["nested more than 2 deep"]


def test_what_a_variable_gave_is_known_by_its_name_and_kept_secret() -> None:
    document = parse(b"a: x${ONE}\nb: ['$${', '${TWO:-two}', '${THREE}']\n", {"ONE": "1", "THREE": ""})
    assert (document.variables, document.secrets, document.substituted) == ({"ONE"}, {"1"}, {("a",)})
    assert document.value == {"a": "x1", "b": ["${", "two", ""]}
    assert document.failed == {("b", 2)}
    (told,) = document.diagnostics
    assert (told.location.line, told.message.partition(";")[0]) == (2, "the environment variable THREE is empty")


class Hidden(Options):
    by_name: dict[str, SecretStr] = Field(default_factory=dict)
    some: list[SecretStr | int] | None = None
    inside: list[Posted] = Field(default_factory=list)
    plain: str = ""


def test_every_text_where_secrets_may_be_is_one() -> None:
    values = {"by_name": {"a": "x"}, "some": ["y", 5, {"k": "z"}], "inside": [{"secret": "w"}], "plain": "p"}
    assert set(secrets_in(Hidden, values)) == {"x", "y", "z", "w"}
    assert set(secrets_in(Hidden, {"plain": "p"})) == set()


def test_the_settings_of_a_channel_are_the_nearest_that_say_something() -> None:
    channels = {"c": ChannelSettings(prefix="c"), "p": ChannelSettings(prefix="p", history=True), "": ChannelSettings()}
    bot = BotSettings("b", "f", Options(), ChannelSettings(prefix="b", history=False, pattern="b"), channels)
    models = {name: ModelSettings(name, "toy", Options(), template=name) for name in ("one", "two")}
    settings = Settings(models, {}, Path("db"), ChannelSettings(prefix="d", pattern="d", chance=0.5), {"b": bot})

    def told(name: str, channel: Channel, **overrides: object) -> tuple[object, ...]:
        found = settings.channel(name, channel, overrides=overrides)
        return found.prefix, found.history, found.pattern, found.chance, found.model, found.template

    assert told("nobody", Channel("c"))[:1] + told("nobody", Channel("c"))[2:] == ("d", "d", 0.5, "one", "one")
    assert told("b", Channel("x")) == ("b", False, "b", 0.5, "one", "one")
    assert told("b", Channel("c", parent="p")) == ("c", True, "b", 0.5, "one", "one")
    assert told("b", Channel("c"), prefix="o", model="two") == ("o", False, "b", 0.5, "two", "two")
    assert told("b", Channel("c"), template="own", model="gone") == ("c", False, "b", 0.5, "gone", "own")
