"""What a model backend provides: either a `Backend`, or a `LocalModel` that the core runs for it.

Two interfaces. `LocalModel` is synchronous, is called on one thread of a worker process, and schedules nothing: the
core gives it continuous batching, prefix reuse, cancellation, streaming text, crash isolation and restarts. `Backend`
is for engines that bring their own scheduler or server. Neither knows chat services.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from chatbridge.prompts.answer_format import PLAIN, AnswerFormat
from chatbridge.prompts.segments import Prompt, Tokenizer
from chatbridge.sampling import Sampling
from chatbridge.types import Chunk, ModelInfo, Turn

if TYPE_CHECKING:
    from pydantic import BaseModel

    from chatbridge.model_tools.planning.machine import Machine
    from chatbridge.model_tools.planning.memory_plan import MemoryPlan, PlanRequest


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be generated.

    `prompt` holds the rendered segments; `turns` is the same conversation before any template, for servers that
    take messages only. `stop` are the template's stop strings and the person's; `stop_tokens` are control tokens
    (by text) that end the reply besides the model's own. `answer`: how thoughts and answers are marked.
    `speakers`: what lines of a group's people begin with, the bot's own first: an answer ends before such a line, but
    for a thought, and what it begins with itself is left out.
    `show_thinking` streams thoughts as chunks with `thinking=True`; hidden ones are kept in the reply all the same.
    `resume` are ids already generated
    for this answer, by a worker that died: they count as generated and their text is not sent again. `adapter` is one
    of `ModelInfo.adapters`, or empty for the model as it is. `id` is unique among the requests under way.
    """

    prompt: Prompt
    id: str = field(default_factory=lambda: uuid4().hex)
    turns: tuple[Turn, ...] = ()
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    answer: AnswerFormat = PLAIN
    speakers: tuple[str, ...] = ()
    show_thinking: bool = False
    resume: tuple[int, ...] = ()
    adapter: str = ""


class Backend(Protocol):
    """A model that answers many requests at once. All its methods are called in one event loop."""

    @property
    def info(self) -> ModelInfo:
        """What the model says about itself: names, lengths in tokens, control tokens. It never changes.

        Prompts are cut to `context_length` by it, and `fingerprint` and `vocabulary` decide what may be reused.
        """
        ...

    def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Stream the answer; the last chunk carries `finish`. Closing the generator abandons the request.

        Raises: BackendError (or a subclass), before or between chunks.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request early: its last chunk comes soon, with reason "cancelled" and the reply as far as it came.

        An id that is unknown or has ended already is ignored.
        """
        ...

    async def count_tokens(self, prompt: Prompt) -> int:
        """Exactly how many tokens `prompt` is for this model, control tokens among them.

        Raises: TemplateError for a control token that the model does not have; BackendError.
        """
        ...

    async def aclose(self) -> None:
        """Give up everything; requests in flight end as cancelled. Called twice, it does nothing the second time.

        After it, `generate` and `count_tokens` raise BackendError.
        """
        ...


class ModelState(Protocol):
    """What a model remembers of the tokens it has consumed: a KV cache or a recurrent state."""

    @property
    def length(self) -> int:
        """Tokens consumed so far."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that this state alone holds, in bytes."""
        ...

    def fork(self) -> ModelState:
        """An independent copy: neither sees what the other consumes later. Both are released one day."""
        ...

    def trim(self, length: int) -> None:
        """Forget all but the first `length` tokens, 0 to `self.length`. Only called where `ModelInfo.can_trim`.

        With `ModelInfo.bidirectional_until`, never to a length inside of what stands before that token, but for 0.
        """
        ...

    def save(self) -> bytes:
        """Everything needed to go on from here, for `LocalModel.new_state` of a model with the same fingerprint."""
        ...

    def release(self) -> None:
        """Give the memory (or sequence number) back; the state is not used again."""
        ...


@dataclass(slots=True)
class Row:
    """One request's share of a step.

    `tokens`: ids for `state` to consume now, at least one. `sampler`: what `new_sampler` made for this request, or None
    where this is a part of a prompt after which no token is wanted yet. With `ModelInfo.bidirectional_until`, the first
    row of a state has everything up to that token and the token itself, however much it is.
    """

    state: ModelState
    tokens: Sequence[int]
    sampler: Any | None


