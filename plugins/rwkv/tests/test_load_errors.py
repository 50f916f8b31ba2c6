"""What can't be loaded is refused in words, before anything large is read: what, where, and what to do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_rwkv.checkpoint import read, trained_context

from chatbridge import ConfigError, ModelLoadError, Plugins
from chatbridge.config import load

from .conftest import CONVERTED, TOKENIZER, V4, V7, Load, there
from .weights import write_model

EMPTY: dict[str, Any] = {}


def saved(path: Path, tensors: Any) -> Path:
    torch.save(tensors, path)
    return path


def test_files_that_are_something_else(tmp_path: Path) -> None:
    one = torch.ones(2, 2)
    cases = {
        "gguf": (b"GGUF" + b"\0" * 40, "use `backend: llama_cpp`"),
        "ggml": (b"fmgg" + b"\0" * 40, "another program of GGML's; take the one that it was made from"),
        "safetensors": (b"\x08\0\0\0\0\0\0\0{}      ", "safetensors"),
        "pickle": (b"\x80\x02]q\0.", "no file of torch's"),
        "text": (b"hello, this is no model", "no file of torch"),
        "empty": (b"", "the file is empty"),
    }
    for name, (content, why) in cases.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(ModelLoadError, match=why) as raised:
            read(path)
        assert str(path) in str(raised.value)
    old = tmp_path / "old.pth"
    torch.save({"weight": one}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelLoadError, match=r"a torch before 1\.6"):
        read(old)
    for name, tensors, why in (
        ("hf", {"rwkv.blocks.0.attention.key.weight": one}, "Hugging Face's form"),
        ("init", {"blocks.0.att.time_state": one}, "an initial state and no model"),
        ("lora", {"blocks.0.att.key.lora_A": one}, "merge it into its model"),
        ("other", {"weight": one}, "no RWKV model: it has no emb.weight"),
        ("list", [one], "no RWKV model"),
    ):
        with pytest.raises(ModelLoadError, match=why):
            read(saved(tmp_path / f"{name}.pth", tensors))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"absent\.pth: there is no such file"):
        read(tmp_path / "absent.pth")
    with pytest.raises(ModelLoadError, match="is a folder"):
        read(tmp_path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(ModelLoadError, match="wants to run code"):
        read(saved(tmp_path / "evil.pth", {"emb.weight": Evil()}))
    assert not (tmp_path / "ran").exists()


def complaint(path: Path) -> str | None:
    try:
        read(path)
    except ModelLoadError as error:
        return str(error)
    return None


def test_damaged_files_end_in_words(tmp_path: Path) -> None:
    whole = there(V4).read_bytes()
    rng = random.Random(1)
    for number in range(60):
        damaged = bytearray(whole)
        if number % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            for _ in range(20):
                damaged[rng.randrange(max(0, len(damaged) - 20_000), len(damaged))] = rng.randrange(256)
        path = tmp_path / "damaged.pth"
        path.write_bytes(damaged)
        told = complaint(path)
        assert told is None or str(path) in told


@pytest.mark.parametrize(
    ("path", "options", "why"),
    [
        (V4, {"strategy": "cuda fp16"}, "sees no NVIDIA card; install a torch with CUDA, or write cpu fp32"),
        (V4, {"strategy": "mps fp16"}, "no Apple GPU"),
        (V4, {"strategy": "dml fp16"}, "pip install torch-directml"),
        (V4, {"cuda_kernels": True}, "does nothing without a layer on cuda"),
        (V7, {"strategy": "cpu fp32i8"}, "RWKV-7 is loaded by one device and one type"),
        (V7, {"convert": True}, "leave convert out"),
        (CONVERTED, {"convert": True}, "converted already"),
        (CONVERTED, {"strategy": "cpu fp32 *1 -> cpu bf16"}, "converted for the strategy"),
        (V4, {"tokenizer": None}, r"a vocabulary of \d+ is neither World's"),
        (V4, {"tokenizer": "world"}, "they do not belong together"),
        (V4, {"tokenizer": "absent.json"}, "there is no such file"),
        (V4, {"tokenizer": V4}, "no tokenizer.json"),
        (V4, {"token_ban": [70000]}, "70000 is outside the vocabulary"),
        (V4, {"avoid_repeat": "龘"}, r"'龘' is \d tokens"),
        (V4, {"keep_states": V4}, "keep_states"),
        (V4, {"adapters": {"a": {"init_state": "absent.pth"}}}, "there is no such file"),
    ],
)
def test_options_that_cannot_be_honoured(path: Path, options: dict[str, Any], why: str, model_of: Load) -> None:
    if "cuda" in str(options.get("strategy")) and torch.cuda.is_available():
        pytest.skip("there is a card here")
    with pytest.raises(ModelLoadError, match=why):
        model_of(path, **options)


def test_a_vocabulary_of_raven_asks_for_its_file(tmp_path: Path, model_of: Load) -> None:
    path = write_model(tmp_path / "raven.pth", 4, layers=1, width=32, vocabulary=50277)
    with pytest.raises(ModelLoadError, match=r"20B_tokenizer\.json of BlinkDL/ChatRWKV"):
        model_of(path, tokenizer=None)
    (tmp_path / "20B_tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    assert model_of(path, tokenizer=None).info.details["tokenizer"].startswith("20B")


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("chat_length: [150, 40]", "shorter number first"),
        ("convert_folder: x", "does nothing without convert"),
        ("alpha_decay: 1.5", "has to be at most 1"),
        ("strateggy: cpu fp32", "strategy"),
        ("adapters: {a: {}}", "init_state"),
    ],
)
def test_options_that_bots_yaml_may_not_have(written: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "bots.yaml"
    file.write_text(f"models:\n  m: {{backend: rwkv, path: m.pth, {written}}}\n")
    with pytest.raises(ConfigError, match=why):
        load(file, Plugins())


def test_names_tell_the_context() -> None:
    assert trained_context(Path("RWKV-4-Raven-7B-v12-Eng98%-Other2%-20230521-ctx8192.pth")) == 8192
    assert trained_context(Path("rwkv-x070-world-0.4b-v2.9-20250107-ctx4096.pth")) == 4096
    assert trained_context(Path("rwkv-final.pth")) is None


def test_a_name_without_its_ending_is_understood(model_of: Load) -> None:
    there(V7)
    assert model_of(V7.with_suffix("")).info.name == V7.stem


def test_another_ending_is_no_hindrance(tmp_path: Path, model_of: Load) -> None:
    for source in (V4, V7):
        path = tmp_path / f"{source.stem}.pth.bak"
        path.write_bytes(there(source).read_bytes())
        model = model_of(path)
        assert model.info.fingerprint == model_of(source).info.fingerprint
