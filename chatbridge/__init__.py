"""The public names of chatbridge, for people who embed it and for plugin authors; each is loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatbridge.bot import Bot as Bot
    from chatbridge.bridge import Bridge as Bridge
    from chatbridge.bundled import guide_path as guide_path
    from chatbridge.commands import ChatCommand as ChatCommand
    from chatbridge.commands import CommandContext as CommandContext
    from chatbridge.config import BotSettings as BotSettings
    from chatbridge.config import ChannelSettings as ChannelSettings
    from chatbridge.config import ConfigPath as ConfigPath
    from chatbridge.config import Options as Options
    from chatbridge.config import Secret as Secret
    from chatbridge.config import Settings as Settings
    from chatbridge.config import SettingsSource as SettingsSource
    from chatbridge.config import default_settings as default_settings
    from chatbridge.delivery.chat import Budget as Budget
    from chatbridge.delivery.chat import Button as Button
    from chatbridge.delivery.chat import Chat as Chat
    from chatbridge.delivery.chat import ChatError as ChatError
    from chatbridge.delivery.chat import Clock as Clock
    from chatbridge.delivery.chat import Entity as Entity
    from chatbridge.delivery.chat import Gone as Gone
    from chatbridge.delivery.chat import Limits as Limits
    from chatbridge.delivery.chat import OutcomeUnknown as OutcomeUnknown
    from chatbridge.delivery.chat import Part as Part
    from chatbridge.delivery.chat import Penalty as Penalty
    from chatbridge.delivery.chat import Refused as Refused
    from chatbridge.delivery.chat import Unreachable as Unreachable
    from chatbridge.delivery.chat import utf16_length as utf16_length
    from chatbridge.delivery.desk import Delivery as Delivery
    from chatbridge.delivery.entities import as_entities as as_entities
    from chatbridge.delivery.marks import as_markdown as as_markdown
    from chatbridge.delivery.parts import parts_of as parts_of
    from chatbridge.delivery.rendered import Hold as Hold
    from chatbridge.delivery.rendered import Rendered as Rendered
    from chatbridge.delivery.rendered import Span as Span
    from chatbridge.delivery.rendered import as_text as as_text
    from chatbridge.engine.contract import Backend as Backend
    from chatbridge.engine.contract import BackendType as BackendType
    from chatbridge.engine.contract import LocalModel as LocalModel
    from chatbridge.engine.contract import ModelState as ModelState
    from chatbridge.engine.contract import Progress as Progress
    from chatbridge.engine.contract import Request as Request
    from chatbridge.engine.contract import Row as Row
    from chatbridge.engine.sampler import LogitsSampler as LogitsSampler
    from chatbridge.engine.shelf import Shelf as Shelf
    from chatbridge.errors import BackendError as BackendError
    from chatbridge.errors import ChatbridgeError as ChatbridgeError
    from chatbridge.errors import CommandError as CommandError
    from chatbridge.errors import ConfigError as ConfigError
    from chatbridge.errors import InvalidRequest as InvalidRequest
    from chatbridge.errors import ModelLoadError as ModelLoadError
    from chatbridge.errors import PluginError as PluginError
    from chatbridge.errors import PromptTooLong as PromptTooLong
    from chatbridge.errors import StoreError as StoreError
    from chatbridge.errors import TemplateError as TemplateError
    from chatbridge.errors import WorkerDied as WorkerDied
    from chatbridge.frontend import FrontendType as FrontendType
    from chatbridge.hookspecs import hookimpl as hookimpl
    from chatbridge.machine import free_memory as free_memory
    from chatbridge.machine import usable_cores as usable_cores
    from chatbridge.operations.redaction import redacted as redacted
    from chatbridge.plugins import Plugins as Plugins
    from chatbridge.prompts import Prompt as Prompt
    from chatbridge.prompts import Special as Special
    from chatbridge.prompts import Template as Template
    from chatbridge.prompts import Text as Text
    from chatbridge.prompts import Tokenizer as Tokenizer
    from chatbridge.prompts import Tokens as Tokens
    from chatbridge.sampling import Sampling as Sampling
    from chatbridge.turns import Answer as Answer
    from chatbridge.turns import FinishedTurn as FinishedTurn
    from chatbridge.turns import LiveTurn as LiveTurn
    from chatbridge.types import Action as Action
    from chatbridge.types import Attachment as Attachment
    from chatbridge.types import Author as Author
    from chatbridge.types import Channel as Channel
    from chatbridge.types import Chunk as Chunk
    from chatbridge.types import Finish as Finish
    from chatbridge.types import Message as Message
    from chatbridge.types import ModelInfo as ModelInfo
    from chatbridge.types import Press as Press
    from chatbridge.types import Reply as Reply
    from chatbridge.types import Turn as Turn
    from chatbridge.types import Usage as Usage
    from chatbridge.types import Waiting as Waiting

# Where each public name lives. Loading them on first use keeps `import chatbridge` (and so `chatbridge --help`,
# and a plugin that only registers hooks) free of pydantic and numpy.
_HOME = {
    "bot": ("Bot",),
    "bridge": ("Bridge",),
    "bundled": ("guide_path",),
    "commands": ("ChatCommand", "CommandContext"),
    "config": (
        "BotSettings", "ChannelSettings", "ConfigPath", "Options", "Secret", "Settings", "SettingsSource",
        "default_settings",
    ),
    "delivery.chat": (
        "Budget", "Button", "Chat", "ChatError", "Clock", "Entity", "Gone", "Limits", "OutcomeUnknown", "Part",
        "Penalty", "Refused", "Unreachable", "utf16_length",
    ),
    "delivery.desk": ("Delivery",),
    "delivery.entities": ("as_entities",),
    "delivery.marks": ("as_markdown",),
    "delivery.parts": ("parts_of",),
    "delivery.rendered": ("Hold", "Rendered", "Span", "as_text"),
    "turns": ("Answer", "FinishedTurn", "LiveTurn"),
    "engine.contract": ("Backend", "BackendType", "LocalModel", "ModelState", "Progress", "Request", "Row"),
    "engine.sampler": ("LogitsSampler",),
    "engine.shelf": ("Shelf",),
    "errors": (
        "BackendError", "ChatbridgeError", "CommandError", "ConfigError", "InvalidRequest", "ModelLoadError",
        "PluginError", "PromptTooLong", "StoreError", "TemplateError", "WorkerDied",
    ),
    "frontend": ("FrontendType",),
    "hookspecs": ("hookimpl",),
    "machine": ("free_memory", "usable_cores"),
    "operations.redaction": ("redacted",),
    "plugins": ("Plugins",),
    "prompts": ("Prompt", "Special", "Template", "Text", "Tokenizer", "Tokens"),
    "sampling": ("Sampling",),
    "types": (
        "Action", "Attachment", "Author", "Channel", "Chunk", "Finish", "Message", "ModelInfo", "Press", "Reply",
        "Turn", "Usage", "Waiting",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'chatbridge' has no public name {name!r}")
    return getattr(import_module(f"chatbridge.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
