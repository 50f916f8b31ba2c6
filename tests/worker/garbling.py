"""A model of a plugin that gives numbers where words belong: its worker says what nobody can read."""

from __future__ import annotations

from dataclasses import replace

from chatbridge.engine.backend import BackendType, LocalModel, Progress
from chatbridge.testing.toy import ToyModel, ToyOptions


def load(options: ToyOptions, progress: Progress) -> LocalModel:
    model = ToyModel()
    model.info = replace(model.info, details={"layers": 12})  # type: ignore[dict-item]
    return model


garbling = BackendType("garbling", ToyOptions, "a model whose details are no words", load=load)
