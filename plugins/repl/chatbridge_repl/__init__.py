"""The terminal frontend: talk to a bot where you are. Rides in the core's wheel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import Bot, FrontendType
    from chatbridge_repl.options import ReplOptions


@hookimpl
def register_frontends() -> Iterable[FrontendType]:
    from chatbridge import FrontendType
    from chatbridge_repl.options import ReplOptions

    return [FrontendType("repl", ReplOptions, "talk in this terminal", _run, ends=True)]


async def _run(options: ReplOptions, bot: Bot) -> None:
    from chatbridge_repl.terminal import run

    await run(options, bot)
