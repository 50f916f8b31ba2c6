"""What every `Backend` must do, as tests: subclass `BackendContract` and give it your backend by a fixture."""

from __future__ import annotations

import asyncio

import pytest

from chatbridge.engine.backend import Backend, Request
from chatbridge.errors import BackendError
from chatbridge.prompts.segments import Special, Text
from chatbridge.sampling import Sampling
from chatbridge.types import Finish, Turn


class BackendContract:
    """Subclass it and define the async fixture `backend`: a started backend, closed by the fixture afterwards.

    Its model should answer any text with a few words at least. A backend that can't honour one of these may
    override that test with `pytest.mark.xfail(reason=...)` only.
    """

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("define an async fixture `backend` that yields your Backend")

    async def test_streams_an_answer_with_one_finish_at_its_end(self, backend: Backend) -> None:
        """Fails where pieces get lost, doubled, or come after the finish."""
        finishes: list[Finish] = []
        text, late = "", False
        async for chunk in backend.generate(ask("Hello!")):
            late = late or bool(finishes)
            text += chunk.text
            if chunk.finish is not None:
                finishes.append(chunk.finish)
        assert not late
        assert len(finishes) == 1
        assert finishes[0].reply.text == text.strip() == text
        assert text

    async def test_counts_the_prompt_exactly(self, backend: Backend) -> None:
        """Fails where tokens are estimated: histories would be cut too late, or too soon."""
        request = ask("How many tokens are these? 这些是多少个 token？")
        _, finish = await answer(backend, request)
        assert finish.usage.prompt == await backend.count_tokens(request.prompt)
        assert 0 <= finish.usage.cached <= finish.usage.prompt
        assert finish.usage.seconds >= finish.usage.first_token_seconds >= 0

    async def test_max_tokens_is_kept(self, backend: Backend) -> None:
        """Fails where the limit is taken for a wish."""
        _, finish = await answer(backend, ask("Tell me a long story.", max_tokens=3))
        assert finish.usage.generated <= 3
        assert finish.reason in ("length", "end")

    async def test_a_stop_string_is_never_shown(self, backend: Backend) -> None:
        """Fails where stop strings are looked for in single chunks, or are cut off too late."""
        whole, _ = await answer(backend, ask("Hello!"))
        stop = whole[len(whole) // 2 :][:2]
        text, finish = await answer(backend, ask("Hello!", stop=(stop,)))
        assert stop not in text
        assert text == whole.split(stop)[0].strip()
        assert finish.reason == "stop"

    async def test_equal_seeds_repeat(self, backend: Backend) -> None:
        """Fails where chance comes from elsewhere than the seed."""
        first, second = [(await answer(backend, ask("Surprise me.", temperature=1.2, seed=3)))[0] for _ in range(2)]
        assert first == second

    async def test_answers_do_not_mix(self, backend: Backend) -> None:
        """Fails where requests that run side by side see one another."""
        requests = [ask(f"This is room {i}. " * (i + 1)) for i in range(6)]
        alone = [(await answer(backend, request))[0] for request in requests]
        again = [Request(request.prompt, turns=request.turns, sampling=request.sampling) for request in requests]
        together = await asyncio.gather(*(answer(backend, request) for request in again))
        assert [text for text, _ in together] == alone

    async def test_cancelling_ends_an_answer_and_keeps_what_came(self, backend: Backend) -> None:
        """Fails where `cancel` is ignored, or loses the text that people saw."""
        request = ask("Tell me a long story.", max_tokens=400)
        text, finish = "", None
        async for chunk in backend.generate(request):
            backend.cancel(request.id)
            text += chunk.text
            finish = chunk.finish
        assert finish is not None
        assert finish.reply.text == text.strip()
        backend.cancel(request.id)
        backend.cancel("an unknown one")

    async def test_leaving_an_answer_hinders_nobody(self, backend: Backend) -> None:
        """Fails where a listener that leaves keeps its slot, or breaks the stream of others."""
        for _ in range(20):
            chunks = backend.generate(ask("Tell me a long story.", max_tokens=400))
            await anext(chunks)
            await chunks.aclose()
        assert (await answer(backend, ask("Hello!")))[0]

    async def test_a_request_that_can_not_be_served_fails_alone(self, backend: Backend) -> None:
        """Fails where a prompt longer than the context ends the whole engine, or is cut in silence."""
        endless = ask("word " * (backend.info.context_length + 10))
        good = asyncio.create_task(answer(backend, ask("Hello!")))
        with pytest.raises(BackendError):
            await answer(backend, endless)
        assert (await good)[0]

    async def test_a_closed_backend_serves_nobody(self, backend: Backend) -> None:
        """Fails where closing twice raises, or a closed backend waits for ever."""
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(BackendError):
            await answer(backend, ask("Hello!"))


def ask(text: str, **sampling: object) -> Request:
    """A greedy request of one message, by no template."""
    options = Sampling.model_validate({"temperature": 0, "max_tokens": 32, **sampling})
    return Request((Special("bos"), Text(text, "person")), turns=(Turn("user", text),), sampling=options)


async def answer(backend: Backend, request: Request) -> tuple[str, Finish]:
    """All of the answer's text, and how it ended."""
    text, finish = "", None
    async for chunk in backend.generate(request):
        text += chunk.text
        finish = chunk.finish
    assert finish is not None, "the stream ended without a finish"
    return text, finish
