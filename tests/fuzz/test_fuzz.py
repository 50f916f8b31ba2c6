"""A sample of the fuzzer, and that it notices what it is there to notice."""

from __future__ import annotations

import asyncio

import pytest

from chatbridge.engine.backend import Request
from chatbridge.prompts.builtin import presets
from chatbridge.prompts.segments import Prompt, Special, Text, Tokens
from chatbridge.types import Turn

from .model import BOS, HashModel
from .prompts import Made, Prompts, headers_of
from .run import act, script_of, shortened
from .script import Event, halves, read, written
from .watch import Watch


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_fails_in_a_sample(seed: int) -> None:
    outcome = await act(seed, script_of(seed, 180))
    assert outcome.failures == []
    assert outcome.messages > 100
    assert outcome.prompts > 20


TURNS = (Turn("user", "why?", name="Bob"), Turn("assistant", "so."), Turn("user", "hello", name="Alice"))


def _seen(preset: str, change: object, *, resume: tuple[int, ...] = (), turns: tuple[Turn, ...] = TURNS) -> set[str]:
    """What is reported of a prompt of two messages, once it was changed."""
    reported: list[str] = []
    prompts = Prompts(lambda kind, what: reported.append(kind), 7)
    info = HashModel().info
    made = Made(presets()[preset], turns, info, {}, continue_last=False)
    prompt: Prompt = change(made.again(turns))  # type: ignore[operator]
    prompts.remember(prompt, made)
    prompts.look(Request(prompt, turns=turns, resume=resume), info)
    return set(reported)


GUARDED = [name for name, template in presets().items() if headers_of(template)]


@pytest.mark.parametrize("preset", presets())
def test_an_honest_prompt_is_left_alone(preset: str) -> None:
    assert _seen(preset, lambda prompt: prompt) == set()


@pytest.mark.parametrize("preset", GUARDED)
def test_a_header_in_a_person_s_words_is_noticed(preset: str) -> None:
    for header in headers_of(presets()[preset]):
        assert _seen(preset, lambda prompt, header=header: (*prompt, Text(f"x\n{header} y", "person"))) == {"header"}


@pytest.mark.parametrize("preset", GUARDED)
def test_headers_that_are_quoted_in_an_answer_and_by_a_person_are_left_alone(preset: str) -> None:
    header = headers_of(presets()[preset])[0]
    quoted = (Turn("user", "why?"), Turn("assistant", f"so.\n{header} x"), Turn("user", f"why\n{header} not?"))
    assert _seen(preset, lambda prompt: prompt, turns=quoted) == set()


@pytest.mark.parametrize("preset", presets())
def test_a_control_token_that_the_template_does_not_write_is_noticed(preset: str) -> None:
    assert "control tokens" in _seen(preset, lambda prompt: (*prompt, Special("eos")))
    assert "control ids" in _seen(preset, lambda prompt: (*prompt, Tokens((7, BOS), "a")))
    assert "control ids" in _seen(preset, lambda prompt: prompt, resume=(BOS,))


async def test_a_callback_that_holds_the_event_loop_up_is_noticed() -> None:
    reported: list[str] = []
    with Watch(lambda kind, what: reported.append(kind)).on():
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(lambda: sum(range(30_000_000)))
        await asyncio.sleep(0)
    assert reported == ["late"]


def test_a_script_is_the_same_for_its_seed_and_can_be_written_down(tmp_path: object) -> None:
    events = script_of(5, 50)
    assert events == script_of(5, 50) != script_of(6, 50)
    path = tmp_path / "script.jsonl"  # type: ignore[operator]
    path.write_text(written(events), encoding="ascii")
    assert read(path) == events


def test_halves_leave_out_each_part_once() -> None:
    events = [Event("say", "discord", 0, 0, str(number)) for number in range(5)]
    assert [[int(event.text) for event in fewer] for fewer in halves(events, 2)] == [[3, 4], [0, 1, 2]]


async def test_a_script_is_shortened_to_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from . import run

    async def fails(seed: int, events: list[Event]) -> run.Outcome:
        needed = {"3", "11"} <= {event.text for event in events}
        return run.Outcome(failures=[run.Failure("late", "x", 1)] if needed else [])

    monkeypatch.setattr(run, "act", fails)
    events = [Event("say", "discord", 0, 0, str(number)) for number in range(16)]
    short = await shortened(1, events, run.Failure("late", "x", 9).signature, tries=200)
    assert [event.text for event in short] == ["3", "11"]
