"""One reply on its way: a handle to follow it and to stop it, and what observers are told at its end.

Knows nothing of conversations, of their order and of how a model is asked: whoever makes the handle brings a function
that gives the chunks, and is alone in writing what is known of the reply.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatbridge.store.inbox import edited
from chatbridge.types import Author, Channel, Chunk, Finish, Message

if TYPE_CHECKING:
    from chatbridge.bots.quotas import Reservation
    from chatbridge.config.settings import ChannelSettings, Settings
    from chatbridge.engine.backend import Backend


@dataclass(frozen=True, slots=True)
class Notice:
    """What chatbridge itself says at once, without the model: the result of a chat command, a limit, a pairing code."""

    text: str


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """What applies to one message, or one press: merged once, when it comes, and carried along with it.

    `merged_from`: what bots.yaml said then; once that has changed, what waits to be answered is merged anew.
    """

    settings: ChannelSettings
    language: str
    merged_from: Settings | None = None


@dataclass(frozen=True, slots=True)
class FinishedReply:
    """A reply that ended, as observers see it: `finish` is set, or, where it failed, `error`.

    `rewritten`: earlier answers that its prompt had as the template writes them, and not as they were sampled.
    """

    bot: str
    channel: Channel
    model: str
    finish: Finish | None
    error: str = ""
    author: Author | None = None
    rewritten: int = 0


@dataclass(slots=True, eq=False)
class ReplyState:
    """What is known of one reply so far. Its dialogue writes it; everybody else reads it through `ReplyStream`.

    `message`: what it answers, until it has begun; a reply that is asked for in another way has none. `gives_way`: it
    is left out where a later message waits already that may take its place. `over`: the ids of those whose replies it
    may itself take the place of, None for everybody's. `context`: what applied to the message when it came, where that
    is known. `reservation`: what it may cost its author, until it has ended. `running`: the backend and the request's
    id, while the model is at it.
    """

    language: str
    author: Author | None = None
    message: Message | None = None
    gives_way: bool = False
    over: Collection[str] | None = None
    context: ReplyContext | None = None
    notices: list[str] = field(default_factory=list)
    finish: Finish | None = None
    node: int | None = None
    reservation: Reservation | None = None
    superseded: bool = False
    stopped: bool = False
    running: tuple[Backend, str] | None = None

    def stop(self) -> None:
        """See `ReplyStream.stop`."""
        self.stopped = True
        if self.running is not None:
            backend, request_id = self.running
            backend.cancel(request_id)

    def supersede(self) -> None:
        """See `ReplyStream.supersede`."""
        self.superseded = True
        self.stop()


Run = Callable[[ReplyState], AsyncGenerator[Chunk, None]]
"""Gives a reply's chunks, once its turn has come, and writes what is known of it."""


class ReplyStream:
    """One reply on its way. Iterate over it, once, for its chunks; it begins when its conversation is free.

    The model's errors are raised from the iteration; the person's message is kept then, too.
    `so_far`: gives the text that the reply goes on with, where it continues another.
    """

    def __init__(self, state: ReplyState, run: Run, *, so_far: Callable[[], Awaitable[str]] | None = None) -> None:
        self.so_far = so_far
        self._state = state
        self._run = run

    @property
    def language(self) -> str:
        """What chatbridge's own lines beside the reply are written in, "en" or "zh"."""
        return self._state.language

    @property
    def author(self) -> Author | None:
        """Whom the reply is for, and whose use of the model it counts as."""
        return self._state.author

    @property
    def notices(self) -> Sequence[str]:
        """Lines for the person, complete with the first chunk that is not `loading`."""
        return self._state.notices

    @property
    def finish(self) -> Finish | None:
        """How it ended, with the last chunk."""
        return self._state.finish

    @property
    def node(self) -> int | None:
        """Where it is kept in the store, once it ended."""
        return self._state.node

    @property
    def superseded(self) -> bool:
        """Whether a later message is answered in its place."""
        return self._state.superseded

    def on_behalf_of(self, author: Author, reservation: Reservation | None = None) -> ReplyStream:
        """This reply, once it counts as that person's use of the model. `reservation`: what was reserved for it."""
        self._state.author, self._state.reservation = author, reservation
        return self

    def reword(self, message: Message) -> bool:
        """Answer these words instead; False where it has begun, which is too late, and for another person's words."""
        waiting = self._state.message
        if waiting is None or waiting.author.id != message.author.id:
            return False
        self._state.message = edited(waiting, message)
        return True

    def stop(self) -> None:
        """End the reply early and keep what came; may be called at any time, also before it has begun."""
        self._state.stop()

    def supersede(self) -> None:
        """End it because a later message is to be answered instead."""
        self._state.supersede()

    def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        return self._run(self._state)
