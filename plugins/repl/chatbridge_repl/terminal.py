"""Serves a bot in this terminal, in one of three ways: a prompt, one message, or the lines of a pipe.

Puts the pieces of this folder together; knows little itself.
"""

from __future__ import annotations

import asyncio
import getpass
import io
import logging
import os
import stat
import sys
from functools import partial
from pathlib import Path
from typing import Protocol

import click

from chatbridge import Attachment, Author, Bot, ChatbridgeError, printable
from chatbridge_repl.interrupts import on_interrupt, without_echo
from chatbridge_repl.logs import logs_shown
from chatbridge_repl.options import ReplOptions
from chatbridge_repl.plain import Plain, lines
from chatbridge_repl.session import CHANNEL, Session, View
from chatbridge_repl.texts import say, terminal_language
from chatbridge_repl.waiting import Waiting

MAX_PIPED = 16 << 20
"""Bytes that a pipe may give to one message; of what is less, the model reads as much as `max_text` lets it."""

log = logging.getLogger(__name__)

LEAVE = ("/exit", "/quit", "/bye")
"""What people type who don't know of Ctrl-D; no chat commands, since other places have no way out."""


class Prompt(Protocol):
    """Where the person types."""

    async def prompt_async(self) -> str:
        """The next message. Raises: EOFError if the person leaves, KeyboardInterrupt for Ctrl-C."""
        ...


async def run(options: ReplOptions, bot: Bot) -> None:
    """Talk until the person leaves or the input ends.

    Raises: ChatbridgeError where the one message, or one of the lines, was not answered.
    """
    wanted = bot.effective(CHANNEL).language
    language = terminal_language(os.environ) if wanted == "auto" else wanted
    interactive = options.prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    view = _view(options, language, interactive=interactive)
    session = Session(bot, view, _person(), language)
    with logs_shown(partial(_above_the_prompt, view) if interactive else view.notice):
        await session.begin(options.resume, options.commands)
        if options.prompt is not None:
            await session.send(options.prompt, await _piped(options.prompt))
        elif interactive:
            with without_echo():
                session.ask = partial(_ask, language)
                await talk(session, view, _prompt(options, bot, language))
        else:
            await _answer_lines(session, view)


async def talk(session: Session, view: View, prompt: Prompt) -> None:
    """Ask and answer until the person leaves; nothing that goes wrong with an answer ends it."""
    view.notice(say(session.language, "welcome", model=await session.model()))
    with on_interrupt(session.interrupt):
        while (text := await _read(prompt, view, session.language)) is not None:
            await _answer(session, view, text)


async def _read(prompt: Prompt, view: View, language: str) -> str | None:
    """The next message; None if the person leaves."""
    while True:
        try:
            text = await prompt.prompt_async()
        except EOFError:
            return None
        except KeyboardInterrupt:
            view.notice(say(language, "leave"))
            continue
        if text.strip() in LEAVE:
            return None
        if text.strip():
            return text


async def _ask(language: str, question: str) -> bool:
    """Ask the person; whatever is not a yes is a no, Ctrl-C and Ctrl-D too."""
    from chatbridge_repl.prompt import answer_to

    answer = await answer_to(printable(f"{question} {say(language, 'yes_or_no')} "))
    return answer.strip().lower() in ("y", "yes", "是", "好", "对")


async def _answer(session: Session, view: View, text: str) -> None:
    answering = asyncio.create_task(session.send(text))
    try:
        await answering
    except ChatbridgeError as error:
        view.error(str(error))
    except Exception:  # a bug, or a plugin's: what it was is shown, and the talk goes on
        log.exception("this message failed by a mistake in the program")
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if this is not None and this.cancelling():  # not the answer alone: the program ends
            raise
        view.notice(say(session.language, "given_up"))


async def _piped(prompt: str) -> tuple[Attachment, ...]:
    """What a pipe or a file gives to the one message, as a file that comes with it; commands read none."""
    if prompt.startswith("/") or sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ()
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISREG(kind)):
        return ()
    data = await asyncio.to_thread(sys.stdin.buffer.read, MAX_PIPED + 1)
    if len(data) > MAX_PIPED:
        raise ChatbridgeError(say(terminal_language(os.environ), "piped_long", limit=MAX_PIPED >> 20))
    return (Attachment("stdin", "text/plain", data),) if data.strip() else ()


async def _answer_lines(session: Session, view: View) -> None:
    count = failed = 0
    async for line in lines(sys.stdin):
        if line.strip() in LEAVE:
            break
        count += 1
        try:
            await session.send(line)
        except ChatbridgeError as error:
            failed += 1
            view.error(str(error))
    if failed:
        raise ChatbridgeError(say(session.language, "unanswered", failed=failed, count=count))


def _view(options: ReplOptions, language: str, *, interactive: bool) -> View:
    waiting = Waiting(sys.stderr, language, colors=_colors(options))
    one_message = options.prompt is not None
    if options.color == "always" or interactive or (one_message and sys.stdout.isatty()):
        from chatbridge_repl.screen import Screen, console  # rich takes a while to import, and pipes do without

        return Screen(console(options.color), waiting, language, status=interactive)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Windows writes pipes in an old code page: a letter that it lacks must not end the talk.
        sys.stdout.reconfigure(errors="replace")
    return Plain(sys.stdout, sys.stderr, waiting, squeeze=not one_message)


def _prompt(options: ReplOptions, bot: Bot, language: str) -> Prompt:
    from chatbridge_repl.prompt import completions_of, prompt_session  # likewise

    history = Path(click.get_app_dir("chatbridge")) / "history"
    return prompt_session(completions_of(bot, language), history, colors=_colors(options))


def _colors(options: ReplOptions) -> bool:
    return options.color == "always" or (options.color == "auto" and not os.environ.get("NO_COLOR"))


def _above_the_prompt(view: View, text: str) -> None:
    """Show a line that came by itself, whether somebody is typing now or not."""
    from prompt_toolkit.application import get_app_or_none, run_in_terminal

    if get_app_or_none() is None:
        view.notice(text)
    else:
        run_in_terminal(lambda: view.notice(text))


def _person() -> Author:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that has no name
        name = "you"
    return Author("terminal", name)
