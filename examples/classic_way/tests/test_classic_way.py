"""The script goes all the way, with a few steps of training; how well the model answers then is not asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]


@pytest.mark.timeout(600)
def test_a_model_goes_all_the_way(tmp_path: Path) -> None:
    for module in ("torch", "sentencepiece", "chatbridge_llama_cpp"):
        pytest.importorskip(module)
    out = str(tmp_path / "out")
    command = [sys.executable, str(HERE / "run.py"), "--out", out, "--steps", "20", "--questions", "1"]
    # One thread: those of torch wait by spinning, which takes a busy machine for minutes.
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=one, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "of 1 answers are right, with weights of 4 bits" in done.stdout
    assert "! it " not in done.stdout
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"llama", "llama-hf", "alpaca-lora", "alpaca-hf", "animals-f16.gguf", "animals-q4_0.gguf"} <= made
