"""After a restart a conversation goes on where it was, and next to nothing of it is read again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from chatbridge_llama_cpp.backend import llama_cpp
from chatbridge_llama_cpp.options import LlamaOptions

from chatbridge import Finish, ModelLoadError, Prompt, Request, Sampling, Special, Text, Tokens
from chatbridge.testing import worker_with

from .conftest import EXACT, Load

STORY: Prompt = (Special("bos"), Text("Once upon a time there was a bridge. " * 10))


async def answered(path: Path, prompt: Prompt, **options: object) -> Finish:
    """The answer of a worker that is started for it and ended after it."""
    asked = LlamaOptions.model_validate({"path": path, "threads": 1, **EXACT, **options})
    async with worker_with(llama_cpp, asked) as backend:
        async for chunk in backend.generate(Request(prompt, sampling=Sampling(temperature=0, max_tokens=8))):
            finish = chunk.finish
    assert finish is not None
    return finish


async def test_a_restart_reads_only_what_is_new(random_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "states"
    first = await answered(random_path, STORY, keep_states=folder)
    longer: Prompt = (*STORY, Tokens(first.reply.tokens), Text(" And then?"))
    after = await answered(random_path, longer, keep_states=folder)
    assert first.usage.prompt > 100
    assert after.usage.cached == first.usage.prompt + first.usage.generated - 1
    assert after.reply == (await answered(random_path, longer)).reply
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())


async def test_another_model_takes_nothing_over(random_path: Path, packed_path: Path, tmp_path: Path) -> None:
    await answered(random_path, STORY, keep_states=tmp_path)
    for path, options in ((packed_path, {}), (random_path, {"rope_freq_base": 5000}), (random_path, {"sequences": 2})):
        finish = await answered(path, STORY, keep_states=tmp_path, **options)
        assert finish.usage.cached == 0


def test_a_folder_that_cannot_be_used_is_refused(random_path: Path, model_of: Load) -> None:
    with pytest.raises(ModelLoadError, match="keep_states"):
        model_of(random_path, keep_states=random_path)
