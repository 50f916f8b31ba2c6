"""What the main process and a worker say to each other, and how: one JSON value a line over a socket.

Knows the messages and their form; knows neither end's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SecretStr, TypeAdapter

from chatbridge import errors
from chatbridge.config.bounds import KEPT_STATES
from chatbridge.engine.backend import Request
from chatbridge.errors import BackendError, ChatbridgeError
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, ModelInfo

LINE_LIMIT = 1 << 28
"""Bytes that one message may have; prompts of a million tokens are far below."""


@dataclass(frozen=True, slots=True)
class Load:
    """The first message: load the model by `module.function(options)`; `paths` is `sys.path`.

    `memory_limit`: bytes that the process may have, where the system can limit them. `kept_states`: bytes of states of
    conversations that are not being answered.
    """

    module: str
    function: str
    options_module: str
    options_class: str
    options: dict[str, Any]
    max_batch: int | None
    paths: list[str]
    memory_limit: int | None = None
    kept_states: int = KEPT_STATES
    states_folder: str | None = None
    kind: Literal["load"] = "load"


@dataclass(frozen=True, slots=True)
class Generate:
    """Begin to answer a request."""

    request: Request
    kind: Literal["generate"] = "generate"


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a request early."""

    id: str
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True)
class Pause:
    """Give a request up without an end; it may come again, with the ids that were told so far."""

    id: str
    kind: Literal["pause"] = "pause"


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for a sign of life."""

    kind: Literal["ping"] = "ping"


@dataclass(frozen=True, slots=True)
class Query:
    """A question with one result: the ids of `prompt`, or, without one, the engine's counts (`Engine.stats`).

    `count`: not the ids, but how many they are.
    """

    id: int
    prompt: Prompt | None = None
    count: bool = False
    kind: Literal["query"] = "query"


@dataclass(frozen=True, slots=True)
class StoreStates:
    """Put what was read of conversations on disk: in `folder`, unless the model has a place for it already."""

    id: int
    folder: str
    kind: Literal["store_states"] = "store_states"


@dataclass(frozen=True, slots=True)
class Close:
    """Finish: end all requests as cancelled, and then the process."""

    kind: Literal["close"] = "close"


@dataclass(frozen=True, slots=True)
class Loading:
    """How far loading is, from 0 to 1."""

    share: float
    doing: str
    kind: Literal["loading"] = "loading"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is there."""

    info: ModelInfo
    kind: Literal["loaded"] = "loaded"


@dataclass(frozen=True, slots=True)
class Failure:
    """One of our errors by its class, or any other as a BackendError."""

    name: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        if isinstance(error, ChatbridgeError):
            return cls(type(error).__name__, str(error))
        return cls("BackendError", f"{type(error).__name__}: {error}")

    def error(self) -> ChatbridgeError:
        """The error again, on the other side."""
        kind = getattr(errors, self.name, None)
        known = isinstance(kind, type) and issubclass(kind, ChatbridgeError)
        return kind(self.message) if kind is not None and known else BackendError(self.message)


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model can't be loaded; the process ends."""

    failure: Failure
    kind: Literal["load_failed"] = "load_failed"


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """An `Event` of the engine about the request with this id."""

    id: str
    chunk: Chunk | None = None
    failure: Failure | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepEvents:
    """All that came of one step, in one message: with many rooms a message for each would cost more than the step."""

    events: tuple[RequestEvent, ...]
    kind: Literal["step_events"] = "step_events"


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The result of the `Query` with this id: its value, or why there is none."""

    id: int
    value: Any = None
    failure: Failure | None = None
    kind: Literal["query_result"] = "query_result"


@dataclass(frozen=True, slots=True)
class StatesStored:
    """What came of the `StoreStates` with this id: how many states are on disk, how many are not, or a failure."""

    id: int
    there: int = 0
    missing: int = 0
    failure: Failure | None = None
    kind: Literal["states_stored"] = "states_stored"


@dataclass(frozen=True, slots=True)
class Step:
    """From now on, until the next one, the model works for these requests."""

    ids: tuple[str, ...]
    kind: Literal["step"] = "step"


@dataclass(frozen=True, slots=True)
class Paused:
    """The request with this id was given up; nothing more comes of it."""

    id: str
    kind: Literal["paused"] = "paused"


@dataclass(frozen=True, slots=True)
class Pong:
    """A sign of life: for how many seconds the present step has gone on, and the longest tokenisation.

    `tokens`: how many the step reads. `first`: the model has not ended a step before.
    """

    step_seconds: float = 0.0
    tokens: int = 0
    first: bool = False
    tokenizing_seconds: float = 0.0
    kind: Literal["pong"] = "pong"


ToWorker = Load | Generate | Cancel | Pause | Ping | Query | StoreStates | Close
FromWorker = Loading | Loaded | LoadFailed | Step | StepEvents | Paused | Pong | QueryResult | StatesStored

_to_worker: TypeAdapter[ToWorker] = TypeAdapter(Annotated[ToWorker, Field(discriminator="kind")])
_from_worker: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, Field(discriminator="kind")])


def to_worker(message: ToWorker) -> bytes:
    """One line. Raises ValueError for text that is no Unicode (half characters)."""
    return _to_worker.dump_json(message) + b"\n"


def read_to_worker(line: bytes) -> ToWorker:
    return _to_worker.validate_json(line)


def from_worker(message: FromWorker) -> bytes:
    """One line."""
    return _from_worker.dump_json(message) + b"\n"


def read_from_worker(line: bytes) -> FromWorker:
    return _from_worker.validate_json(line)


def plain_options(options: BaseModel) -> dict[str, Any]:
    """A plugin's options as JSON values, secrets and all: they leave this machine's memory only for the worker's."""

    def plain(value: Any) -> Any:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        if isinstance(value, BaseModel):
            return {name: plain(getattr(value, name)) for name in type(value).model_fields}
        if isinstance(value, dict):
            return {str(key): plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(inner) for inner in value]
        return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

    return {name: plain(getattr(options, name)) for name in options.model_fields_set}
