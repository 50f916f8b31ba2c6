"""`chatbridge plugins`: every plugin with what it offers, and the broken ones with the reason and the remedy."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from chatbridge.plugins.manager import PluginRecord, Plugins


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(as_json: bool) -> None:
    """List plugins, what each offers, and the broken ones.

    Exits 0 even where a plugin is broken: it stops nobody who does not use it.
    """
    records = Plugins().records()
    if as_json:
        click.echo(json.dumps([asdict(record) for record in records], ensure_ascii=False, indent=2))
        return
    for record in records:
        click.echo(describe(record))


def describe(record: PluginRecord) -> str:
    """One plugin in a few lines."""
    head = f"{click.style(record.name, bold=True)} {record.version}".rstrip()
    if record.reason:
        return f"{head}  {click.style('broken', fg='red')}\n  reason: {record.reason}\n  remedy: {record.remedy}"
    offers = [f"  {kind.replace('_', ' ')}: {', '.join(names)}" for kind, names in record.offers.items()]
    return "\n".join([head, *offers])
