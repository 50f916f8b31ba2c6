"""For plugin authors: fakes to test against, and contracts that a backend or a frontend is held to.

Subclass a contract, give it your plugin by a fixture, and run pytest. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatbridge._lazy import lazy_names

if TYPE_CHECKING:
    from chatbridge.testing.backends import BackendContract as BackendContract
    from chatbridge.testing.chats import FakeService as FakeService
    from chatbridge.testing.chats import Fault as Fault
    from chatbridge.testing.chats import ServiceCall as ServiceCall
    from chatbridge.testing.discord.server import DiscordServer as DiscordServer
    from chatbridge.testing.documents import Document as Document
    from chatbridge.testing.documents import readmes as readmes
    from chatbridge.testing.echo import EchoBackend as EchoBackend
    from chatbridge.testing.engine_contract import EngineContract as EngineContract
    from chatbridge.testing.engines import arrive_and_leave as arrive_and_leave
    from chatbridge.testing.engines import arriving_requests as arriving_requests
    from chatbridge.testing.engines import conversations as conversations
    from chatbridge.testing.engines import engine_on as engine_on
    from chatbridge.testing.engines import finish_all as finish_all
    from chatbridge.testing.engines import finish_step as finish_step
    from chatbridge.testing.engines import greedy_ids as greedy_ids
    from chatbridge.testing.engines import greedy_request as greedy_request
    from chatbridge.testing.engines import prompt_ending as prompt_ending
    from chatbridge.testing.engines import requests_for as requests_for
    from chatbridge.testing.frontends import FrontendContract as FrontendContract
    from chatbridge.testing.frontends import Room as Room
    from chatbridge.testing.gguf_writer import Arrays as Arrays
    from chatbridge.testing.gguf_writer import PeftAdapter as PeftAdapter
    from chatbridge.testing.gguf_writer import byte_pair_metadata as byte_pair_metadata
    from chatbridge.testing.gguf_writer import llama_metadata as llama_metadata
    from chatbridge.testing.gguf_writer import llama_sizes as llama_sizes
    from chatbridge.testing.gguf_writer import random_llama as random_llama
    from chatbridge.testing.gguf_writer import read_meta_llama as read_meta_llama
    from chatbridge.testing.gguf_writer import read_peft_adapter as read_peft_adapter
    from chatbridge.testing.gguf_writer import read_torch as read_torch
    from chatbridge.testing.gguf_writer import sentencepiece_metadata as sentencepiece_metadata
    from chatbridge.testing.gguf_writer import write_gguf as write_gguf
    from chatbridge.testing.gguf_writer import write_lora as write_lora
    from chatbridge.testing.harness import channel_settings as channel_settings
    from chatbridge.testing.harness import log_lines as log_lines
    from chatbridge.testing.harness import running as running
    from chatbridge.testing.hub_writer import hub_arrays as hub_arrays
    from chatbridge.testing.hub_writer import hub_config as hub_config
    from chatbridge.testing.hub_writer import write_hub as write_hub
    from chatbridge.testing.kills import BusyChat as BusyChat
    from chatbridge.testing.kills import KillReport as KillReport
    from chatbridge.testing.kills import check_answers as check_answers
    from chatbridge.testing.kills import kill_at_random as kill_at_random
    from chatbridge.testing.linear import LONG_RUNS as LONG_RUNS
    from chatbridge.testing.linear import growth as growth
    from chatbridge.testing.model_work import CountedProgress as CountedProgress
    from chatbridge.testing.model_work import KilledWork as KilledWork
    from chatbridge.testing.model_work import plan_known as plan_known
    from chatbridge.testing.model_work import run_converter as run_converter
    from chatbridge.testing.models import LocalModelContract as LocalModelContract
    from chatbridge.testing.programs import default_signals as default_signals
    from chatbridge.testing.programs import start_program as start_program
    from chatbridge.testing.published import OpenVocabulary as OpenVocabulary
    from chatbridge.testing.published import mixed_texts as mixed_texts
    from chatbridge.testing.published import published_vocabularies as published_vocabularies
    from chatbridge.testing.readme_contract import ReadmeContract as ReadmeContract
    from chatbridge.testing.records import fixtures as fixtures
    from chatbridge.testing.script import ScriptedBackend as ScriptedBackend
    from chatbridge.testing.script import scripted as scripted
    from chatbridge.testing.setup import bridge_with as bridge_with
    from chatbridge.testing.setup import plugin_of as plugin_of
    from chatbridge.testing.setup import worker_with as worker_with
    from chatbridge.testing.telegram.server import TelegramServer as TelegramServer
    from chatbridge.testing.toy import ToyModel as ToyModel
    from chatbridge.testing.toy import ToyOptions as ToyOptions
    from chatbridge.testing.toy import toy_backend as toy_backend
    from chatbridge.testing.virtual import HurriedClock as HurriedClock
    from chatbridge.testing.virtual import run_virtually as run_virtually
    from chatbridge.testing.vocabulary_contract import PublishedVocabulariesContract as PublishedVocabulariesContract

# Loaded on first use: the toy model is run by workers, which need neither pytest nor the contracts. No module is
# called as a public name is: importing it would put the module in the name's place.
_HOME = {
    "backends": ("BackendContract",),
    "chats": ("FakeService", "Fault", "ServiceCall"),
    "discord.server": ("DiscordServer",),
    "documents": ("Document", "readmes"),
    "echo": ("EchoBackend",),
    "engine_contract": ("EngineContract",),
    "engines": (
        "arrive_and_leave", "arriving_requests", "conversations", "engine_on",
        "finish_all", "finish_step", "greedy_ids", "greedy_request", "prompt_ending", "requests_for",
    ),
    "frontends": ("FrontendContract", "Room"),
    "gguf_writer": (
        "Arrays", "PeftAdapter", "byte_pair_metadata", "llama_metadata", "llama_sizes", "random_llama",
        "read_meta_llama", "read_peft_adapter", "read_torch", "sentencepiece_metadata", "write_gguf", "write_lora",
    ),
    "harness": ("channel_settings", "log_lines", "running"),
    "hub_writer": ("hub_arrays", "hub_config", "write_hub"),
    "kills": ("BusyChat", "KillReport", "check_answers", "kill_at_random"),
    "linear": ("LONG_RUNS", "growth"),
    "model_work": ("CountedProgress", "KilledWork", "plan_known", "run_converter"),
    "models": ("LocalModelContract",),
    "programs": ("default_signals", "start_program"),
    "published": ("OpenVocabulary", "mixed_texts", "published_vocabularies"),
    "readme_contract": ("ReadmeContract",),
    "records": ("fixtures",),
    "script": ("ScriptedBackend", "scripted"),
    "setup": ("bridge_with", "plugin_of", "worker_with"),
    "telegram.server": ("TelegramServer",),
    "toy": ("ToyModel", "ToyOptions", "toy_backend"),
    "virtual": ("HurriedClock", "run_virtually"),
    "vocabulary_contract": ("PublishedVocabulariesContract",),
}  # fmt: skip
__all__, _load = lazy_names(__name__, _HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name.endswith("Contract") and name in __all__:  # so that a failing test shows what it compared
        import pytest

        pytest.register_assert_rewrite(f"{__name__}.{next(home for home, names in _HOME.items() if name in names)}")
    return _load(name)
