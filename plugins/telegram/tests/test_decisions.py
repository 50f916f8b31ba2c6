"""Whatever is answered was allowed to bring its files, and nothing else was: over random settings and messages."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from chatbridge import ChannelSettings
from chatbridge.testing import ScriptedBackend, TelegramServer, channel_settings
from chatbridge.testing.telegram.limits import Limits
from chatbridge.testing.wire.forms import Upload

from .conftest import talking

SETTINGS = st.fixed_dictionaries(
    {
        "reply_to": st.sampled_from(["always", "mentions", "never"]),
        "prefix": st.sampled_from(["", "!"]),
        "pattern": st.sampled_from([None, "bridge"]),
        "chance": st.sampled_from([0.0, 0.5, 1.0]),
    }
)
TEXTS = st.sampled_from(["", "look", "!", "!look at this", "the bridge"])


@tried(max_examples=4, deadline=None)
@given(st.lists(st.tuples(SETTINGS, TEXTS, st.booleans()), min_size=12, max_size=12))
def test_whatever_is_answered_was_allowed_to_bring_its_files(cases: list[tuple[dict[str, Any], str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(ask(cases, Path(folder)))


async def ask(cases: list[tuple[dict[str, Any], str, bool]], folder: Path) -> None:
    """Each case in a channel of its own; a command behind it tells when it was taken in."""
    backend = ScriptedBackend("Yes.")
    async with TelegramServer(limits=Limits.generous()) as server:
        server.bot.privacy = False
        places = [server.add_group(f"place{number}") for number in range(len(cases))]
        own = {str(place.id): ChannelSettings(**given) for place, (given, _, _) in zip(places, cases, strict=True)}
        async with talking(server, backend, folder, defaults=channel_settings(), own={"channels": own}) as bridge:
            for place, (_, text, mention) in zip(places, cases, strict=True):
                file = Upload("a.txt", f"content of {place.id}".encode(), "text/plain")
                await server.say(place, text, mention=mention, file=file)
                await server.say(place, "/help")
            for place in places:
                await server.until(lambda place=place: any("/regenerate" in one.text for one in server.messages(place)))
            (delivery,) = bridge.deliveries
            await delivery.settled()
        asked = [request.turns[-1].text for request in backend.requests]
        assert [text for text in asked if "content of" not in text] == []
        assert len(server.calls.to("getFile")) == len(asked)
        assert sum(len(server.messages(place)) for place in places) == len(asked) + len(places)
