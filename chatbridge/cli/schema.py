"""`chatbridge schema`: the JSON Schema of bots.yaml, with the keys that installed plugins add."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of bots.yaml for editors.

    Save it beside bots.yaml as bots.schema.json; the first line of the sample names it to editors.
    """
    from chatbridge.config.schema import json_schema
    from chatbridge.plugins.manager import Plugins

    click.echo(json.dumps(json_schema(Plugins()), ensure_ascii=False, indent=1))
