"""The backend as the rest of chatbridge meets it: found, configured, loaded in a worker, held to the contracts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chatbridge_transformers.backend import build_info, load, transformers
from chatbridge_transformers.options import TransformersOptions

from chatbridge import LocalModel, ModelLoadError, Plugins
from chatbridge.testing import EngineContract, LocalModelContract, worker_with

from .conftest import BLOOM, LLAMA, Load, copy_of, opened, options_for, recorded
from .random_models import random_model


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded LLaMA with room for longer texts than were recorded."""
    return copy_of(LLAMA / "hf", tmp_path_factory.mktemp("roomy") / "m", max_position_embeddings=512)


class TestLlama(LocalModelContract):
    @pytest.fixture
    def model(self, roomy: Path) -> LocalModel:
        return opened(roomy)


class TestBloom(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return opened(BLOOM / "hf")


class TestOneAfterAnother(LocalModelContract):
    @pytest.fixture
    def model(self, roomy: Path) -> LocalModel:
        return opened(roomy, batched=False)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """A model with a context that the contract's conversations fit into."""
    model = opened(random_model(tmp_path_factory.mktemp("long") / "m", "qwen2"))
    yield model
    model.close()


class TestEngine(EngineContract):
    @pytest.fixture
    def model(self, long: LocalModel) -> LocalModel:
        return long


async def test_a_worker_tells_what_is_really_in_use() -> None:
    options = options_for(LLAMA / "hf", context_length=64, sequences=3, adapters={"alpaca": LLAMA / "alpaca-lora"})
    config = recorded(LLAMA / "hf" / "config.json")
    adapter = recorded(LLAMA / "alpaca-lora" / "adapter_config.json")
    async with worker_with(transformers, options) as backend:
        info = backend.info
    assert (info.architecture, info.vocab_size, info.bos, info.eos) == ("llama", config["vocab_size"], 1, (2,))
    assert (info.context_length, info.max_batch, info.can_trim) == (64, 3, True)
    details = info.details
    assert details["folder"] == str(LLAMA / "hf")
    assert details["weights"] == "float32"
    assert " on cpu" in details["memory"]
    assert details["layers"] == "all on cpu"
    assert details["together"] == "up to 3 conversations, all conversations in one row, without padding"
    assert details["tokenizer"].startswith(f"SentencePiece, {config['vocab_size']} ids for {config['vocab_size']} rows")
    count = config["num_hidden_layers"] * len(adapter["target_modules"])
    assert (
        f"LORA, {2 * count} tensors on {count} layers, rank {adapter['r']}, alpha {adapter['lora_alpha']}, trained on "
        f"{adapter['base_model_name_or_path']}, changes its layers by "
    ) in details["adapter alpaca"]


async def test_a_worker_says_why_a_model_can_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="absent: there is no such folder"):
        async with worker_with(transformers, options_for(tmp_path / "absent")):
            pass


def test_it_is_found_without_importing_the_library() -> None:
    assert Plugins().backends["transformers"] is transformers
    code = (
        "import sys, chatbridge_transformers as t; t.register_backends(); "
        "print({'numpy', 'torch', 'transformers', 'peft'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"


def test_loading_tells_how_far_it_is() -> None:
    told: list[tuple[float, str]] = []
    load(options_for(LLAMA / "hf"), lambda share, doing: told.append((share, doing))).close()
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert "reading weights" in {doing for _, doing in told}


def test_the_doctor_is_told_of_the_engine() -> None:
    assert {"transformers", "peft", "accelerate", "bitsandbytes", "torch", "cards"} <= set(build_info())


def test_fingerprints_tell_what_changes_a_state(tmp_path: Path, model_of: Load) -> None:
    copy = copy_of(LLAMA / "hf", tmp_path / "another-name")
    same = {model_of(folder).info.fingerprint for folder in (LLAMA / "hf", copy)}
    assert len(same) == 1
    others = {
        model_of(copy_of(LLAMA / "hf", tmp_path / "eps", rms_norm_eps=1e-3)).info.fingerprint,
        model_of(LLAMA / "hf", dtype="bfloat16").info.fingerprint,
        model_of(LLAMA / "hf", batched=False).info.fingerprint,
        model_of(LLAMA / "hf", lora=LLAMA / "alpaca-lora").info.fingerprint,
        model_of(LLAMA / "hf", lora={"path": LLAMA / "alpaca-lora", "scale": 0.5}).info.fingerprint,
    }
    assert len(others | same) == 6


def test_a_path_is_beside_bots_yaml_and_a_name_is_not(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for written, path in (("models/mine", tmp_path / "models" / "mine"), ("./x", tmp_path / "x"), ("a/b", "a/b")):
        options = TransformersOptions.model_validate({"path": written}, context={"base": tmp_path})
        assert options.path == str(path)


def test_a_closed_model_serves_nobody() -> None:
    model = opened(LLAMA / "hf")
    state = model.new_state()
    model.close()
    model.close()
    with pytest.raises(ValueError, match="the model was closed"):
        model.logits(state, [1])