def check_rows(rows: Sequence[Row], info: ModelInfo) -> None:
    """Raise ValueError for rows that a model with this `info` can't take.

    The core's engine makes no such rows. A model that would wrap or overrun with one calls this at the beginning of
    `step`, for those who call it themselves.
    """
    until = info.bidirectional_until
    for row in rows:
        if not row.tokens or row.state.length + len(row.tokens) > info.context_length:
            raise ValueError(
                f"a row has {len(row.tokens)} tokens after {row.state.length}; it should have at least one, and all "
                f"must fit the context of {info.context_length}"
            )
        if min(row.tokens) < 0 or max(row.tokens) >= info.vocab_size:
            raise ValueError(f"an id is outside the vocabulary of {info.vocab_size}")
        if until is not None and not row.state.length and until not in row.tokens:
            raise ValueError(f"the first row of a state has the token {until}, up to which all is read at once")


class LocalModel(Protocol):
    """A model in this process. All calls but the tokenizer's come from one thread.

    A model whose states are worth keeping over a restart has an attribute `disk_cache` besides, a
    `chatbridge.DiskCache`. What a method raises fails the request that it was called for; if the model then can't even
    read one token, the worker ends and is started again.
    """

    @property
    def info(self) -> ModelInfo:
        """What the model says about itself; see `ModelInfo`. It must not change while the model is loaded."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """May be called from any thread."""
        ...

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> ModelState:
        """An empty state, or the one that `ModelState.save` wrote, for tokens that `adapter` reads.

        `adapter`: a key of `ModelInfo.adapters`, or empty for the model as it is. A state's forks have its adapter.
        Rows of several adapters may come in one step. Raises: BackendError for `saved` bytes that it can't use.
        """
        ...

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> Any:
        """Whatever `step` needs to sample for one request.

        `prompt`: every id before the next token, for penalties. `generated`: how many of them belong to this
        answer already (a resumed request), so that a seeded run goes on where it was.
        Raises: InvalidRequest for options that this model can't honour.
        """
        ...

    def step(self, rows: Sequence[Row]) -> Sequence[Sequence[int]]:
        """Consume the tokens of each row, and sample a token after those of each row that has a sampler.

        `rows`: from 1 to `ModelInfo.max_batch`, each with a state of its own. Returns one sequence of ids for each row,
        in their order: empty where the row has no sampler, otherwise the sampled id. A speculative model may return
        several ids; the state has then consumed all of them but the last. A row that would take too long for the others
        may be left for later, with no id and `state.length` as it was: the next step has it again, so that a long
        prompt can go through the model by some layers at a time.

        Raises: anything; see above. MemoryError where memory is out: kept states are released then, and where that does
        not help the worker is started again.
        """
        ...

    def close(self) -> None:
        """Give back all memory and files. Called once, after every state was released; nothing is called after it."""
        ...


Progress = Callable[[float, str], None]
"""Called while loading: `progress(share, doing)`, a share from 0 to 1 and a word for what is happening."""


@dataclass(frozen=True, slots=True)
class BackendType:
    """What `register_backends` returns: a way to run models, named by `backend:` in bots.yaml.

    `options`: a `chatbridge.Options` subclass whose fields are the keys that a model of this backend accepts.
    A field `adapters`, a mapping by name, says what the `adapter` of a channel may be.
    Give exactly one of `load` (a module-level function that returns a `LocalModel`; it runs in the worker, which
    imports it by name) and `connect` (an async function that returns a `Backend`; it runs in the main process).
    `build_info`: what `chatbridge doctor` tells of the engine, as its version and build flags; may import the library.
    `plan`: says from headers alone what a model with these options takes of a machine, for `chatbridge model plan` and
    `check`; it runs in the main process, imports nothing heavy, and raises ModelLoadError for what can't be at all.
    `load` is to refuse by the same plan (`chatbridge.refuse_what_does_not_fit`).
    `runs`: forms of models that it runs, as `ModelDescription.layout` calls them ("gguf"), or form and architecture
    ("gguf/llama"); by it `chatbridge model inspect` names the backend.
    `cards`: whether it can compute on graphics cards; a plan for some is refused where it can't, and another could.
    `variables`: what the worker's environment has unless the user has set it, for what a library reads when it is
    loaded. How threads of OpenMP and OpenBLAS wait for one another is seen to without it.
    """

    name: str
    options: type[BaseModel]
    summary: str
    load: Callable[[Any, Progress], LocalModel] | None = None
    connect: Callable[[Any], Any] | None = None
    build_info: Callable[[], Mapping[str, str]] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    plan: Callable[[Any, Machine, PlanRequest], MemoryPlan] | None = None
    cards: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.runs, str):
            raise TypeError(f"BackendType {self.name!r}: runs is a tuple of words, as ({self.runs!r},)")
        if (self.load is None) == (self.connect is None):
            raise TypeError(f"BackendType {self.name!r} needs exactly one of load= and connect=")
