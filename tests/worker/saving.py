"""A toy model whose states wait while they are saved, each until a test closes a named pipe; named to a worker."""

from __future__ import annotations

from pathlib import Path

from chatbridge.config.options import Options
from chatbridge.engine.backend import BackendType, LocalModel, Progress
from chatbridge.testing.toy import ToyModel, ToyState


class SavingOptions(Options):
    pipe: Path


class SavingState(ToyState):
    """A state whose `save` waits until somebody has opened the pipe and closed it."""

    def fork(self) -> ToyState:
        return SavingState(self.model, list(super().fork().digests))

    def save(self) -> bytes:
        assert isinstance(self.model, SavingModel)
        self.model.pipe.read_bytes()
        return super().save()


class SavingModel(ToyModel):
    pipe = Path()

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> SavingState:
        return SavingState(self, super().new_state(saved, adapter).digests)


def load(options: SavingOptions, progress: Progress) -> LocalModel:
    model = SavingModel()
    model.pipe = options.pipe
    return model


saving = BackendType("saving", SavingOptions, "", load=load)
