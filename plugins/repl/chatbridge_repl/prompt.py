"""Reads what the person types, by prompt_toolkit: several lines, history, completion. Knows no model's answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.styles import Style

from chatbridge import Bot, ChannelSettings, Sampling

Completions = Callable[[str], Mapping[str, str]]
"""What may follow a command, each with what it means; the commands themselves for an empty name."""

UNSET = ("model", "template", "system", "sampling", "reply_to")
"""Settings that /set leaves alone: most have a command of their own."""

FILES = ("save", "load")
"""Commands that a path follows."""


def prompt_session(
    completions: Completions, history: Path, *, colors: bool, input: Input | None = None, output: Output | None = None
) -> PromptSession[str]:
    """The prompt; `prompt_async` raises EOFError for Ctrl-D, and KeyboardInterrupt for Ctrl-C on an empty line."""
    return PromptSession(
        [("class:prompt", "you> ")],
        multiline=True,
        prompt_continuation=lambda width, line, wrapped: [("class:prompt", " " * width if wrapped else "   . ")],
        key_bindings=key_bindings(),
        completer=ChatCompleter(completions),
        history=_history(history),
        style=Style([("prompt", "bold ansicyan")]),
        color_depth=None if colors else ColorDepth.DEPTH_1_BIT,
        input=input,
        output=output,
    )


async def answer_to(question: str) -> str:
    """What the person types on one line; "" for Ctrl-C and Ctrl-D. It is no message, and not kept in the history."""
    try:
        return await PromptSession[str]().prompt_async(question)
    except (EOFError, KeyboardInterrupt):
        return ""


def key_bindings() -> KeyBindings:
    """Enter sends, Alt-Enter (or Esc, then Enter) breaks the line, Ctrl-C clears what was typed."""
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _break(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c", filter=~is_searching)
    def _clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


class ChatCompleter(Completer):
    """Completes commands and what follows them."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        match = re.fullmatch(r"/(?:([\w-]+)\s+)?(\S*)", document.text_before_cursor)
        if match is None:
            return
        command, typed = match[1] or "", match[2]
        if command in FILES:
            yield from self._paths.get_completions(Document(typed), complete_event)
            return
        for word, meaning in self._completions(command).items():
            if word.startswith(typed):
                yield Completion(word, -len(typed), display_meta=meaning)


def completions_of(bot: Bot, language: str) -> Completions:
    """What a bot's commands take, as the settings are at the time."""

    def completions(command: str) -> Mapping[str, str]:
        settings = bot.services.settings
        match command:
            case "":
                known = bot.services.hooks.chat_commands.values()
                return {one.name: one.summary_zh if language == "zh" else one.summary for one in known}
            case "model":
                return {name: model.backend for name, model in settings.models.items()}
            case "template":
                return {name: template.summary for name, template in settings.templates.items()}
            case "set":
                fields = {**Sampling.model_fields, **ChannelSettings.model_fields}
                return {name: field.description or "" for name, field in fields.items() if name not in UNSET}
            case _:
                return {}

    return completions


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # what people say to a model on their own computer is theirs alone
    except OSError:  # a home that can't be written to takes the history away, not the talk
        return InMemoryHistory()
    return FileHistory(path)
