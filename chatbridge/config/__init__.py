"""bots.yaml: its values, the reader with its complaints, and the watch for changes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatbridge.config.options import ConfigPath as ConfigPath
    from chatbridge.config.options import Options as Options
    from chatbridge.config.options import Secret as Secret
    from chatbridge.config.reader import default_settings as default_settings
    from chatbridge.config.reader import load as load
    from chatbridge.config.schema import json_schema as json_schema
    from chatbridge.config.settings import Access as Access
    from chatbridge.config.settings import Admins as Admins
    from chatbridge.config.settings import BotSettings as BotSettings
    from chatbridge.config.settings import ChannelSettings as ChannelSettings
    from chatbridge.config.settings import ModelSettings as ModelSettings
    from chatbridge.config.settings import Quota as Quota
    from chatbridge.config.settings import Settings as Settings
    from chatbridge.config.source import SettingsSource as SettingsSource

# Loaded on first use: a plugin's options need pydantic alone, not the reader and its YAML.
_HOME = {
    "options": ("ConfigPath", "Options", "Secret"),
    "reader": ("default_settings", "load"),
    "schema": ("json_schema",),
    "settings": ("Access", "Admins", "BotSettings", "ChannelSettings", "ModelSettings", "Quota", "Settings"),
    "source": ("SettingsSource",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'chatbridge.config' has no public name {name!r}")
    return getattr(import_module(f"chatbridge.config.{_MODULE_OF[name]}"), name)
