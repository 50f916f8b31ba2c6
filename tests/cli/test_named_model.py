"""`chatbridge repl -m`: a name in bots.yaml, a file or folder, or a name of the catalogue; and what is told else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from chatbridge import Backend, BackendType, ModelLoadError, Options, PluginError, Plugins, guide_path, hookimpl
from chatbridge.cli.model.inspect import excerpt
from chatbridge.cli.named_model import find_model
from chatbridge.config import ConfigPath, Settings, default_settings
from chatbridge.config.settings import ModelSettings
from chatbridge.config.source import SettingsSource
from chatbridge.model_files.inspect import inspect_model
from chatbridge.model_files.template_notes import REPORT
from chatbridge.model_tools.fetching.catalogue import catalogue
from chatbridge.plugins.packages import install_command
from chatbridge.testing import fixtures

Find = Callable[..., ModelSettings]


class Named(Options):
    path: ConfigPath | None = None
    lora: str | None = None
    adapters: dict[str, dict[str, str]] | None = None


async def connect(options: Options) -> Backend:
    raise NotImplementedError


class Ours:
    """Stands in for the packages of our backends, which may not be installed."""

    def __init__(self, *names: str) -> None:
        self.names = names

    @hookimpl
    def register_backends(self) -> list[BackendType]:
        return [BackendType(name, Named, "", connect=connect) for name in self.names]


ALL = ("numpy", "llama_cpp", "transformers", "glm", "rwkv")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of somebody without a bots.yaml, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATBRIDGE_MODELS", str(tmp_path / "models"))
    return default_settings(Plugins([Ours("numpy")], discover=False), tmp_path / "store")


@pytest.fixture
def find(settings: Settings) -> Find:
    """What a word names where these backends are installed; all of ours unless told."""
    return lambda word, *names: find_model(word, settings, Plugins([Ours(*(names or ALL))], discover=False))


def put_in_catalogues_place(name: str, folder: Path, file: Path) -> Path:
    """Let a model look as one that `model pull` has fetched."""
    here = folder / "models" / name
    here.mkdir(parents=True, exist_ok=True)
    (here / REPORT).write_text("{}")
    return Path(shutil.copy(file, here / catalogue()[name].run))


def test_a_file_is_taken_with_the_backend_and_the_preset_that_fit(find: Find, tmp_path: Path) -> None:
    shutil.copy(guide_path(), tmp_path / "my own.gguf")
    for word in ("my own.gguf", "./my own.gguf", str(tmp_path / "my own.gguf")):
        found = find(word)
        assert (found.name, found.backend, found.template) == ("my-own", "llama_cpp", "model")
        assert found.options == Named(path=tmp_path / "my own.gguf")


def test_the_best_backend_that_is_installed_is_taken(find: Find, tmp_path: Path) -> None:
    assert find(str(guide_path()), "numpy").backend == "numpy"
    with pytest.raises(PluginError, match=r"pip install \S*plugins/llama_cpp"):
        find(str(guide_path()), "glm")


def test_a_file_does_not_take_a_models_name_away(find: Find, tmp_path: Path) -> None:
    shutil.copy(guide_path(), tmp_path / "guide.gguf")
    assert find("guide.gguf").name == "guide-file"


@pytest.mark.parametrize(
    ("where", "backend", "template"),
    [("chatglm/chatglm-6b-tiny", "glm", "chatglm-6b"), ("llama/hf", "transformers", None)],
)
def test_a_folder_is_taken_as_it_was_published(find: Find, where: str, backend: str, template: str | None) -> None:
    found = find(str(fixtures() / where))
    assert (found.backend, found.template, found.options) == (backend, template, Named(path=fixtures() / where))


def test_what_can_not_be_run_is_told_with_all_that_is_wrong(find: Find, tmp_path: Path) -> None:
    with pytest.raises(
        ModelLoadError, match=r"it can't be talked to\n  .*no backend runs Meta's form as it is; convert"
    ):
        find(str(fixtures() / "llama" / "meta-1shard"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelLoadError, match=r"error: there are no weights here; download model\.safetensors"):
        find("m")
    with pytest.raises(
        ModelLoadError, match="no such file or folder; `chatbridge model pull Qwen/Qwen3-4B` fetches it"
    ):
        find("Qwen/Qwen3-4B")
    with pytest.raises(ModelLoadError, match="fetch it first, by `chatbridge model pull`"):
        find("https://example.org/m.gguf?key=1")


def test_an_adapter_comes_with_the_model_that_it_names(find: Find) -> None:
    where = fixtures() / "llama" / "alpaca-lora"
    base = json.loads((where / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert find(str(where)).options == Named(path=base, lora=str(where))


def test_an_adapter_that_names_no_model_is_told_how(find: Find) -> None:
    with pytest.raises(ModelLoadError, match=r"say it in bots\.yaml:\nmodels:"):
        find(str(fixtures() / "chatglm" / "ptuning-v2"))


def test_a_name_of_the_catalogue_is_taken_once_it_was_fetched(find: Find, tmp_path: Path) -> None:
    name = "qwen2.5-0.5b"
    with pytest.raises(
        ModelLoadError, match=rf"{name} is not fetched yet \(about 0\.5 GiB\): chatbridge model pull {name}"
    ):
        find(name)
    with pytest.raises(PluginError, match=r"pip install \S*plugins/llama_cpp"):
        find(name, "numpy")
    (tmp_path / "models" / name).mkdir(parents=True)
    shutil.copy(guide_path(), tmp_path / "models" / name / catalogue()[name].run)
    with pytest.raises(ModelLoadError, match="is not fetched yet"):  # nobody knows what that is
        find(name)
    file = put_in_catalogues_place(name, tmp_path, guide_path())
    found = find(name)
    assert (found.name, found.backend, found.template) == (name, "llama_cpp", "model")
    assert found.options == Named(path=file)


def test_what_is_given_by_request_alone_says_where_to_ask(find: Find) -> None:
    with pytest.raises(ModelLoadError, match=r"ask at https://github\.com/THUDM/GLM-130B"):
        find("glm-130b")


def test_a_name_that_may_mean_two_things_is_told(
    find: Find, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(guide_path(), tmp_path / "guide")
    assert find("guide").backend == "numpy"
    assert capsys.readouterr().err == "guide is taken for the model of that name; for the file say -m ./guide\n"
    shutil.copy(guide_path(), tmp_path / "qwen3-4b")
    assert find("qwen3-4b").name == "qwen3-4b"
    assert "qwen3-4b lies here, and is taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "told"), [("qwen3-4", "did you mean 'qwen3-4b'"), ("zzz", "known: guide, and those of")]
)
def test_a_name_that_nothing_has_is_told_with_the_closest(find: Find, word: str, told: str) -> None:
    with pytest.raises(click.BadParameter, match=told):
        find(word)


def test_a_model_that_was_named_outlives_changes_of_the_file(find: Find, tmp_path: Path) -> None:
    (tmp_path / "bots.yaml").write_text("models: {g: {backend: numpy}}\n")
    source = SettingsSource.of_file(tmp_path / "bots.yaml", Plugins())
    shutil.copy(guide_path(), tmp_path / "mine.gguf")
    source.add_model(find("mine.gguf"))
    (tmp_path / "bots.yaml").write_text("models: {h: {backend: numpy}}\n")
    assert source.reload()
    assert list(source.current.models) == ["h", "mine"]


def test_the_excerpt_is_for_a_backend_that_is_installed_if_one_runs_it() -> None:
    found = inspect_model(guide_path())
    lines = list(excerpt(found, Plugins([Ours("numpy")], discover=False)))
    assert (lines[0], "    backend: numpy" in [line[2:] for line in lines]) == ("in bots.yaml:", True)
    lines = list(excerpt(found, Plugins([Ours("glm")], discover=False)))
    assert lines[0] == f"in bots.yaml, after {install_command('backend', 'llama_cpp')}:"
    assert "    backend: llama_cpp" in [line[2:] for line in lines]
