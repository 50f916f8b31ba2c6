"""A model of bots.yaml that is named by the catalogue: filled in once it was fetched, else told how to fetch it."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from chatbridge import Backend, BackendType, ConfigError, Options, Plugins, Settings, hookimpl
from chatbridge.config import ConfigPath, json_schema, load
from chatbridge.model_files.template_notes import REPORT
from chatbridge.model_tools.fetching.catalogue import catalogue

NAME = "qwen3-0.6b"
FILE = catalogue()[NAME].run


class LlamaLike(Options):
    path: ConfigPath
    layers: int = 0


async def connect(options: Options) -> Backend:
    raise NotImplementedError


class Llama:
    """Stands in for the package of the backend, which may not be installed."""

    @hookimpl
    def register_backends(self) -> list[BackendType]:
        return [BackendType("llama_cpp", LlamaLike, "", connect=connect)]


@pytest.fixture
def plugins() -> Plugins:
    return Plugins([Llama()], discover=False)


def read(text: str, folder: Path, plugins: Plugins, looked_at: set[Path] | None = None) -> Settings:
    (folder / "bots.yaml").write_text(text)
    return load(folder / "bots.yaml", plugins, {"CHATBRIDGE_MODELS": str(folder / "models")}, looked_at=looked_at)


def put(folder: Path) -> Path:
    here = folder / "models" / NAME
    here.mkdir(parents=True)
    (here / REPORT).write_text("{}")
    (here / FILE).write_bytes(b"GGUF")
    return here / FILE


def test_what_was_fetched_is_filled_in(tmp_path: Path, plugins: Plugins) -> None:
    file = put(tmp_path)
    model = read(f"models: {{m: {{catalogue: {NAME}, layers: 3}}}}", tmp_path, plugins).models["m"]
    assert (model.backend, model.template, model.options) == ("llama_cpp", "model", LlamaLike(path=file, layers=3))
    model = read(f"models: {{m: {{catalogue: {NAME}, template: chatml}}}}", tmp_path, plugins).models["m"]
    assert model.template == "chatml"


def test_what_was_not_fetched_is_a_mistake_that_names_the_command(tmp_path: Path, plugins: Plugins) -> None:
    looked_at: set[Path] = set()
    told = rf"bots\.yaml:1:25: {NAME} is not fetched yet \(about 0\.6 GiB\): chatbridge model pull {NAME}$"
    with pytest.raises(ConfigError, match=told):
        read(f"models: {{m: {{catalogue: {NAME}}}}}", tmp_path, plugins, looked_at)
    file = put(tmp_path)
    assert file.with_name(REPORT) in looked_at  # so that a running program takes it up once it is there


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("catalogue: qwen3-0.6", f"1:25: there is no model 'qwen3-0.6' in the catalogue; did you mean '{NAME}'?"),
        ("catalogue: 5", "1:25: there is no model 5 in the catalogue"),
        (f"catalogue: {NAME}, path: x", "1:37: `catalogue` is given, too; keep one of `catalogue` and `path`"),
        (
            "catalogue: glm-130b",
            "1:25: glm-130b is given away by request only: ask at https://github.com/THUDM/GLM-130B",
        ),
        (
            f"catalogue: {NAME}, layer: 3",
            "1:37: there is no key 'layer' for backend 'llama_cpp'; did you mean 'layers'?",
        ),
    ],
)
def test_mistakes_are_told_where_they_are(tmp_path: Path, plugins: Plugins, keys: str, told: str) -> None:
    put(tmp_path)
    with pytest.raises(ConfigError) as error:
        read(f"models: {{m: {{{keys}}}}}", tmp_path, plugins)
    (line,) = str(error.value).splitlines()
    assert line.removeprefix(f"{tmp_path / 'bots.yaml'}:").startswith(told)


def test_the_schema_takes_either_way(plugins: Plugins) -> None:
    validator = jsonschema.Draft202012Validator(json_schema(plugins))

    def good(**entry: object) -> bool:
        return bool(validator.is_valid({"models": {"m": entry}}))

    assert good(catalogue=NAME, layers=3)
    assert good(backend="llama_cpp", path="x")
    assert not good(backend="llama_cpp")
    assert not good(catalogue="nothing")
    assert not good(catalogue=NAME, path="x")
    assert not good(layers=3)
