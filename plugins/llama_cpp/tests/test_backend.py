"""The backend as the rest of chatbridge meets it: found, configured, loaded in a worker, held to the contracts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chatbridge_llama_cpp.backend import build_info, llama_cpp, load
from chatbridge_llama_cpp.options import LlamaOptions

from chatbridge import Backend, LocalModel, ModelLoadError, Plugins
from chatbridge.testing import BackendContract, LocalModelContract, worker_with

from .conftest import EXACT, Load, opened


class TestModel(LocalModelContract):
    @pytest.fixture
    def model(self, random_path: Path) -> LocalModel:
        return opened(random_path, **EXACT)


class TestModelInOnePool(LocalModelContract):
    @pytest.fixture
    def model(self, random_path: Path) -> LocalModel:
        return opened(random_path, **EXACT, unified=True)


class TestModelWithTwoSequences(LocalModelContract):
    """Nearly every state is swapped out and comes back here."""

    @pytest.fixture
    def model(self, random_path: Path) -> LocalModel:
        return opened(random_path, **EXACT, sequences=2)


class TestModelThatGuesses(LocalModelContract):
    @pytest.fixture
    def model(self, random_path: Path) -> LocalModel:
        return opened(random_path, **EXACT, draft="lookup", draft_tokens=3)


@pytest.mark.warm("llama_cpp")
class TestInAWorker(BackendContract):
    @pytest.fixture
    async def backend(self, random_path: Path, warm_workers: None) -> AsyncIterator[Backend]:
        options = LlamaOptions.model_validate({"path": random_path, "threads": 1, **EXACT})
        async with worker_with(llama_cpp, options) as backend:
            yield backend


async def test_a_worker_reports_what_is_really_in_use(packed_path: Path) -> None:
    options = LlamaOptions(path=str(packed_path), threads=2, context_length=64, sequences=3)
    async with worker_with(llama_cpp, options) as backend:
        info = backend.info
    assert info.context_length == 64
    assert info.max_batch == 3
    assert (info.architecture, info.vocab_size, info.bos, info.eos) == ("llama", 480, 1, (2,))
    assert info.details["file"] == str(packed_path)
    assert info.details["quantisation"] == "Q8_0"
    assert info.details["context"] == "64 tokens for each of 3 conversations at once, cells of their own"
    assert info.details["threads"] == "2, 2 for prompts"
    assert info.details["waiting threads"].startswith("OMP_WAIT_POLICY=passive")
    assert info.details["layers on gpu"] == "0 of 3"
    assert info.details["tokenizer"] == "SentencePiece BPE"
    # 256 cells at least for each, two layers, keys and values of two heads of 16, as f16.
    assert f"{3 * 256 * 2 * 2 * 32 * 2 / 2**20:.1f} MiB cache on CPU" in info.details["memory"]


def test_flash_attention_is_reported_where_it_is_on(random_path: Path, model_of: Load) -> None:
    for asked, shown in ((True, "on"), (False, "off"), ("auto", "off")):
        assert model_of(random_path, flash_attention=asked, gpu_layers=0).info.details["flash attention"] == shown


async def test_a_worker_says_why_a_model_can_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"absent\.gguf: there is no such file"):
        async with worker_with(llama_cpp, LlamaOptions(path=str(tmp_path / "absent.gguf"))):
            pass


def test_it_is_found_without_importing_the_library() -> None:
    assert Plugins().backends["llama_cpp"] is llama_cpp
    code = (
        "import sys, chatbridge_llama_cpp as n; n.register_backends(); print({'numpy', 'llama_cpp'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"


def test_loading_reports_progress(random_path: Path) -> None:
    reports: list[tuple[float, str]] = []
    load(LlamaOptions(path=str(random_path)), lambda share, doing: reports.append((share, doing))).close()
    shares = [share for share, _ in reports]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert "reading weights" in {doing for _, doing in reports}


def test_the_doctor_shows_the_build() -> None:
    info = build_info()
    assert info["llama-cpp-python"].startswith("0.3.")
    assert set(info) == {"llama-cpp-python", "llama.cpp", "gpu", "blas", "instructions"}


def test_fingerprints_differ_where_states_do(random_path: Path, meta_path: Path, model_of: Load) -> None:
    same = {model_of(random_path, **options).info.fingerprint for options in ({}, {"threads": 2}, {"batch": 64})}
    assert len(same) == 1
    changed = (
        {"kv_type_k": "bf16"},
        {"rope_freq_base": 5000},
        {"unified": True},
        {"flash_attention": False},
        {"sequences": 2},
    )
    others = {model_of(random_path, **options).info.fingerprint for options in changed}
    assert len(others | same | {model_of(meta_path).info.fingerprint}) == 7


def test_a_closed_model_refuses_work(random_path: Path) -> None:
    model = opened(random_path)
    state = model.new_state()
    model.close()
    model.close()
    with pytest.raises(ValueError, match="the model was closed"):
        model.logits(state, [1])
