"""The templates that come with chatbridge, read from presets.yaml when they are first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from chatbridge.prompts.template import Template, resolve


@cache
def presets() -> Mapping[str, Template]:
    """Every preset by its name, complete with what it inherits."""
    source = files("chatbridge.prompts").joinpath("presets.yaml").read_text(encoding="utf-8")
    written = {name: Template.model_validate(fields) for name, fields in yaml.safe_load(source).items()}
    return MappingProxyType({name: resolve(name, template, written) for name, template in written.items()})
