"""Files that come with a command: read by those that take them, and never left out in silence."""

from __future__ import annotations

import pytest

from chatbridge import Attachment, Bot, CommandError, ReplyStream
from chatbridge.bots.commands import BUILTIN
from chatbridge.texts import say as text_of

from .conftest import Make, Say, drained, said

NOTE = Attachment("note.txt", "text/plain", b"the moon")
PICTURE = Attachment("moon.png", "image/png", b"")


async def test_an_edit_takes_its_files_as_a_message_does(bot: Bot, say: Say, message: Make) -> None:
    await say("one")
    long = Attachment("long.txt", "text/plain", b"begins", size=4096)
    reply = await bot.receive(message("/edit look at", attachments=(NOTE, PICTURE, long)))
    assert isinstance(reply, ReplyStream)
    await drained(reply)
    assert (await said(bot))[0] == (
        "user",
        "look at\n\n[note.txt]\nthe moon\n\n[moon.png, image/png]\n\n[long.txt, the first 1 of 4 KiB]\nbegins",
    )
    assert reply.notices[0] == text_of("en", "unreadable", names="moon.png")
    assert "long.txt" in reply.notices[1]


async def test_an_edit_may_be_a_file_alone(bot: Bot, say: Say, message: Make) -> None:
    await say("one")
    await drained(await bot.receive(message("/edit", attachments=(NOTE,))))
    assert (await said(bot))[0] == ("user", "[note.txt]\nthe moon")
    with pytest.raises(CommandError, match="/edit TEXT"):
        await bot.receive(message("/edit", attachments=(PICTURE,)))


@pytest.mark.parametrize("name", [one.name for one in BUILTIN if not (one.files or one.admin or one.terminal_only)])
async def test_any_other_command_is_refused_with_files(bot: Bot, say: Say, message: Make, name: str) -> None:
    await say("one")
    spoken = await said(bot)
    with pytest.raises(CommandError, match=rf"/{name} reads no files.*note.txt, moon.png"):
        await bot.receive(message(f"/{name} more", attachments=(NOTE, PICTURE)))
    assert await said(bot) == spoken
