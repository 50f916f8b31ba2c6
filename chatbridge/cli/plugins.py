"""`chatbridge plugins`: every plugin with what it offers, and the broken ones with the reason and the remedy."""

from __future__ import annotations

from dataclasses import asdict

import click

from chatbridge.cli.output import Styled, echo, echo_json, joined, styled
from chatbridge.operations.printable import in_one_line
from chatbridge.plugins.manager import PluginRecord, Plugins


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(as_json: bool) -> None:
    """List plugins, what each offers, and the broken ones.

    Exits 0 even where a plugin is broken: it stops nobody who does not use it.
    """
    records = Plugins().records()
    if as_json:
        echo_json([asdict(record) for record in records])
        return
    for record in records:
        echo(describe(record))


def describe(record: PluginRecord) -> Styled:
    """One plugin in a few lines."""
    head = joined(styled(record.name, bold=True), f" {record.version}".rstrip())
    if record.reason:
        reason = in_one_line(record.reason)
        return joined(head, "  ", styled("broken", fg="red"), f"\n  reason: {reason}\n  remedy: {record.remedy}")
    offers = [f"\n  {kind.replace('_', ' ')}: {', '.join(names)}" for kind, names in record.offers.items()]
    return joined(head, *offers)
