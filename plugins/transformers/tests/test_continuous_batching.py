"""Why the library's own continuous batching computes nothing here: what was found, so that it is seen when it changes.

`ContinuousBatchingManager` runs requests to their end by itself, in a thread of its own. On a processor it answers as
`generate` does for most models. What it can not do is told here, of the version that it was tried with; where such a
test fails with a newer one, its reason is gone. How fast it is says `benchmarks/transformers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from .conftest import BLOOM, LLAMA
from .random_models import random_model

pytestmark = [
    pytest.mark.skipif(
        not transformers.__version__.startswith("5.24."), reason="what was found is of transformers 5.24"
    ),
    pytest.mark.timeout(300),
]
IDS = [(11 * i * i + 5 * i + 7) % 470 for i in range(40)]
PROMPTS = [IDS, IDS[5:20], IDS[:3]]
RIGHT = {
    "qwen2": "sdpa", "qwen3": "sdpa", "mistral": "sdpa", "glm4": "sdpa", "gemma3_text": "sdpa", "gemma2": "eager",
    "gpt_oss": "eager",
}  # fmt: skip
"""Architectures, and an attention of theirs, with which it gave the right ids on a processor."""


def library(folder: Path, attention: str = "sdpa") -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()


def settings(**sampling: Any) -> Any:
    return transformers.GenerationConfig(max_new_tokens=16, eos_token_id=2, pad_token_id=3, **sampling)


def batching() -> Any:
    return transformers.ContinuousBatchingConfig(
        page_size=16, num_blocks=64, max_batch_tokens=64, per_request_processors=True
    )


def by_generate(model: Any) -> list[list[int]]:
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            row = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings(do_sample=False))
        found.append(row[0, len(prompt) :].tolist())
    return found


def by_the_manager(model: Any) -> tuple[list[list[int]], list[str]]:
    """The answers, and what the failed ones say."""
    results = model.generate_batch(
        [list(prompt) for prompt in PROMPTS],
        generation_config=settings(do_sample=False),
        continuous_batching_config=batching(),
    ).values()
    return [one.generated_tokens for one in results], [one.error for one in results if one.error]


@pytest.mark.parametrize("kind", RIGHT)
def test_most_architectures_are_answered_right(kind: str, tmp_path: Path) -> None:
    model = library(random_model(tmp_path / "m", kind), RIGHT[kind])
    assert by_the_manager(model) == (by_generate(model), [])


def test_some_are_not(tmp_path: Path) -> None:
    found, errors = by_the_manager(library(BLOOM / "hf", "eager"))
    assert (found, len(errors)) == ([[], [], []], 3)
    found, errors = by_the_manager(library(random_model(tmp_path / "gpt2", "gpt2"), "eager"))
    assert (found, len(errors)) == ([[], [], []], 3)
    recurrent = library(random_model(tmp_path / "rwkv", "rwkv"), "eager")
    found, errors = by_the_manager(recurrent)
    assert errors == []
    assert found != by_generate(recurrent), "no error, and another answer"


@contextmanager
def manager(**sampling: Any) -> Iterator[Any]:
    found = library(LLAMA / "hf").init_continuous_batching(settings(do_sample=True, **sampling), batching())
    found.start()
    try:
        yield found
    finally:
        found.stop(block=True, timeout=60, hard_stop=True)


def asked(found: Any, requests: Sequence[dict[str, Any]]) -> list[Any]:
    """How each of these requests ends, in their order."""
    for number, more in enumerate(requests):
        found.add_request(IDS[:5], request_id=str(number), max_new_tokens=8, eos_token_id=2, **more)
    ended: dict[str, Any] = {}
    while len(ended) < len(requests):
        result = found.get_result(timeout=60)
        assert result is not None, "the manager tells nothing"
        if result.is_finished():
            ended[result.request_id] = result
    return [ended[str(number)] for number in range(len(requests))]


WISHES: tuple[dict[str, Any], ...] = (
    {"seed": 1}, {"repetition_penalty": 1.5}, {"presence_penalty": 1.0}, {"min_p": 0.2}, {"typical_p": 0.5},
    {"logit_bias": {1: 2.0}}, {"adapter_names": "poet"},
)  # fmt: skip


def test_a_request_has_no_seed_penalty_bias_or_adapter_of_its_own() -> None:
    with manager(temperature=0.7, top_k=50, top_p=0.9) as found:
        for wish, result in zip(WISHES, asked(found, WISHES), strict=True):
            assert f"Unknown logit_processor_kwargs: {{'{next(iter(wish))}'}}" in result.error


def test_a_request_that_can_not_be_sampled_ends_all_others() -> None:
    with manager(temperature=0.7, top_k=50) as found:
        results = asked(found, [{}, {"temperature": 0.0}, {}])
        assert all("probability tensor" in result.error for result in results)
        assert found.add_request(IDS[:5], request_id="later") is None
        assert not found.is_running()
