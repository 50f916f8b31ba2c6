from __future__ import annotations

from chatbridge.errors import BackendError
from chatbridge.types import Chunk, Finish, Reply, Usage, Waiting
from chatbridge.worker.protocol import Failure, RequestEvent
from chatbridge.worker.untold import TELL_SECONDS, Untold

END = Finish("end", Reply("ab", (1, 2)), Usage())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def said(text: str, token: int, *, id: str = "a", finish: Finish | None = None, thinking: bool = False) -> RequestEvent:
    return RequestEvent(id, Chunk(text, thinking, finish), tokens=(token,))


def test_the_first_word_is_told_at_once_and_what_follows_it_at_once_is_not() -> None:
    clock = Clock()
    untold = Untold(clock)
    untold.add([said("a", 1)])
    assert untold.due()
    untold.take()
    untold.add([said("b", 2)])
    assert not untold.due()
    clock.now += TELL_SECONDS
    assert untold.due()


def test_an_end_waits_for_nobody() -> None:
    untold = Untold(Clock())
    untold.add([said("a", 1)])
    untold.take()
    untold.add([said("b", 2), said("c", 3, id="other", finish=END)])
    assert untold.due()
    assert [event.id for event in untold.take()] == ["a", "other"]
    assert untold.take() == ()


def test_a_failure_waits_for_nobody_and_keeps_what_came_before_it_apart() -> None:
    untold = Untold(Clock())
    untold.add([said("a", 1)])
    untold.take()
    failure = RequestEvent("a", failure=Failure.of(BackendError("no")))
    untold.add([said("b", 2), failure])
    assert untold.due()
    assert untold.take() == (said("b", 2), failure)


def test_text_and_ids_of_several_steps_are_one_piece_with_its_end() -> None:
    untold = Untold(Clock())
    half = RequestEvent("a", tokens=(7,))  # a token that is no whole character yet
    untold.add([said("a", 1)])
    untold.add([half])
    untold.add([said("b", 2, finish=END)])
    assert untold.take() == (RequestEvent("a", Chunk("ab", finish=END), tokens=(1, 7, 2)),)


def test_thoughts_and_places_in_the_queue_stay_by_themselves() -> None:
    untold = Untold(Clock())
    place = RequestEvent("a", Chunk(waiting=Waiting(1)))
    events = [place, said("hm", 1, thinking=True), said("Yes", 2)]
    untold.add(events)
    assert list(untold.take()) == events


def test_telling_of_nothing_holds_up_no_word() -> None:
    untold = Untold(Clock())
    assert untold.take() == ()
    untold.add([said("a", 1)])
    assert untold.due()
