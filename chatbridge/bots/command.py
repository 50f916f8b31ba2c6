"""What a chat command is, and how a message that calls one is read. Knows no command."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chatbridge.bots.attachments import MAX_NAME
from chatbridge.errors import CommandError
from chatbridge.operations.printable import in_one_line
from chatbridge.suggest import closest
from chatbridge.texts import hint, say

if TYPE_CHECKING:
    from chatbridge.bots.dialogue import Dialogue
    from chatbridge.bots.reply import ReplyStream
    from chatbridge.store import Node
    from chatbridge.types import Message

Ask = Callable[[str], Awaitable[bool]]
"""Asks a person a question that is answered by yes or no."""


MAX_ECHO = 1000
"""Characters of people's own words that are shown to them again; of longer ones the rest is counted."""

_WORDS = frozenset({"name", "id", "code", "user", "key", "value"})


def excerpt(text: str, language: str) -> str:
    """A text, or its beginning and how much more there is where it is long."""
    return text if len(text) <= MAX_ECHO else say(language, "excerpt", text=text[:MAX_ECHO], count=len(text) - MAX_ECHO)


def in_a_list(name: str) -> str:
    """A stranger's name or id as it stands in a list of ours, in a code span: it begins no line, turns nothing around,
    formats nothing and links to nothing."""
    return in_one_line(name, MAX_NAME).replace("`", "'") or "?"


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What a command works on: the conversation, the message that called it, and the person's language.

    `ask`: asks the person at the terminal, who has typed the command, and gives whether they say yes; None where nobody
    is there who could be asked.
    """

    dialogue: Dialogue
    message: Message
    language: str
    ask: Ask | None = None

    async def confirm(self, question: str) -> bool:
        """Whether the person at the terminal says yes; False where nobody is there."""
        return self.ask is not None and await self.ask(question)

    def say(self, key: str, /, **values: object) -> str:
        """One of our sentences. Of what somebody wrote, and it shows again, it has the beginning (`excerpt`); names and
        values are in one line, without what steers a terminal."""
        echoed = {name: self._echoed(name, value) for name, value in values.items() if isinstance(value, str)}
        return say(self.language, key, **{**values, **echoed})

    def _echoed(self, name: str, value: str) -> str:
        if name in _WORDS:
            return excerpt(in_one_line(value), self.language)
        return excerpt(value, self.language) if name == "text" else value

    def error(self, key: str, /, **values: object) -> CommandError:
        return CommandError(self.say(key, **values))

    async def check(self, action: str, node: Node) -> None:
        """Raises CommandError where what was said there is not theirs to change who gave the command."""
        message, dialogue = self.message, self.dialogue
        asker = await dialogue.asker_of(node)
        await dialogue.bot.require(message.author, message.channel, action, self.language, asker=asker)

    def hint(self, name: str, known: Iterable[str]) -> str:
        return hint(self.language, closest(name, known))


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """What `register_chat_commands` returns.

    `run(context, argument)` is an async function that returns text to show, or a reply to stream. It raises
    CommandError with a text for the person. `argument` says what may follow the name, for people; `complete(context)`
    gives values that it may have, for services that suggest them. `terminal_only` commands touch this machine's files:
    they are carried out only for a person who types them at a terminal, see `CommandContext.ask`.
    `admin` commands are for the admins that bots.yaml names. `files`: it reads the files that come with its message,
    with which any other is refused. `repeatable`: it may be carried out again where the
    program ended in the middle of it; of any other the person is told that it may have been carried out or not.
    """

    name: str
    summary: str
    summary_zh: str
    run: Callable[[CommandContext, str], Awaitable[str | ReplyStream]]
    argument: str = ""
    terminal_only: bool = False
    admin: bool = False
    repeatable: bool = False
    files: bool = False
    complete: Callable[[CommandContext], Iterable[str]] | None = None

    def check(self, context: CommandContext) -> None:
        """Raises CommandError where it can't be carried out in that way: away from a terminal, or with files."""
        message = context.message
        if self.terminal_only and (message.channel.kind != "terminal" or context.ask is None):
            raise context.error("terminal_only", name=self.name)
        if message.attachments and not self.files:
            names = ", ".join(in_one_line(file.name, MAX_NAME) for file in message.attachments)
            raise context.error("command_files", name=self.name, names=names)


def parse(text: str) -> tuple[str, str] | None:
    """The name and the argument of a message that is a command, else None. A path such as /usr/bin is none."""
    match = re.match(r"/([A-Za-z][\w-]*)(?!\S)", text)  # no more by a pattern: long runs of blanks would take it long
    return (match[1].lower(), text[match.end() :].strip()) if match else None


def expand(text: str, aliases: Mapping[str, str]) -> str:
    """The command that a message stands for, where its first word is an alias in either case; else the message."""
    word, *rest = text.split(maxsplit=1)[:2] or [""]
    known = {alias.lower(): command for alias, command in aliases.items()}
    return " ".join([known[word.lower()], *rest]) if word.lower() in known else text
