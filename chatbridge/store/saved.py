"""What a file says of a conversation that somebody saved, looked over as if a stranger had written it.

Nothing in it is trusted: no text as the configuration's, and no ids of answers, which a model would read as they stand;
a conversation that was loaded is read by its texts. Knows the form of the file; stores nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatbridge.errors import StoreError
from chatbridge.store.database import storable

FORMAT = 1
MAX_NODES = 100_000
MAX_TEXT = 1 << 20
"""Characters of one message."""

_LAST_SECOND = 253_402_000_000
"""Shortly before the year 10000, which no calendar here has."""

_MAX_PLACE, _MAX_WHY = 100, 200
"""Characters of where and why a file is refused."""

_Id = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]
_Text = Annotated[str, Field(max_length=MAX_TEXT)]


class SavedNode(BaseModel):
    """One message. `trusted` and `reply` are what the file claims; nobody takes them from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: _Id
    parent: _Id | None
    role: Literal["user", "assistant"]
    text: _Text
    name: Annotated[str, Field(max_length=256)] = ""
    created: Annotated[float, Field(ge=0, le=_LAST_SECOND)]
    partial: Annotated[bool, Field(strict=True)] = False
    trusted: Any = None
    reply: Any = None


class SavedConversation(BaseModel):
    """A conversation: each message after the one that it follows, so that no path can go in a circle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chatbridge: Literal[1]
    head: _Id | None
    overrides: dict[str, Any] = {}
    nodes: Annotated[list[SavedNode], Field(max_length=MAX_NODES)]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        known: set[int | None] = {None}
        for node in self.nodes:
            if node.parent not in known:
                raise ValueError(f"message {node.id} follows {node.parent}, which does not stand before it")
            if node.id in known:
                raise ValueError(f"two messages have the id {node.id}")
            known.add(node.id)
        if self.head not in known:
            raise ValueError(f"it ends at message {self.head}, which is not there")
        return self


def read_saved(exported: object) -> SavedConversation:
    """The conversation that a file holds. Raises StoreError that says what is wrong and where."""
    if not isinstance(exported, dict) or exported.get("chatbridge") != FORMAT:
        raise StoreError(f"this is no conversation saved by chatbridge (format {FORMAT})")
    try:
        return SavedConversation.model_validate(exported)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:_MAX_PLACE]
        why = storable(first["msg"])[:_MAX_WHY]
        raise StoreError(f"the saved conversation is damaged: {place + ': ' if place else ''}{why}") from error
    except RecursionError as error:
        raise StoreError("the saved conversation is damaged: it is nested too deeply") from error
