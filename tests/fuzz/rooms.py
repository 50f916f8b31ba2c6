"""Both stand-ins with the real plugins on them, and rooms with settings of all kinds. Knows no event."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chatbridge_discord.bot import run as run_discord
from chatbridge_discord.options import DiscordOptions
from chatbridge_telegram.bot import run as run_telegram
from chatbridge_telegram.options import TelegramOptions

from chatbridge import BotSettings, Bridge, ChannelSettings, Sampling
from chatbridge.config.settings import Access, Admins, Quota
from chatbridge.prompts.builtin import presets
from chatbridge.testing import DiscordServer, HurriedClock, TelegramServer, bridge_with
from chatbridge.testing.discord.limits import Limits as DiscordLimits
from chatbridge.testing.telegram.limits import Limits as TelegramLimits

from . import words
from .model import InProcess, hash_backend
from .script import PEOPLE, ROOMS

HURRY = 20
PATIENCE = 60.0
"""Seconds in which everybody is answered."""
PRIVATE = 9
"""So many rooms of a service are private, those of people 0 to 7 among them; the others are groups."""
MESSAGES_PER_MINUTE = 6
STRANGERS = (PEOPLE - 2, PEOPLE - 1)


@dataclass(slots=True)
class Room:
    """A private chat (of `owner`), a group, or a channel. `said`: what people wrote there, oldest first."""

    service: str
    place: Any
    settings: ChannelSettings
    owner: int | None
    said: list[Any] = field(default_factory=list)
    expected: list[int] = field(default_factory=lambda: [0, 0])
    """How many messages of the bot's there should be at least and at most, besides offers."""
    authors: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Stage:
    """All of it. `kind` of the run: `open` to all, `paired`, or `limited`."""

    bridge: Bridge
    servers: dict[str, Any]
    people: dict[str, list[Any]]
    rooms: dict[str, list[Room]]
    model: InProcess
    kind: str
    frontends: list[asyncio.Task[None]] = field(default_factory=list)

    def shown(self, room: Room) -> list[Any]:
        """The bot's messages in a room."""
        return list(self.servers[room.service].messages(room.place))


def settings_for(rng: random.Random, template: str) -> ChannelSettings:
    """Settings that somebody might have chosen for a room."""
    given: dict[str, object] = {
        "template": template,
        "reply_to": rng.choice(("mentions", "mentions", "always")),
        "scope": rng.choice(("thread", "channel", "user", "replies")),
        "follow_up": rng.choice(("queue", "queue", "queue", "merge", "interrupt")),
        "buttons": rng.random() < 0.9,
        "language": rng.choice(("auto", "en", "zh")),
        "history": rng.random() < 0.9,
        "speaker_names": rng.choice(("auto", "auto", "always", "never")),
        "prefix": rng.choice(("", "!")),
        "pattern": rng.choice((None, None, r"\bping\b")),
        "aliases": {"+new": "/reset", "重来": "/regenerate"},
    }
    return ChannelSettings.model_validate(given)


@asynccontextmanager
async def stage(rng: random.Random, kind: str, store: Path, model: InProcess) -> AsyncIterator[Stage]:
    """Servers, people, rooms, a bridge and two bots, until the context is left."""
    async with AsyncExitStack() as stack:
        # Interactions wait for longer than Discord lets them: how soon each is answered says how busy the machine is.
        patient = replace(DiscordLimits.generous(), first_answer=PATIENCE)
        discord = await stack.enter_async_context(DiscordServer(limits=patient))
        telegram = await stack.enter_async_context(TelegramServer(limits=TelegramLimits.generous()))
        telegram.bot.privacy = False
        servers: dict[str, Any] = {"discord": discord, "telegram": telegram}
        people: dict[str, list[Any]] = {
            name: [server.add_person(words.name(rng)) for _ in range(PEOPLE)] for name, server in servers.items()
        }
        for person in people["telegram"]:
            person.username = f"person{person.id}"
        for person in people["discord"]:
            discord.join(discord.guild, person)
        rooms = {name: _rooms(rng, name, servers[name], people[name]) for name in servers}
        bots = [_bot(name, kind, servers[name], people[name], rooms[name]) for name in servers]
        defaults = ChannelSettings(language="en", sampling=Sampling(temperature=0, max_tokens=24))
        bridge = await stack.enter_async_context(
            bridge_with(hash_backend(model), store, defaults=defaults, bots=bots, template="chatml")
        )
        found = Stage(bridge, servers, people, rooms, model, kind)
        clock = HurriedClock(HURRY)
        library: dict[str, Any] = {"guild_ready_timeout": 0.05, "identify_pause": 0.0}
        works = (
            run_discord(bots[0].options, bridge.bot("discord"), clock=clock, drain=0.2, back_off=0.01, **library),  # type: ignore[arg-type]
            run_telegram(bots[1].options, bridge.bot("telegram"), clock=clock, drain=0.2, hold=5, back_off=0.01),  # type: ignore[arg-type]
        )
        found.frontends = [asyncio.create_task(work) for work in works]
        stack.push_async_callback(_ended, found.frontends)
        await discord.gateway.until_connected()
        await telegram.calls.wait("setMyCommands", 1)
        await discord.until(lambda: discord.bot.commands.get(None) or None, what="commands")
        yield found


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _rooms(rng: random.Random, service: str, server: Any, people: list[Any]) -> list[Room]:
    names = rng.sample([*presets()], k=ROOMS)
    found: list[Room] = []
    for number, template in enumerate(names):
        owner = number % PEOPLE if number < PRIVATE - 1 else None
        if owner is not None:
            place = server.dm(people[owner]) if service == "discord" else server.private(people[owner])
        elif service == "discord":
            place = server.add_channel(f"room{number}")
        else:
            place = server.add_group(words.name(rng), *people, server.bot.user)
        found.append(Room(service, place, settings_for(rng, template), owner))
    return found


def _bot(name: str, kind: str, server: Any, people: list[Any], rooms: list[Room]) -> BotSettings:
    options: Any
    if name == "discord":
        options = DiscordOptions.model_validate(
            {"token": server.bot.token, "api_url": server.api_url, "gateway_url": server.gateway_url}
        )
    else:
        options = TelegramOptions(token=server.bot.token, api_url=server.api_url, file_url=server.file_url)
    known = frozenset(str(person.id) for number, person in enumerate(people) if number not in STRANGERS)
    return BotSettings(
        name,
        name,
        options,
        channels={str(room.place.id): room.settings for room in rooms},
        admins=Admins(users=frozenset({str(people[0].id)})),
        pairing=kind == "paired",
        allow=Access(users=known) if kind == "paired" else Access(),
        limits=Quota(messages_per_minute=MESSAGES_PER_MINUTE) if kind == "limited" else Quota(),
    )
