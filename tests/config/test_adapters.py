"""The `adapter` of a channel: one of those of the model that is used there, and gone where another model is named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from chatbridge import BackendType, Channel, ConfigError, Plugins, Settings, hookimpl
from chatbridge.config import load
from chatbridge.testing.toy import toy_backend

from .samples import SamplePlugin

MODELS = """\
models:
  plain: {backend: toy}
  singing: {backend: toy, adapters: {poet: {}, tenor: {}}}
"""


class Toys:
    @hookimpl
    def register_backends(self) -> Iterable[BackendType]:
        return [toy_backend]


def read(folder: Path, text: str) -> Settings:
    path = folder / "bots.yaml"
    path.write_text(MODELS + text, encoding="utf-8")
    return load(path, Plugins([Toys(), SamplePlugin()], discover=False), {})


def test_the_nearest_adapter_counts_and_another_model_has_none(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        "defaults: {model: singing, adapter: poet}\n"
        "bots: {b: {frontend: open, channels: {one: {adapter: tenor}, two: {model: plain}, three: {system: x}}}}\n",
    )
    found = [settings.channel("b", Channel(id)).adapter for id in ("one", "two", "three")]
    assert found == ["tenor", None, "poet"]


@pytest.mark.parametrize(
    ("text", "diagnostic"),
    [
        ("defaults: {adapter: poet}\n", "4:21: the model 'plain' has no adapter 'poet' (it has: none)"),
        (
            "bots: {b: {frontend: open, defaults: {model: singing, adapter: peot}}}\n",
            "4:64: the model 'singing' has no adapter 'peot'; did you mean 'poet'?",
        ),
        (
            "bots: {b: {frontend: open, defaults: {model: singing}, channels: {one: {adapter: bass}}}}\n",
            "4:82: the model 'singing' has no adapter 'bass' (it has: poet, tenor)",
        ),
    ],
)
def test_an_adapter_that_is_not_there_is_told_where_it_is_named(tmp_path: Path, text: str, diagnostic: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'bots.yaml'}:{diagnostic}"
