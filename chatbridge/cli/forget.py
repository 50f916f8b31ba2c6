"""`chatbridge forget`: deletes what somebody said, or what was said in a channel, everywhere, and says what it did."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatbridge.cli.output import echo, echo_json
from chatbridge.errors import StoreError, StoreInUse

if TYPE_CHECKING:
    from chatbridge.config.settings import Settings
    from chatbridge.store.forgetting import Forgotten


@click.command("forget")
@click.argument("id", metavar="USER|CHANNEL")
@click.option("-c", "--config", type=click.Path(path_type=Path), default="bots.yaml", help="The configuration file.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(id: str, config: Path, yes: bool, as_json: bool) -> None:
    """Delete all that a USER said, or all that was said in a CHANNEL, by the chat service's id.

    That is: conversations, messages that wait, answers to them, copies and quotes, pairings and usage, rows that can't
    be read, and the states of models that are kept on disk. Conversations with others stay, without what that person
    said and what was answered to it. It can't be taken back. The bots must not run meanwhile: they keep in memory what
    was said, and would write it back.
    """
    from chatbridge.config.reader import load
    from chatbridge.plugins.manager import Plugins

    if not id.strip():
        raise click.BadParameter("there is no id", param_hint="USER|CHANNEL")
    settings = load(config, Plugins())
    if not settings.store.exists():
        raise StoreError(f"{settings.store}: there is no such file yet; `chatbridge run` makes it")
    if not yes:
        click.confirm(f"Delete for good what is kept of {id!r} in {settings.store}?", abort=True, err=True)
    forgotten = asyncio.run(_forget(settings, id, str(config)))
    states = delete_states(settings)
    if as_json:
        echo_json({**asdict(forgotten), "kept_states": states})
        return
    for line in told(forgotten, states):
        echo(line)


async def _forget(settings: Settings, id: str, config: str) -> Forgotten:
    from chatbridge.store import Store
    from chatbridge.store.forgetting import forget

    try:
        store = await Store.open(settings.store, config=config)
    except StoreInUse as error:
        raise StoreInUse(
            f"{error}; `chatbridge forget` does not, since what runs would write back what it knows"
        ) from error
    try:
        return await forget(store, id)
    finally:
        await store.aclose()


def delete_states(settings: Settings) -> int:
    """All that are kept: the tokens in them are of many chats, and no state says of which.

    Also those of models that were unloaded once, whatever bots.yaml says of them now.
    """
    from chatbridge.config.reader import IDLE_STATES
    from chatbridge.engine.disk_cache import DiskCache

    folders = {getattr(model.options, "keep_states", None) for model in settings.models.values()}
    folders.add(settings.store.parent / IDLE_STATES)
    return sum(DiskCache.clear(folder) for folder in folders if isinstance(folder, Path) and folder.is_dir())


def told(done: Forgotten, states: int) -> list[str]:
    """What was deleted, a line for each kind of thing, and what was not."""
    lines = [
        (done.conversations, f"{done.conversations} conversations with {done.messages} messages"),
        (done.blanked, f"{done.blanked} messages and answers in conversations with others"),
        (done.quotes, f"{done.quotes} quotes of them in what others said"),
        (done.box_rows, f"{done.box_rows} messages in the inbox and the outbox"),
        (done.pairings, f"{done.pairings} pairings"),
        (done.usage_days, f"{done.usage_days} days of usage"),
        (done.damaged_rows, f"{done.damaged_rows} rows that could not be read"),
    ]
    said = [f"deleted: {what}" for count, what in lines if count] or [
        "nothing of that id was in the store; in a chat, `/usage` shows the ids of people"
    ]
    if states:
        said.append(f"deleted: {states} kept states, which are all; the next answers take longer to begin")
    if done.shared:
        said.append(
            f"left: {done.shared} conversations with others, with what these and the bot said to each other, and with "
            "settings that anybody may have made"
        )
    if done.nameless:
        said.append(
            f"left: {done.nameless} messages under the same name, from a version that kept no ids; name their channels "
            "to delete those"
        )
    if not done.emptied:
        said.append(
            "another program reads the store, so that the files still hold deleted words; end it and say this again"
        )
    return said
