"""A model whose library starts a program that goes on when the worker has died, and has the worker's output open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from chatbridge.engine.backend import BackendType, LocalModel, Progress
from chatbridge.testing.toy import ToyModel, ToyOptions


class LeavingOptions(ToyOptions):
    """`pids`: a file for the numbers of the programs, one a line, for the test to end them."""

    pids: Path


def load(options: LeavingOptions, progress: Progress) -> LocalModel:
    helper = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    with options.pids.open("a") as file:
        file.write(f"{helper.pid}\n")
    return ToyModel(eos_every=options.eos_every)


leaving = BackendType("leaving", LeavingOptions, "a model with a helper", load=load)
