"""What the store keeps, as plain values. Knows no SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatbridge.types import Reply, Role


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of a bot in a channel.

    `head` is the node that was said last on the current branch. `overrides` are settings of this conversation
    alone. `trim` is the node at which prompts begin since history had to be left out, and `trim_room` how many tokens a
    prompt could have then; None where that is not known. `created` in seconds since
    the epoch. `title` is how it began.
    """

    id: int
    bot: str
    channel: str
    head: int | None = None
    trim: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0
    title: str = ""
    trim_room: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One message in a conversation's tree. `partial`: an answer that was stopped, or reached its length limit.

    `author`: the id of the person who wrote it, "" for an answer and where nobody knows.
    """

    id: int
    conversation: int
    parent: int | None
    role: Role
    text: str
    name: str = ""
    trusted: bool = False
    reply: Reply | None = None
    service_id: str | None = None
    created: float = 0.0
    partial: bool = False
    author: str = ""
