"""The backend as the rest of chatbridge meets it: found, configured, loaded in a worker, held to the contracts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chatbridge_numpy.backend import NumpyOptions, load, numpy
from chatbridge_numpy.describe import recommended
from chatbridge_numpy.model import NumpyModel, load_model
from pydantic import ValidationError

from chatbridge import Backend, LocalModel, ModelLoadError, Plugins
from chatbridge.testing import BackendContract, LocalModelContract, worker_with


class TestModel(LocalModelContract):
    @pytest.fixture
    def model(self, random_path: Path) -> LocalModel:
        return load_model(random_path)


class TestInAWorker(BackendContract):
    @pytest.fixture
    async def backend(self, random_path: Path, warm_workers: None) -> AsyncIterator[Backend]:
        async with worker_with(numpy, NumpyOptions(path=random_path)) as backend:
            yield backend


async def test_a_worker_reports_what_is_really_in_use(random_path: Path, random_model: NumpyModel) -> None:
    async with worker_with(numpy, NumpyOptions(path=random_path, threads=2, context_length=64)) as backend:
        info = backend.info
    assert info.context_length == 64
    assert info.fingerprint == random_model.info.fingerprint
    assert (info.architecture, info.vocab_size, info.bos, info.eos) == ("llama", 480, 1, (2,))
    assert info.details["file"] == str(random_path)
    assert info.details["quantisation"] == "q8_0"
    assert info.details["threads"] == "2"
    assert info.details["parameters"] == "0.1 M"
    assert info.details["memory"] == "0.5 MiB of weights as float32, 0.5 KiB a token of context"


async def test_a_worker_says_why_a_model_can_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"absent\.gguf: there is no such file"):
        async with worker_with(numpy, NumpyOptions(path=tmp_path / "absent.gguf")):
            pass


def test_it_is_found_without_importing_numpy() -> None:
    assert Plugins().backends["numpy"] is numpy
    code = "import sys, chatbridge_numpy as n; n.register_backends(); print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "False\n"


def test_loading_reports_progress(random_path: Path) -> None:
    reports: list[tuple[float, str]] = []
    load(NumpyOptions(path=random_path), lambda share, doing: reports.append((share, doing))).close()
    shares = [share for share, _ in reports]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert "reading weights" in {doing for _, doing in reports}


@pytest.mark.parametrize("bad", [{"context_length": 0}, {"threads": 0}, {"gpu_layers": 1}])
def test_impossible_options_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        NumpyOptions.model_validate(bad)


def test_a_closed_model_refuses_work(random_path: Path) -> None:
    model = load_model(random_path)
    state = model.new_state()
    model.close()
    with pytest.raises(ValueError, match="the model was closed"):
        model.logits(state, [1])


def test_the_sampling_that_a_file_recommends_is_found() -> None:
    metadata = {"general.sampling.temp": 0.25, "general.sampling.top_k": 7, "general.sampling.top_p": -3.0}
    found = recommended(metadata)
    assert found is not None
    assert found.model_dump(exclude_unset=True) == {"temperature": 0.25, "top_k": 7}, "what can't be is left out"
    assert recommended({"general.name": "x"}) is None
