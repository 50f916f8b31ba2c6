"""From a conversation to the request that a backend gets: which turns, which template, which sampling.

Knows templates, settings and exact token counts; does not run the model and does not move the conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from chatbridge.engine.contract import Backend, Request
from chatbridge.errors import TemplateError
from chatbridge.plugins import did_you_mean
from chatbridge.prompts import Template, diagnose, fit, render, suggest_preset
from chatbridge.texts import say
from chatbridge.types import ModelInfo, Turn

if TYPE_CHECKING:
    from chatbridge.config import ChannelSettings
    from chatbridge.dialogue import Dialogue, Task
    from chatbridge.store import Node

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Composed:
    """A request, and how many turns of history had to stay out of it; `newly` of them since the last answer."""

    request: Request
    left_out: int = 0
    newly: int = 0

    def notices(self, language: str) -> list[str]:
        """What the person should be told before the answer."""
        return [say(language, "left_out", count=self.left_out)] if self.newly else []
