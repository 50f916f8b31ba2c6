"""Which backend is asked for a plan: the first that runs the model, and has its weights in what is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from chatbridge import (
    BackendType,
    ConfigPath,
    Machine,
    MemoryPlan,
    ModelLoadError,
    Options,
    PlanRequest,
    device_plan,
    guide_path,
)  # fmt: skip
from chatbridge.model_files.template_notes import REPORT
from chatbridge.model_tools.fetching.catalogue import catalogue
from chatbridge.model_tools.planning.planner import Wish, plan_place


class Paths(Options):
    path: ConfigPath
    context_length: int | None = None


def backend(name: str, *words: str) -> BackendType:
    """One that has weights in these words alone, and takes 1 GiB for each token of context."""

    def plan(options: Paths, machine: Machine, request: PlanRequest) -> MemoryPlan:
        if request.quantization not in ("", *words):
            raise ModelLoadError(f"{name} has no {request.quantization}")
        context = options.context_length or 8
        share = device_plan(machine, "cpu", {"cache": context << 30})
        return MemoryPlan(str(options.path), name, request.quantization, context, request.conversations, (share,))

    async def connect(options: Any) -> None: ...

    return BackendType(name, Paths, "", connect=connect, plan=plan)


BACKENDS = {one.name: one for one in (backend("llama_cpp", "q4"), backend("numpy", "f32"), backend("transformers"))}


def planned(**wish: Any) -> MemoryPlan:
    return plan_place("llama-7b", BACKENDS, Machine(0), Wish(**wish))


def test_the_first_that_runs_it_is_asked() -> None:
    assert planned().backend == "transformers"
    assert planned(backend="numpy").backend == "numpy"


def test_another_one_is_asked_for_weights_that_the_first_has_not() -> None:
    assert planned(quantization="q4").backend == "llama_cpp"
    assert planned(quantization="f32").backend == "numpy"
    with pytest.raises(ModelLoadError, match="transformers has no q9"):
        planned(quantization="q9")
    with pytest.raises(ModelLoadError, match="numpy has no q4"):
        planned(quantization="q4", backend="numpy")


def test_lengths_and_numbers_go_along() -> None:
    found = planned(context=64, conversations=3)
    assert (found.context, found.conversations, found.devices[0].needed) == (64, 3, 64 << 30)


def test_what_is_wrong_with_one_is_not_tried_with_another() -> None:
    def broken(options: Any, machine: Machine, request: PlanRequest) -> MemoryPlan:
        raise ModelLoadError("too long")

    async def connect(options: Any) -> None: ...

    first = BackendType("transformers", Paths, "", connect=connect, plan=broken)
    with pytest.raises(ModelLoadError, match="too long"):
        plan_place("llama-7b", BACKENDS | {"transformers": first}, Machine(0), Wish())


def test_one_that_is_not_installed_is_named_with_its_package() -> None:
    with pytest.raises(ModelLoadError, match=r"the backend glm is not installed: \S*pip install \S*plugins/glm"):
        plan_place("chatglm-6b", BACKENDS, Machine(0), Wish())


def test_a_name_of_the_catalogue_is_planned_once_it_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATBRIDGE_MODELS", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"not fetched yet .*: chatbridge model pull smollm2-135m; it"):
        plan_place("smollm2-135m", BACKENDS, Machine(0), Wish())
    folder = tmp_path / "smollm2-135m"
    folder.mkdir()
    (folder / REPORT).write_text("{}", encoding="utf-8")
    shutil.copy(guide_path(), folder / catalogue()["smollm2-135m"].run.replace("*", "x"))
    assert plan_place("smollm2-135m", BACKENDS, Machine(0), Wish()).model.startswith(str(folder))
    with pytest.raises(ModelLoadError, match="did you mean 'smollm2-135m'"):
        plan_place("smolm2-135m", BACKENDS, Machine(0), Wish())


def test_a_folder_with_one_gguf_file_is_planned_as_that_file(tmp_path: Path) -> None:
    shutil.copy(guide_path(), tmp_path / "guide.gguf")
    assert plan_place(str(tmp_path), BACKENDS, Machine(0), Wish()).model == str(tmp_path / "guide.gguf")
