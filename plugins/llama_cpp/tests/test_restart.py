"""After a restart a conversation goes on where it was, and next to nothing of it is read again."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from chatbridge_llama_cpp.backend import llama_cpp
from chatbridge_llama_cpp.options import LlamaOptions

from chatbridge import Finish, ModelLoadError, Prompt, Request, Sampling, Special, Text, Tokens
from chatbridge.testing import llama_metadata, random_llama, sentencepiece_metadata, worker_with, write_gguf

from .conftest import EXACT, SIZE, Load

pytestmark = [pytest.mark.usefixtures("warm_workers"), pytest.mark.warm("llama_cpp")]

STORY: Prompt = (Special("bos"), Text("Once upon a time there was a bridge. " * 10))


async def answered(path: Path, prompt: Prompt, adapter: str = "", **options: object) -> Finish:
    """The answer of a worker that is started for it and ended after it."""
    asked = LlamaOptions.model_validate({"path": path, "threads": 1, **EXACT, **options})
    async with worker_with(llama_cpp, asked) as backend:
        request = Request(prompt, sampling=Sampling(temperature=0, max_tokens=8), adapter=adapter)
        async for chunk in backend.generate(request):
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


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory, words: sentencepiece.SentencePieceProcessor) -> Path:
    size = {**SIZE, "context": 2304}
    path = tmp_path_factory.mktemp("long") / "long.gguf"
    return write_gguf(path, llama_metadata(**size) | sentencepiece_metadata(words), random_llama(**size))


@pytest.mark.parametrize("adapter", ["", "other"])
async def test_of_two_thousand_tokens_at_most_one_in_a_hundred_is_read_again(
    long_path: Path, tmp_path: Path, adapter: str
) -> None:
    pairs = {"blk.0.attn_q.weight.lora_a": np.ones((4, 64)), "blk.0.attn_q.weight.lora_b": np.ones((64, 4))}
    metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}
    options = {
        "keep_states": tmp_path / "states",
        "adapters": {"other": write_gguf(tmp_path / "other.gguf", metadata, pairs)},
    }
    story: Prompt = (Special("bos"), *STORY[1:] * 10)
    first = await answered(long_path, story, adapter, **options)
    assert first.usage.prompt > 2000
    longer: Prompt = (*story, Tokens(first.reply.tokens), Text(" And then?"))
    after = await answered(long_path, longer, adapter, **options)
    assert after.usage.read <= 0.01 * after.usage.prompt
    assert (await answered(long_path, longer, "" if adapter else "other", **options)).usage.cached == 0


async def test_another_model_takes_nothing_over(random_path: Path, packed_path: Path, tmp_path: Path) -> None:
    await answered(random_path, STORY, keep_states=tmp_path)
    for path, options in ((packed_path, {}), (random_path, {"rope_freq_base": 5000}), (random_path, {"sequences": 2})):
        finish = await answered(path, STORY, keep_states=tmp_path, **options)
        assert finish.usage.cached == 0


def test_a_folder_that_cannot_be_used_is_refused(random_path: Path, model_of: Load) -> None:
    with pytest.raises(ModelLoadError, match="keep_states"):
        model_of(random_path, keep_states=random_path)
