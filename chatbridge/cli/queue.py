"""`chatbridge queue`: the messages that wait to be answered or delivered, and those that were given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from chatbridge.cli.output import Styled, echo, echo_json, joined, styled
from chatbridge.errors import StoreError
from chatbridge.operations.printable import in_one_line

if TYPE_CHECKING:
    from chatbridge.store.queue import Entry, Queue

T = TypeVar("T")

_ids = click.argument("ids", nargs=-1)
_all = click.option("--all", "every", is_flag=True, help="All that were given up.")


@click.group("queue", invoke_without_command=True)
@click.option("-c", "--config", type=click.Path(path_type=Path), default="bots.yaml", help="The configuration file.")
@click.option(
    "--store",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The database itself; the configuration is not read then.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_context
def command(context: click.Context, config: Path, store: Path | None, as_json: bool) -> None:
    """List the messages that wait, and those that were given up.

    `in-…` are messages of people that were not answered, `out-…` are answers that were not delivered, `damaged-…` are
    rows of the database that can't be read. A running program takes up what is put back within a minute, another one
    when it starts.
    """
    context.obj = store or _store_of(config)
    if context.invoked_subcommand is None:
        _list(_with_queue(context.obj, lambda queue: queue.entries()), as_json)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_obj
def list_(store: Path, as_json: bool) -> None:
    """List them; what `chatbridge queue` alone does."""
    _list(_with_queue(store, lambda queue: queue.entries()), as_json)


@command.command("retry")
@_ids
@_all
@click.pass_obj
def retry(store: Path, ids: tuple[str, ...], every: bool) -> None:
    """Try what was given up once more, by its IDS."""
    _change(store, ids, every, "retry", "to be tried again")


@command.command("drop")
@_ids
@_all
@click.pass_obj
def drop(store: Path, ids: tuple[str, ...], every: bool) -> None:
    """Drop messages for good, by their IDS."""
    _change(store, ids, every, "drop", "dropped")


def _change(store: Path, ids: tuple[str, ...], every: bool, what: str, done: str) -> None:
    if bool(ids) == every:
        raise click.UsageError("name the entries, such as in-7, or say --all")

    async def work(queue: Queue) -> list[str]:
        chosen = list(ids) or [entry.id for entry in await queue.entries() if entry.given_up]
        for id in chosen:
            await (queue.retry(id) if what == "retry" else queue.drop(id))
        return chosen

    for id in _with_queue(store, work):
        echo(f"{id}: {done}")


def _list(entries: list[Entry], as_json: bool) -> None:
    if as_json:
        echo_json([asdict(entry) for entry in entries])
        return
    for entry in entries:
        echo(describe(entry))
    if not entries:
        echo("nothing waits, and nothing was given up")


def describe(entry: Entry) -> Styled:
    """One entry in a line or two."""
    state = styled(entry.state, fg="red" if entry.given_up else None)
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
    tries = f"{entry.attempts} {'try' if entry.attempts == 1 else 'tries'}"
    where = f"{entry.bot}/{entry.channel}  {since}  {tries}"
    error = f"\n  error: {in_one_line(entry.error)}" if entry.error else ""
    text = in_one_line(entry.text[:1000], 101)
    return joined(styled(entry.id, bold=True), "  ", state, "  ", where, error, f"\n  {text}" if text else "")


def _store_of(config: Path) -> Path:
    from chatbridge.config.reader import load
    from chatbridge.plugins.manager import Plugins

    path = load(config, Plugins()).store
    if not path.exists():
        raise StoreError(f"{path}: there is no such file yet; `chatbridge run` makes it")
    return path


def _with_queue(store: Path, work: Callable[[Queue], Awaitable[T]]) -> T:
    from chatbridge.store import Store
    from chatbridge.store.queue import Queue

    async def run() -> T:
        opened = await Store.open(store, shared=True)
        try:
            return await work(Queue(opened))
        finally:
            await opened.aclose()

    return asyncio.run(run())
