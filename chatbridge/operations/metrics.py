"""What Prometheus gets to read: queues, calls, answers and their speed, what was cached, the event loop's lag.

Knows bridges and prometheus-client, which is optional: the extra `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chatbridge.errors import ChatbridgeError, PluginError
from chatbridge.hookspecs import hookimpl
from chatbridge.plugins.packages import install_extra

if TYPE_CHECKING:
    from chatbridge.bots.reply import FinishedReply
    from chatbridge.bridge import Bridge
    from chatbridge.operations.lag import LoopLag

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """All metrics of one program; a plugin, since it is told of every answer. `bridge` is set once there is one.

    Raises: PluginError where prometheus-client is missing.
    """

    def __init__(self, lag: LoopLag) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram
        except ImportError as error:
            raise PluginError(f"metrics need prometheus-client: {install_extra('metrics')}") from error
        self.bridge: Bridge | None = None
        self._lag = lag
        self._registry = CollectorRegistry()
        self._answers = Counter(
            "chatbridge_answers", "Answers that ended, by how.", ("bot", "model", "reason"), registry=self._registry
        )
        self._tokens = Counter(
            "chatbridge_tokens",
            "Tokens: of prompts that were cached or read, and generated ones.",
            ("model", "kind"),
            registry=self._registry,
        )
        self._first = Histogram(
            "chatbridge_first_token_seconds",
            "From the request to the first token.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._speed = Histogram(
            "chatbridge_tokens_per_second",
            "Decoding speed of each answer.",
            ("model",),
            buckets=_SPEEDS,
            registry=self._registry,
        )
        self._registry.register(self)
        self._models: dict[str, dict[str, Any]] = {}

    @hookimpl
    def turn_finished(self, reply: FinishedReply) -> None:
        """Count an answer."""
        self._answers.labels(reply.bot, reply.model, reply.finish.reason if reply.finish else "error").inc()
        if reply.finish is None:
            return
        usage = reply.finish.usage
        for kind, count in (("cached", usage.cached), ("read", usage.read), ("generated", usage.generated)):
            self._tokens.labels(reply.model, kind).inc(count)
        if usage.generated:
            self._first.labels(reply.model).observe(usage.first_token_seconds)
        if usage.tokens_per_second:
            self._speed.labels(reply.model).observe(usage.tokens_per_second)

    async def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        from prometheus_client import generate_latest

        self._models = {}
        if self.bridge is not None:
            for name, backend in self.bridge.models.loaded().items():
                stats = getattr(backend, "stats", None)  # only models in our own workers have these
                if stats is not None:
                    with suppress(ChatbridgeError):  # it ends just now, and is told of as one that is not loaded
                        self._models[name] = await stats()
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """What is read when somebody asks; prometheus-client calls this."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        depth = GaugeMetricFamily(
            "chatbridge_queue_depth", "Messages to be answered (inbox) or delivered (outbox).", labels=("bot", "box")
        )
        calls = CounterMetricFamily(
            "chatbridge_calls", "Calls to chat services, by what came of them.", labels=("bot", "call", "outcome")
        )
        for delivery in self.bridge.deliveries if self.bridge is not None else ():
            depth.add_metric((delivery.bot_name, "inbox"), delivery.in_hand)
            depth.add_metric((delivery.bot_name, "outbox"), delivery.queued)
            for (call, outcome), count in delivery.calls.items():
                calls.add_metric((delivery.bot_name, call, outcome), count)
        requests = GaugeMetricFamily(
            "chatbridge_model_requests", "Requests that a model runs, or that wait for it.", labels=("model", "state")
        )
        kept = GaugeMetricFamily("chatbridge_model_cache_bytes", "Memory of kept states.", labels=("model",))
        for name, stats in self._models.items():
            requests.add_metric((name, "running"), stats["running"])
            requests.add_metric((name, "waiting"), stats["waiting"])
            kept.add_metric((name,), stats["kept_bytes"])
        loaded = GaugeMetricFamily(
            "chatbridge_model_loaded", "Whether a model of bots.yaml is loaded: 1, or 0.", labels=("model",)
        )
        idle = GaugeMetricFamily(
            "chatbridge_model_idle_since_timestamp_seconds",
            "Since when nobody has used a model that was unloaded for that, in seconds since 1970.",
            labels=("model",),
        )
        if self.bridge is not None:
            there = self.bridge.models.loaded()
            for name in self.bridge.settings.models:
                loaded.add_metric((name,), int(name in there))
            for name, since in self.bridge.models.unloaded().items():
                idle.add_metric((name,), since)
        lag = GaugeMetricFamily(
            "chatbridge_event_loop_lag_seconds", "The event loop's lag in the last minute.", labels=("of",)
        )
        lag.add_metric(("worst",), self._lag.worst)
        lag.add_metric(("p99",), self._lag.quantile(0.99))
        damaged = GaugeMetricFamily(
            "chatbridge_store_damaged_rows", "Rows of the database that can't be read; `chatbridge queue` lists them."
        )
        if self.bridge is not None:
            damaged.add_metric((), self.bridge.store.damaged_rows)
        yield from (depth, calls, requests, kept, loaded, idle, lag, damaged)
