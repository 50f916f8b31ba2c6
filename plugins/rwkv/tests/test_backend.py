"""The backend as the rest of chatbridge meets it: found, configured, loaded in a worker, held to the contracts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chatbridge_rwkv.backend import build_info, load, rwkv
from chatbridge_rwkv.options import RwkvOptions

from chatbridge import DiskCache, LocalModel, ModelLoadError, Plugins
from chatbridge.testing import EngineContract, LocalModelContract, worker_with

from .conftest import V4, V7, Load, opened, options_for, sizes, there, vocabulary
from .weights import write_model


class TestEngineOnV4(EngineContract):
    @pytest.fixture
    def model(self, v4: LocalModel) -> LocalModel:
        return v4


class TestEngineOnV7(EngineContract):
    @pytest.fixture
    def model(self, v7: LocalModel) -> LocalModel:
        return v7


class TestV4(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return opened(V4)


class TestV7(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return opened(V7)


class TestV6(LocalModelContract):
    @pytest.fixture
    def model(self, tmp_path: Path) -> LocalModel:
        return opened(write_model(tmp_path / "m.pth", 6, layers=1))


class TestV4AsThePackageRunsIt(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return opened(V4, batched=False, jit=False)


async def test_a_worker_tells_what_is_really_in_use() -> None:
    options = options_for(V4, strategy="cpu fp32 *1 -> cpu bf16i8", context_length=64)
    size = sizes(V4)
    async with worker_with(rwkv, options) as backend:
        info = backend.info
    assert (info.architecture, info.vocab_size, info.bos, info.eos) == ("RWKV-4", size.vocabulary, None, (0,))
    assert (info.context_length, info.can_trim) == (64, False)
    assert info.details["file"] == str(V4)
    assert info.details["strategy"] == "cpu fp32 *1 -> cpu bf16i8"
    assert info.details["memory"].startswith("layer 1 on cpu in fp32, ")
    assert f"layers 2 to {size.layers} and the head on cpu in bf16 with weights of 8 bits" in info.details["memory"]
    assert info.details["together"] == "up to 32 conversations in one batch"
    assert info.details["tokenizer"] == f"20B, {vocabulary()} ids for {size.vocabulary} rows"
    assert info.details["threads"] == "1"
    assert "JIT off, CUDA kernels off" in info.details["rwkv"]


def test_it_is_found_without_importing_the_library() -> None:
    assert Plugins().backends["rwkv"] is rwkv
    code = "import sys, chatbridge_rwkv as r; r.register_backends(); print({'numpy', 'torch', 'rwkv'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"


def test_loading_tells_how_far_it_is() -> None:
    told: list[tuple[float, str]] = []
    load(options_for(V7), lambda share, doing: told.append((share, doing))).close()
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert "reading weights" in {doing for _, doing in told}


def test_the_doctor_is_told_of_the_engine() -> None:
    assert set(build_info()) == {"rwkv", "torch", "cards", "threads"}


def test_fingerprints_tell_what_changes_a_state(tmp_path: Path, model_of: Load) -> None:
    copy = tmp_path / "another-name.pth"
    copy.write_bytes(there(V4).read_bytes())
    same = {model_of(path).info.fingerprint for path in (V4, copy)}
    assert len(same) == 1
    others = {
        model_of(V7).info.fingerprint,
        model_of(V4, strategy="cpu bf16").info.fingerprint,
        model_of(V4, strategy=f"cpu fp32 *{sizes(V4).layers} -> cpu bf16").info.fingerprint,
        model_of(V4, batched=False).info.fingerprint,
        model_of(write_model(tmp_path / "m.pth", 4, layers=sizes(V4).layers, width=sizes(V4).width)).info.fingerprint,
    }
    assert len(others | same) == 6


def test_a_converted_file_is_kept_for_the_next_start(tmp_path: Path, model_of: Load) -> None:
    options = {"strategy": "cpu fp32i8", "convert": True, "convert_folder": tmp_path / "cache"}
    first = model_of(V4, **options)
    (kept,) = (tmp_path / "cache").iterdir()
    assert first.info.details["converted"] == str(kept)
    written = kept.stat().st_mtime_ns
    again = model_of(V4, **options)
    assert kept.stat().st_mtime_ns == written
    plain = model_of(V4, strategy="cpu fp32i8")
    ids = [5, 6, 7]
    expected = plain.logits(plain.new_state(), ids)
    for model in (first, again):
        # Weights that lie elsewhere in memory may be added up in another order.
        np.testing.assert_allclose(model.logits(model.new_state(), ids), expected, rtol=0, atol=1e-3)
        assert model.info.fingerprint == plain.info.fingerprint
    model_of(V4, **{**options, "strategy": "cpu bf16i8"})
    assert len([*(tmp_path / "cache").iterdir()]) == 2


def test_a_conversion_that_can_not_be_kept_says_so(tmp_path: Path, model_of: Load) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelLoadError, match=r"convert: .* can't be written"):
        model_of(V4, convert=True, convert_folder=tmp_path / "file" / "cache")


def test_a_user_without_a_home_is_asked_for_a_folder(model_of: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ModelLoadError, match="name another one as convert_folder"):
        model_of(V4, convert=True)


def test_states_are_kept_beside_bots_yaml_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    for written, folder in (({}, tmp_path / "rwkv-states"), ({"keep_states": "x"}, tmp_path / "x")):
        options = RwkvOptions.model_validate({"path": "m.pth", **written}, context={"base": tmp_path})
        assert options.path == tmp_path / "m.pth"
        kept = DiskCache.from_options(options, "mark")
        assert kept is not None
        assert kept.folder == folder
        assert "keep_states" in options.model_fields_set, "the worker would not be told"
    options = RwkvOptions.model_validate({"path": "m.pth", "keep_states": False}, context={"base": tmp_path})
    assert DiskCache.from_options(options, "mark") is None


def test_a_closed_model_serves_nobody() -> None:
    model = opened(V4)
    state = model.new_state()
    model.close()
    model.close()
    with pytest.raises(ValueError, match="the model was closed"):
        model.logits(state, [1])
