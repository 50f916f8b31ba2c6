"""What all bots of one program share: the settings, the store, the models, the hooks, the clock. Knows no bot."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from chatbridge.prompts.doctor import diagnose
from chatbridge.prompts.jinja_renderer import JinjaRenderer, shared_renderer
from chatbridge.prompts.template import Template
from chatbridge.types import ModelInfo

if TYPE_CHECKING:
    from collections import Counter

    from chatbridge.bots.command import ChatCommand
    from chatbridge.config.settings import Settings
    from chatbridge.store import Store
    from chatbridge.worker.pool import ModelPool

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where the settings come from; `chatbridge.SettingsSource` follows bots.yaml."""

    @property
    def current(self) -> Settings:
        """The latest that were good."""
        ...


class Hooks(Protocol):
    """What bots need of plugins; `chatbridge.Plugins` has it."""

    @property
    def chat_commands(self) -> Mapping[str, ChatCommand]:
        """The built-in chat commands, and every one that plugins add."""
        ...

    def ask(self, hook: str, **arguments: object) -> Any:
        """The first answer of a hook that is not None."""
        ...


class OpenDelivery(Protocol):
    """What those who watch a program see of the delivery of one bot."""

    @property
    def bot_name(self) -> str:
        """Whose it is."""
        ...

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        """Every call that was made, by what it was and what came of it."""
        ...

    @property
    def in_hand(self) -> int:
        """How many messages are being answered or wait for it."""
        ...

    @property
    def queued(self) -> int:
        """How many messages of finished answers wait to be delivered."""
        ...

    def stop_waiting(self) -> None:
        """Wait for nothing any more while the context is left."""
        ...


@dataclass(slots=True, eq=False)
class Services:
    """Enough to make a `Bot`. `clock` gives seconds since the epoch, `monotonic` seconds that never go back.

    `source.current` is read anew for every message, so that a changed bots.yaml needs no restart.
    """

    source: Source
    store: Store
    models: ModelPool
    hooks: Hooks
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    deliveries: set[OpenDelivery] = field(default_factory=set)
    """Those that are open now, one for each bot of a chat service."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a chat brings something; who watches the program clears it, and sleeps until then."""
    renderer: JinjaRenderer = field(default_factory=shared_renderer)
    """What runs the models' own chat templates."""
    _diagnosed: set[tuple[str, str, str]] = field(default_factory=set)
    _noted: set[tuple[str, str, str]] = field(default_factory=set)

    @property
    def settings(self) -> Settings:
        """What bots.yaml says now."""
        return self.source.current

    def note(self, template: Template, info: ModelInfo, notes: Iterable[str]) -> None:
        """Log what a template does otherwise than it was asked to, once for each template and model."""
        for text in notes:
            if (key := (template.name, info.fingerprint, text)) not in self._noted:
                self._noted.add(key)
                log.warning("model %s, template %s: %s", info.name, template.name, text)

    async def look_over(self, template: Template, info: ModelInfo, options: Mapping[str, Any] | None = None) -> None:
        """`diagnose`, off the event loop where a model's own template is rendered."""
        if (template.name, info.fingerprint, repr(options or {})) in self._diagnosed:
            return
        if template.jinja is None and not info.chat_template:
            self.diagnose(template, info, options)
        else:
            await self.renderer.off_loop(self.diagnose, template, info, options)

    def diagnose(self, template: Template, info: ModelInfo, options: Mapping[str, Any] | None = None) -> None:
        """Log what is wrong between a template with its options and a model, once for each of them."""
        key = (template.name, info.fingerprint, repr(options or {}))
        if key in self._diagnosed:
            return
        self._diagnosed.add(key)
        for finding in diagnose(template, info, self.renderer, options=options):
            level = {"error": logging.ERROR, "warning": logging.WARNING, "note": logging.INFO}[finding.severity]
            log.log(level, "model %s, template %s: %s; %s", info.name, template.name, finding.message, finding.remedy)
