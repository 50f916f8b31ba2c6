"""Does in the rooms what a script says, and knows what has to come of it. Knows no prompt and no event loop."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import regex
from chatbridge_discord.commands import MENUS, option_name

from chatbridge import without_name
from chatbridge.bots.command import expand, parse
from chatbridge.testing.discord.state import Refusal, walk
from chatbridge.testing.wire.forms import Upload
from chatbridge.texts import LANGUAGES, say

from . import words
from .rooms import STRANGERS, Room, Stage
from .script import Event

OFFERS = frozenset(say(language, "edited") for language in LANGUAGES)
EMOJI = ("👍", "🔥", "😢")
LONG = 12
"""A notice may need so many messages more: what it repeats may be long."""
_CAPTION = 900


@dataclass(slots=True)
class People:
    """`said`: how many messages were written. `interactions`: those of Discord that wait for their answer."""

    stage: Stage
    said: int = 0
    interactions: list[Any] = field(default_factory=list)
    extra: list[Room] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)
    _fresh: set[int] = field(default_factory=set)
    """The messages of this round, which may be waiting for their answer."""
    _channels: dict[int, Any] = field(default_factory=dict)

    async def do(self, event: Event) -> bool:
        """One event; False where it can't be done now, as its message is not there."""
        room = self.stage.rooms[event.service][event.room]
        person = event.person if room.owner is None else room.owner
        try:
            return bool(await _DO[event.kind](self, event, room, person))
        except (ValueError, LookupError, Refusal):  # no client would let them
            return False

    @property
    def rooms(self) -> list[Room]:
        return [*self.stage.rooms["discord"], *self.stage.rooms["telegram"], *self.extra]

    @property
    def waiting(self) -> list[Any]:
        """The interactions whose answer has not come."""
        return [one for one in self.interactions if one.kind is None or _thinks(one.response)]

    def new_round(self) -> None:
        """Everybody has their answer."""
        self._fresh.clear()
        self.interactions.clear()

    # --- what is to come of it ---------------------------------------------------------------------------------

    def _expect(
        self, room: Room, person: int, text: str, *, called: bool = False, mentioned: bool = False, sure: bool = True
    ) -> None:
        """That a message is answered, or is not. `called`: it is meant for the bot. `sure`: that is all that counts."""
        low, high = self._wanted(room, text, called, mentioned)
        if (parse(expand(text, room.settings.aliases)) or ("",))[0] == "stop":
            low -= 1  # what it stops before its first word is shown nowhere
        stranger = self.stage.kind == "paired" and person in STRANGERS
        limited = self.stage.kind == "limited" and person != 0
        if stranger or limited or not sure or room.settings.follow_up != "queue":
            low, high = 0, max(high, int(stranger))
        room.expected[0] += low
        room.expected[1] += high

    def _wanted(self, room: Room, text: str, called: bool, mentioned: bool) -> tuple[int, int]:
        settings, group = room.settings, room.owner is None
        call = parse(expand(text, settings.aliases))
        if call is not None:
            known = call[0] in self.stage.bridge.plugins.chat_commands or (call[0] == "start" and not group)
            return (1, 1 + LONG) if known or mentioned or not group else (0, 0)
        if settings.prefix and text.startswith(settings.prefix):
            wanted = bool(text[len(settings.prefix) :].strip())
        else:
            wanted = not group or called or settings.reply_to == "always"
            wanted = wanted or bool(settings.pattern and regex.search(settings.pattern, text))
        return int(wanted), int(wanted)

    # --- messages ----------------------------------------------------------------------------------------------

    async def _say(self, event: Event, room: Room, person: int, **more: Any) -> bool:
        server, author = self.stage.servers[room.service], self.stage.people[room.service][person]
        mention = more.get("mention", False)
        message = await server.say(room.place, event.text, author=author, **more)
        self.said += 1
        room.said.append(message)
        self._fresh.add(id(message))
        text = _text(message)
        if mention:
            name = rf"<@!?{server.bot.user.id}>" if room.service == "discord" else rf"@{server.bot.user.username}\b"
            text = without_name(text, name)
        replied = more.get("reply_to")
        called = mention or (replied is not None and replied.id in {one.id for one in self.stage.shown(room)})
        self._expect(room, person, text, called=called, mentioned=mention, sure="behind" not in more)
        return True

    async def _mention(self, event: Event, room: Room, person: int) -> bool:
        return await self._say(event, room, person, mention=True)

    async def _reply(self, event: Event, room: Room, person: int) -> bool:
        there = [*self.stage.shown(room)[-20:], *(one for one in room.said[-20:] if not one.deleted)]
        if not there:
            return False
        return await self._say(event, room, person, reply_to=there[event.pick % len(there)])

    async def _file(self, event: Event, room: Room, person: int) -> bool:
        import random

        name, content = words.file(random.Random(event.pick), 3200)
        kind = "image/png" if name.endswith(".png") else "text/plain"
        file = Upload(name, content * event.repeat, kind)
        server, author = self.stage.servers[room.service], self.stage.people[room.service][person]
        text = words.cut(event.text, _CAPTION)
        files: dict[str, Any] = {"files": [file]} if room.service == "discord" else {"file": file}
        message = await server.say(room.place, text, author=author, **files)
        self.said += 1
        room.said.append(message)
        self._fresh.add(id(message))
        self._expect(room, person, _text(message), sure=bool(_text(message)) or room.owner is not None)
        return True

    async def _behind(self, event: Event, room: Room, person: int) -> bool:
        if room.service != "telegram" or room.owner is not None:
            return False
        server, author = self.stage.servers["telegram"], self.stage.people["telegram"][person]
        channel = self._channels.setdefault(person, server.add_channel(f"{author.first_name}'s", owner=author))
        return await self._say(event, room, person, behind=channel)

    async def _forward(self, event: Event, room: Room, person: int) -> bool:
        others = self.stage.rooms[room.service]
        source = others[event.pick % len(others)]
        there = [one for one in (*source.said, *self.stage.shown(source)) if not one.deleted]
        if not there:
            return False
        server, author = self.stage.servers[room.service], self.stage.people[room.service][person]
        message = await server.forward(there[event.pick % len(there)], room.place, author=author)
        self.said += 1
        room.expected[1] += 1 + LONG
        return not message.deleted

    async def _thread(self, event: Event, room: Room, person: int) -> bool:
        if room.owner is not None:
            return False
        server, author = self.stage.servers[room.service], self.stage.people[room.service][person]
        name = words.cut(event.text.strip(), 90).strip() or "thread"
        if room.service == "discord":
            place = await server.start_thread(room.place, name, author=author)
            inside = Room(room.service, place, room.settings, None)
            self.extra.append(inside)
            return await self._say(event, inside, person, mention=True)
        if not room.place.forum:
            return False
        topic = await server.start_topic(room.place, name, user=author)
        return await self._say(event, room, person, mention=True, topic=topic)

    async def _pair(self, event: Event, room: Room, person: int) -> bool:
        """The admin lets in whoever has asked last."""
        own = self.stage.rooms[room.service]
        shown = " ".join(_text(one) for other in own for one in self.stage.shown(other)[-3:])
        codes = re.findall(r"/pair (\w+)", shown)
        said = Event("say", room.service, 0, 0, f"/pair {codes[-1]}" if codes else "/pair")
        return await self._say(said, own[0], 0)

    # --- what is done to messages ------------------------------------------------------------------------------

    def _own(self, event: Event, room: Room) -> Any:
        there = [one for one in room.said[-30:] if not one.deleted]
        if not there:
            raise LookupError("nobody has said anything here")
        return there[event.pick % len(there)]

    async def _edit(self, event: Event, room: Room, person: int) -> bool:
        message = self._own(event, room)
        await self.stage.servers[room.service].edit(message, event.text)
        if id(message) in self._fresh:  # as it is now, it may be answered or not
            room.expected[0] -= 1
            room.expected[1] += 1 + LONG
        return True

    async def _touch(self, event: Event, room: Room, person: int) -> bool:
        server, message = self.stage.servers[room.service], self._own(event, room)
        await (server.unfurl(message) if room.service == "discord" else server.touch(message))
        return True

    async def _delete(self, event: Event, room: Room, person: int) -> bool:
        message = self._own(event, room)
        await self.stage.servers[room.service].delete(message)
        room.expected[0] -= id(message) in self._fresh  # it may be waiting for its answer, or getting it just now
        return True

    async def _react(self, event: Event, room: Room, person: int) -> bool:
        there = [*self.stage.shown(room)[-10:], *(one for one in room.said[-10:] if not one.deleted)]
        if not there:
            return False
        user = self.stage.people[room.service][person]
        message = there[event.pick % len(there)]
        await self.stage.servers[room.service].react(message, EMOJI[event.pick % len(EMOJI)], user=user)
        return True

    async def _press(self, event: Event, room: Room, person: int) -> bool:
        server, user = self.stage.servers[room.service], self.stage.people[room.service][person]
        found = [(one, button) for one in self.stage.shown(room)[-12:] for button in _buttons(one)]
        if not found:
            return False
        message, button = found[event.pick % len(found)]
        if room.service == "discord":
            self.interactions.append(await server.click(message, button, user=user))
        else:
            await server.press(message, button, user=user)
        room.expected[0] -= button == "stop"
        room.expected[1] += 1
        return True

    # --- Discord's own ways ------------------------------------------------------------------------------------

    async def _slash(self, event: Event, room: Room, person: int) -> bool:
        if room.service != "discord":
            return False
        server, user = self.stage.servers["discord"], self.stage.people["discord"][person]
        name, _, argument = event.text.removeprefix("/").partition(" ")
        known = self.stage.bridge.plugins.chat_commands.get(name)
        options = {option_name(known.argument): argument} if known and known.argument and argument else {}
        self.interactions.append(await server.invoke_command(name, options, channel=room.place, user=user))
        room.expected[0] -= name == "stop"
        room.expected[1] += 1
        return True

    async def _menu(self, event: Event, room: Room, person: int) -> bool:
        there = [*self.stage.shown(room)[-10:], *(one for one in room.said[-10:] if not one.deleted)]
        if room.service != "discord" or not there:
            return False
        server, user = self.stage.servers["discord"], self.stage.people["discord"][person]
        name = [*MENUS][event.pick % len(MENUS)]
        self.interactions.append(await server.invoke_on_message(name, there[event.pick % len(there)], user=user))
        room.expected[1] += 1
        return True

    async def _suggest(self, event: Event, room: Room, person: int) -> bool:
        if room.service != "discord":
            return False
        server, user = self.stage.servers["discord"], self.stage.people["discord"][person]
        name, _, argument = event.text.removeprefix("/").partition(" ")
        known = self.stage.bridge.plugins.chat_commands.get(name)
        if known is None or known.complete is None:
            return False
        option = option_name(known.argument)
        await server.autocomplete(name, option, words.cut(argument, 100), channel=room.place, user=user)
        return True


Do = Callable[[People, Event, Room, int], Any]
_DO: dict[str, Do] = {
    "say": People._say, "mention": People._mention, "reply": People._reply, "command": People._say,
    "alias": People._say, "prefix": People._say, "file": People._file, "edit": People._edit, "touch": People._touch,
    "delete": People._delete, "react": People._react, "press": People._press, "slash": People._slash,
    "menu": People._menu, "suggest": People._suggest, "forward": People._forward, "thread": People._thread,
    "behind": People._behind, "pair": People._pair,
}  # fmt: skip


def answers(stage: Stage, room: Room) -> list[Any]:
    """The bot's messages in a room that answer something: no offers, and nothing that one person alone sees."""
    found = [one for one in stage.shown(room) if not getattr(one, "ephemeral", False)]
    return [one for one in found if _text(one) not in OFFERS]


def _thinks(response: Any) -> bool:
    return response is not None and response.loading and not response.deleted


def _text(message: Any) -> str:
    return str(message.content if hasattr(message, "content") else message.text)


def _buttons(message: Any) -> list[str]:
    if hasattr(message, "components"):
        return [str(one["custom_id"]) for one in walk(message.components) if "custom_id" in one]
    return [str(one["callback_data"]) for row in message.keyboard for one in row]
