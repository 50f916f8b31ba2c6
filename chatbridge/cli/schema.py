"""`chatbridge schema`: the JSON Schema of bots.yaml, with the keys that installed plugins add."""

from __future__ import annotations

import click

from chatbridge.cli.output import echo_json


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of bots.yaml for editors.

    Save it beside bots.yaml as bots.schema.json; the first line of the sample names it to editors.
    """
    from chatbridge.config.schema import json_schema
    from chatbridge.plugins.manager import Plugins

    echo_json(json_schema(Plugins()), indent=1)
