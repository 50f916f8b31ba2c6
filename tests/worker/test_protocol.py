"""What is said over the socket arrives as it was said, one line each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import Field, SecretStr

from chatbridge import Options, Request, Sampling, Special, Text, Tokens
from chatbridge.errors import BackendError, ChatbridgeError, InvalidRequest, PromptTooLong
from chatbridge.testing import ToyModel
from chatbridge.types import Chunk, Finish, Reply, Usage, Waiting
from chatbridge.worker import protocol as said

PROMPT = (Special("bos"), Text("a\nb \u2028 汉", "person"), Tokens((5, 6)))
REQUEST = Request(PROMPT, id="r", sampling=Sampling(seed=1, stop=("x",)), stop=("y",), resume=(7,))
END = Finish("stop", Reply("a", (1, 2), "t", "v", "thought"), Usage(prompt=3, cached=1, generated=2, seconds=0.5))


@pytest.mark.parametrize(
    "message",
    [
        said.Load("m", "f", "o", "c", {"a": [1, None]}, 4, ["p"], 1 << 30, 5),
        said.Load("m", "f", "o", "c", {}, None, []),
        said.Generate(REQUEST),
        said.Cancel("r"),
        said.Pause("r"),
        said.Ping(),
        said.Query(3, PROMPT, True),
        said.Query(4),
        said.Close(),
    ],
    ids=lambda message: message.kind,
)
def test_what_the_worker_is_told(message: said.ToWorker) -> None:
    line = said.to_worker(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert said.read_to_worker(line) == message


@pytest.mark.parametrize(
    "message",
    [
        said.Loading(0.25, "reading"),
        said.Loaded(replace(ToyModel().info, adapters={"a": "d"})),
        said.LoadFailed(said.Failure("ModelLoadError", "no file")),
        said.Step(("a", "b")),
        said.StepEvents(
            (
                said.RequestEvent("a", Chunk("x", thinking=True), None, (1, 2)),
                said.RequestEvent("b", Chunk(waiting=Waiting(2, 1.5))),
                said.RequestEvent("c", Chunk("", finish=END)),
                said.RequestEvent("d", None, said.Failure("InvalidRequest", "no")),
            )
        ),
        said.Paused("a"),
        said.Pong(1.5, 7, True, 0.5),
        said.QueryResult(3, [1, 2]),
        said.QueryResult(4, None, said.Failure("BackendError", "no")),
    ],
    ids=lambda message: message.kind,
)
def test_what_the_worker_tells(message: said.FromWorker) -> None:
    line = said.from_worker(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert said.read_from_worker(line) == message


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (PromptTooLong("too long"), PromptTooLong, "too long"),
        (InvalidRequest("no such id"), InvalidRequest, "no such id"),
        (ZeroDivisionError("of all things"), BackendError, "ZeroDivisionError: of all things"),
    ],
)
def test_an_error_is_the_same_on_the_other_side(error: Exception, kind: type[ChatbridgeError], words: str) -> None:
    again = said.Failure.of(error).error()
    assert type(again) is kind
    assert str(again) == words


@pytest.mark.parametrize("name", ["NoSuchError", "annotations", "__name__", "Exception"])
def test_whatever_a_worker_calls_an_error_it_is_one_of_ours(name: str) -> None:
    assert type(said.Failure(name, "odd").error()) is BackendError


class Inner(Options):
    key: SecretStr = SecretStr("inner")
    more: tuple[int, ...] = ()


class Outer(Options):
    token: SecretStr
    inner: Inner = Inner()
    by_name: dict[int, SecretStr] = Field(default_factory=dict)
    rate: float = 1.0
    unset: str = "default"
    nothing: str | None = None


def test_options_go_to_the_worker_whole_and_unless_set_not_at_all() -> None:
    options = Outer(token="secret", inner={"more": (1, 2)}, by_name={5: "five"}, rate=0.5, nothing=None)  # type: ignore[arg-type, dict-item]
    assert said.plain_options(options) == {
        "token": "secret",
        "inner": {"key": "inner", "more": [1, 2]},
        "by_name": {"5": "five"},
        "rate": 0.5,
        "nothing": None,
    }
