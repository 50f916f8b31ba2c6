"""The public names of chatbridge, for people who embed it and for plugin authors; each is loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatbridge._lazy import lazy_names

if TYPE_CHECKING:
    from chatbridge.bots.attachments import Downloads as Downloads
    from chatbridge.bots.attachments import RemoteFile as RemoteFile
    from chatbridge.bots.bot import Bot as Bot
    from chatbridge.bots.command import ChatCommand as ChatCommand
    from chatbridge.bots.command import CommandContext as CommandContext
    from chatbridge.bots.reply import FinishedReply as FinishedReply
    from chatbridge.bots.reply import Notice as Notice
    from chatbridge.bots.reply import ReplyStream as ReplyStream
    from chatbridge.bots.triggers import without_name as without_name
    from chatbridge.bridge import Bridge as Bridge
    from chatbridge.bundled import guide_path as guide_path
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
    from chatbridge.delivery.chat import Entity as Entity
    from chatbridge.delivery.chat import Limits as Limits
    from chatbridge.delivery.chat import MessageContent as MessageContent
    from chatbridge.delivery.clock import Clock as Clock
    from chatbridge.delivery.contents import split_answer as split_answer
    from chatbridge.delivery.delivery import Delivery as Delivery
    from chatbridge.delivery.discord_markdown import as_markdown as as_markdown
    from chatbridge.delivery.errors import ChatError as ChatError
    from chatbridge.delivery.errors import ContentRejected as ContentRejected
    from chatbridge.delivery.errors import NotFound as NotFound
    from chatbridge.delivery.errors import OutcomeUnknown as OutcomeUnknown
    from chatbridge.delivery.errors import RateLimited as RateLimited
    from chatbridge.delivery.errors import Unreachable as Unreachable
    from chatbridge.delivery.markdown import MarkdownNode as MarkdownNode
    from chatbridge.delivery.markdown import folded as folded
    from chatbridge.delivery.markdown import parse_markdown as parse_markdown
    from chatbridge.delivery.markdown import split_markdown as split_markdown
    from chatbridge.delivery.rendered import Gap as Gap
    from chatbridge.delivery.rendered import Hold as Hold
    from chatbridge.delivery.rendered import Rendered as Rendered
    from chatbridge.delivery.rendered import Span as Span
    from chatbridge.delivery.rendered import as_text as as_text
    from chatbridge.delivery.rendered import utf16_length as utf16_length
    from chatbridge.delivery.telegram_entities import as_entities as as_entities
    from chatbridge.delivery.trouble import report_error as report_error
    from chatbridge.engine.backend import Backend as Backend
    from chatbridge.engine.backend import BackendType as BackendType
    from chatbridge.engine.backend import LocalModel as LocalModel
    from chatbridge.engine.backend import ModelState as ModelState
    from chatbridge.engine.backend import Progress as Progress
    from chatbridge.engine.backend import Request as Request
    from chatbridge.engine.backend import Row as Row
    from chatbridge.engine.backend import check_rows as check_rows
    from chatbridge.engine.disk_cache import DiskCache as DiskCache
    from chatbridge.engine.sampler import LogitsSampler as LogitsSampler
    from chatbridge.engine.sampler import draw_token as draw_token
    from chatbridge.engine.sampler import locally_typical as locally_typical
    from chatbridge.errors import BackendError as BackendError
    from chatbridge.errors import ChatbridgeError as ChatbridgeError
    from chatbridge.errors import CommandError as CommandError
    from chatbridge.errors import ConfigError as ConfigError
    from chatbridge.errors import InvalidRequest as InvalidRequest
    from chatbridge.errors import ModelLoadError as ModelLoadError
    from chatbridge.errors import ModelUnavailable as ModelUnavailable
    from chatbridge.errors import PluginError as PluginError
    from chatbridge.errors import PromptTooLong as PromptTooLong
    from chatbridge.errors import StoreError as StoreError
    from chatbridge.errors import TemplateError as TemplateError
    from chatbridge.errors import WorkerDied as WorkerDied
    from chatbridge.hookspecs import hookimpl as hookimpl
    from chatbridge.model_files.arrays import StoredTensor as StoredTensor
    from chatbridge.model_files.arrays import Weights as Weights
    from chatbridge.model_files.chat_templates import ChatTemplate as ChatTemplate
    from chatbridge.model_files.chat_templates import chat_template_from as chat_template_from
    from chatbridge.model_files.chat_templates import chat_template_of as chat_template_of
    from chatbridge.model_files.config_values import check_adapter_config as check_adapter_config
    from chatbridge.model_files.description import AdapterDescription as AdapterDescription
    from chatbridge.model_files.description import ModelDescription as ModelDescription
    from chatbridge.model_files.description import Problem as Problem
    from chatbridge.model_files.gguf import GgufHeader as GgufHeader
    from chatbridge.model_files.gguf import GgufStrings as GgufStrings
    from chatbridge.model_files.gguf import GgufTensor as GgufTensor
    from chatbridge.model_files.gguf import damaged_gguf as damaged_gguf
    from chatbridge.model_files.inspect import inspect_model as inspect_model
    from chatbridge.model_files.normal_forms import nfc as nfc
    from chatbridge.model_files.normal_forms import nfd as nfd
    from chatbridge.model_files.reading import check_model_file as check_model_file
    from chatbridge.model_files.reading import read_json_object as read_json_object
    from chatbridge.model_files.reading import read_tensors as read_tensors
    from chatbridge.model_files.reading import weight_files as weight_files
    from chatbridge.model_files.tensors import TensorFile as TensorFile
    from chatbridge.model_files.tensors import TensorInfo as TensorInfo
    from chatbridge.model_files.tokenizer_rules import TokenizerRules as TokenizerRules
    from chatbridge.model_files.tokenizer_rules import tokenizer_rules as tokenizer_rules
    from chatbridge.model_tools.converter import Conversion as Conversion
    from chatbridge.model_tools.converter import Converter as Converter
    from chatbridge.model_tools.output import NewTensor as NewTensor
    from chatbridge.model_tools.output import check_space as check_space
    from chatbridge.model_tools.output import output_file as output_file
    from chatbridge.model_tools.output import output_folder as output_folder
    from chatbridge.model_tools.output import write_tensors as write_tensors
    from chatbridge.model_tools.planning.known_models import KnownModel as KnownModel
    from chatbridge.model_tools.planning.known_models import known_model as known_model
    from chatbridge.model_tools.planning.machine import Card as Card
    from chatbridge.model_tools.planning.machine import Machine as Machine
    from chatbridge.model_tools.planning.machine import parse_devices as parse_devices
    from chatbridge.model_tools.planning.machine import this_machine as this_machine
    from chatbridge.model_tools.planning.memory_plan import Change as Change
    from chatbridge.model_tools.planning.memory_plan import DevicePlan as DevicePlan
    from chatbridge.model_tools.planning.memory_plan import MemoryPlan as MemoryPlan
    from chatbridge.model_tools.planning.memory_plan import PlanRequest as PlanRequest
    from chatbridge.model_tools.planning.memory_plan import device_plan as device_plan
    from chatbridge.model_tools.planning.memory_plan import refuse_what_does_not_fit as refuse_what_does_not_fit
    from chatbridge.model_tools.planning.memory_plan import with_changes as with_changes
    from chatbridge.model_tools.progress import WorkProgress as WorkProgress
    from chatbridge.model_tools.report import Report as Report
    from chatbridge.model_tools.report import Source as Source
    from chatbridge.model_tools.report import hashed as hashed
    from chatbridge.model_tools.safetensors_file import SafetensorsFile as SafetensorsFile
    from chatbridge.model_tools.torch_file import TorchFile as TorchFile
    from chatbridge.operations.environment import child_environment as child_environment
    from chatbridge.operations.folders import cache_folder as cache_folder
    from chatbridge.operations.hardware import free_memory as free_memory
    from chatbridge.operations.hardware import limit_blas_threads as limit_blas_threads
    from chatbridge.operations.hardware import usable_cores as usable_cores
    from chatbridge.operations.printable import escaped as escaped
    from chatbridge.operations.printable import in_one_line as in_one_line
    from chatbridge.operations.printable import printable as printable
    from chatbridge.operations.redaction import redacted as redacted
    from chatbridge.operations.threads import default_threads as default_threads
    from chatbridge.operations.threads import thread_waiting as thread_waiting
    from chatbridge.operations.threads import waiting_variables as waiting_variables
    from chatbridge.plugins.frontend import FrontendType as FrontendType
    from chatbridge.plugins.manager import Plugins as Plugins
    from chatbridge.prompts import Prompt as Prompt
    from chatbridge.prompts import Special as Special
    from chatbridge.prompts import Template as Template
    from chatbridge.prompts import Text as Text
    from chatbridge.prompts import Tokenizer as Tokenizer
    from chatbridge.prompts import Tokens as Tokens
    from chatbridge.prompts import is_mark as is_mark
    from chatbridge.sampling import Sampling as Sampling
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
    "bots.attachments": ("Downloads", "RemoteFile"),
    "bots.bot": ("Bot",),
    "bots.triggers": ("without_name",),
    "bridge": ("Bridge",),
    "bundled": ("guide_path",),
    "bots.command": ("ChatCommand", "CommandContext"),
    "config": (
        "BotSettings", "ChannelSettings", "ConfigPath", "Options", "Secret", "Settings", "SettingsSource",
        "default_settings",
    ),
    "delivery.chat": ("Budget", "Button", "Chat", "Entity", "Limits", "MessageContent"),
    "delivery.clock": ("Clock",),
    "delivery.errors": (
        "ChatError", "ContentRejected", "NotFound", "OutcomeUnknown", "RateLimited", "Unreachable",
    ),
    "delivery.delivery": ("Delivery",),
    "delivery.telegram_entities": ("as_entities",),
    "delivery.discord_markdown": ("as_markdown",),
    "delivery.contents": ("split_answer",),
    "delivery.markdown": ("MarkdownNode", "folded", "parse_markdown", "split_markdown"),
    "delivery.rendered": ("Gap", "Hold", "Rendered", "Span", "as_text", "utf16_length"),
    "bots.reply": ("Notice", "FinishedReply", "ReplyStream"),
    "engine.backend": (
        "Backend", "BackendType", "LocalModel", "ModelState", "Progress", "Request", "Row", "check_rows",
    ),
    "engine.sampler": ("LogitsSampler", "draw_token", "locally_typical"),
    "engine.disk_cache": ("DiskCache",),
    "operations.environment": ("child_environment",),
    "errors": (
        "BackendError", "ChatbridgeError", "CommandError", "ConfigError", "InvalidRequest", "ModelLoadError",
        "ModelUnavailable", "PluginError", "PromptTooLong", "StoreError", "TemplateError", "WorkerDied",
    ),
    "plugins.frontend": ("FrontendType",),
    "hookspecs": ("hookimpl",),
    "model_files.config_values": ("check_adapter_config",),
    "model_files.chat_templates": ("ChatTemplate", "chat_template_from", "chat_template_of"),
    "model_files.gguf": ("GgufHeader", "GgufStrings", "GgufTensor", "damaged_gguf"),
    "model_files.description": ("AdapterDescription", "ModelDescription", "Problem"),
    "model_files.inspect": ("inspect_model",),
    "model_files.normal_forms": ("nfc", "nfd"),
    "model_files.reading": ("check_model_file", "read_json_object", "read_tensors", "weight_files"),
    "model_files.tensors": ("TensorFile", "TensorInfo"),
    "model_files.tokenizer_rules": ("TokenizerRules", "tokenizer_rules"),
    "model_tools.planning.known_models": ("KnownModel", "known_model"),
    "model_tools.converter": ("Conversion", "Converter"),
    "model_tools.output": ("NewTensor", "check_space", "output_file", "output_folder", "write_tensors"),
    "model_tools.planning.machine": ("Card", "Machine", "parse_devices", "this_machine"),
    "model_tools.planning.memory_plan": (
        "Change", "DevicePlan", "MemoryPlan", "PlanRequest", "device_plan", "refuse_what_does_not_fit", "with_changes",
    ),
    "model_tools.safetensors_file": ("SafetensorsFile",),
    "model_tools.torch_file": ("TorchFile",),
    "model_files.arrays": ("StoredTensor", "Weights"),
    "model_tools.progress": ("WorkProgress",),
    "model_tools.report": ("Report", "Source", "hashed"),
    "operations.folders": ("cache_folder",),
    "operations.hardware": ("free_memory", "limit_blas_threads", "usable_cores"),
    "operations.redaction": ("redacted",),
    "operations.threads": ("default_threads", "thread_waiting", "waiting_variables"),
    "plugins.manager": ("Plugins",),
    "prompts": ("Prompt", "Special", "Template", "Text", "Tokenizer", "Tokens", "is_mark"),
    "sampling": ("Sampling",),
    "delivery.trouble": ("report_error",),
    "operations.printable": ("escaped", "in_one_line", "printable"),
    "types": (
        "Action", "Attachment", "Author", "Channel", "Chunk", "Finish", "Message", "ModelInfo", "Press", "Reply",
        "Turn", "Usage", "Waiting",
    ),
}  # fmt: skip

__all__, __getattr__ = lazy_names(__name__, _HOME)  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
