"""bots.yaml: its values, the reader with its errors, and the watch for changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatbridge._lazy import lazy_names

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
    from chatbridge.config.settings import Keep as Keep
    from chatbridge.config.settings import ModelSettings as ModelSettings
    from chatbridge.config.settings import Quota as Quota
    from chatbridge.config.settings import Settings as Settings
    from chatbridge.config.settings import Strangers as Strangers
    from chatbridge.config.source import SettingsSource as SettingsSource

# Loaded on first use: a plugin's options need pydantic alone, not the reader and its YAML.
_HOME = {
    "options": ("ConfigPath", "Options", "Secret"),
    "reader": ("default_settings", "load"),
    "schema": ("json_schema",),
    "settings": (
        "Access",
        "Admins",
        "BotSettings",
        "ChannelSettings",
        "Keep",
        "ModelSettings",
        "Quota",
        "Settings",
        "Strangers",
    ),
    "source": ("SettingsSource",),
}
__all__, __getattr__ = lazy_names(__name__, _HOME)  # pyright: ignore[reportUnsupportedDunderAll]
