"""What a bot of the terminal accepts in bots.yaml; `chatbridge repl` fills it in from its command line."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chatbridge import Options


class ReplOptions(Options, defer_build=True):
    """Keys of a bot with `frontend: repl`."""

    color: Annotated[
        Literal["auto", "always", "never"],
        Field(description="Colours; auto: where the output is a terminal and NO_COLOR is not set."),
    ] = "auto"
    prompt: Annotated[str | None, Field(description="Answer this one message and end.")] = None
    resume: Annotated[
        str, Field(description="Go on with a conversation, by its id or `latest`; a new one unless set.")
    ] = ""
    commands: Annotated[
        tuple[str, ...], Field(description="Chat commands that are carried out at the start, as `/set seed 7`.")
    ] = ()
