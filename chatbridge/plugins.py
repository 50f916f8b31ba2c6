"""Finds plugins, remembers who offers what, and survives broken ones. Knows no plugin by itself.

A `Plugins` object is cheap to make: modules that only register hooks are imported, and what they offer is asked
for when it is first needed. A plugin that fails at any point is withdrawn whole and listed with the reason and the
remedy; it becomes an error only for those who ask for something it would have offered.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pluggy

from chatbridge import hookspecs
from chatbridge.errors import PluginError

if TYPE_CHECKING:
    from chatbridge.commands import ChatCommand
    from chatbridge.engine.contract import BackendType
    from chatbridge.frontend import FrontendType
    from chatbridge.prompts import Template

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP = "chatbridge"
"""The entry-point group that plugin packages register under."""

FIRST_PARTY = {
    "llama_cpp": "chatbridge-llama-cpp",
    "transformers": "chatbridge-transformers",
    "glm": "chatbridge-glm",
    "rwkv": "chatbridge-rwkv",
    "discord": "chatbridge-discord",
    "telegram": "chatbridge-telegram",
}
"""Backends and frontends that have a package of their own: what to install where one is missing."""

OFFERS = ("backends", "frontends", "templates", "chat_commands")


@dataclass(slots=True)
class PluginRecord:
    """One plugin as `chatbridge plugins` lists it; `reason` and `remedy` are set for a broken one."""

    name: str
    version: str = ""
    offers: dict[str, list[str]] = field(default_factory=dict)
    reason: str = ""
    remedy: str = ""


class Plugins:
    """All plugins of one program: those handed in, and those that installed packages announce."""

    def __init__(self, plugins: Iterable[object] = (), *, discover: bool = True) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._records: dict[str, PluginRecord] = {}
        found = sorted(entry_points(group=GROUP), key=_ours_first) if discover else []
        for entry in found:
            self._load(entry)
        for plugin in plugins:
            name = getattr(plugin, "__name__", None) or type(plugin).__name__
            self._register(plugin, PluginRecord(name))

    @cached_property
    def backends(self) -> Mapping[str, BackendType]:
        """Every backend by its name."""
        return self._collect("backends")

    @cached_property
    def frontends(self) -> Mapping[str, FrontendType]:
        """Every frontend by its name."""
        return self._collect("frontends")

    @cached_property
    def templates(self) -> Mapping[str, Template]:
        """The presets, and every template that plugins add."""
        from chatbridge.prompts import presets

        return self._collect("templates", presets())

    @cached_property
    def chat_commands(self) -> Mapping[str, ChatCommand]:
        """The built-in chat commands, and every one that plugins add."""
        from chatbridge.commands import BUILTIN

        return self._collect("chat_commands", {command.name: command for command in BUILTIN})

    def add_commands(self, cli: object) -> None:
        """Let each plugin add its own commands to the command line."""
        for name, call in self._implementations("register_commands"):
            self._guard(name, partial(call, cli=cli))

    def ask(self, hook: str, **arguments: object) -> Any:
        """The first answer of a hook that is not None, newest plugin first; one that fails is logged and passed over.

        Observers' hooks answer None, so this tells all of them.
        """
        for name, call in reversed(self._implementations(hook)):
            try:
                if (answer := call(**arguments)) is not None:
                    return answer
            except Exception:
                log.exception("the plugin %s failed in %s", name, hook)
        return None

    def records(self) -> list[PluginRecord]:
        """Every plugin, sound or broken, after asking each what it offers."""
        for kind in OFFERS:
            getattr(self, kind)
        return list(self._records.values())

    def require_backend(self, name: str) -> BackendType:
        """The backend of that name. Raises PluginError with the way to get it."""
        return self.backends.get(name) or self._missing("backend", name, self.backends)

    def require_frontend(self, name: str) -> FrontendType:
        """The frontend of that name. Raises PluginError with the way to get it."""
        return self.frontends.get(name) or self._missing("frontend", name, self.frontends)

    # --- loading -----------------------------------------------------------------------------------------------

    def _load(self, entry: EntryPoint) -> None:
        record = PluginRecord(entry.name, entry.dist.version if entry.dist else "")
        try:
            plugin = entry.load()
        except Exception as error:
            self._records[record.name] = record
            self._withdraw(record.name, error)
        else:
            self._register(plugin, record)

    def _register(self, plugin: object, record: PluginRecord) -> None:
        if record.name in self._records:
            clash = f"another plugin is called {record.name!r} already"
            record.name = f"{record.name} ({len(self._records)})"
            self._records[record.name] = record
            self._withdraw(record.name, PluginError(clash), "uninstall one of the two")
            return
        self._records[record.name] = record
        try:
            self._manager.register(plugin, record.name)
            self._manager.check_pending()
        except Exception as error:
            unknown = self._misspelt(plugin)
            self._withdraw(record.name, PluginError(unknown) if unknown else error)

    def _misspelt(self, plugin: object) -> str:
        """Words for the first hook of `plugin` that does not exist, or an empty text."""
        known = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")]
        for name in dir(plugin):
            if self._manager.parse_hookimpl_opts(plugin, name) is not None and name not in known:
                return f"there is no hook called {name!r}{did_you_mean(name, known)}"
        return ""

    # --- what plugins offer ------------------------------------------------------------------------------------

    def _implementations(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """Each plugin's function for a hook, which takes the hook's arguments by name and leaves out what it lacks."""
        found = getattr(self._manager.hook, hook).get_hookimpls()
        return [(impl.plugin_name, _taking_what_it_names(impl)) for impl in found]

    def _collect(self, kind: str, start: Mapping[str, T] | None = None) -> dict[str, T]:
        """Ask each plugin in turn, so that a failure or a clash is that plugin's alone."""
        collected: dict[str, T] = dict(start or {})
        owners = dict.fromkeys(collected, "chatbridge itself")
        for plugin, call in self._implementations(f"register_{kind}"):
            # Gathered before any is taken: a generator that fails half-way offers nothing.
            offered: dict[str, T] | None = self._guard(plugin, partial(_by_name, call))
            if not offered:
                continue
            if clash := next((name for name in offered if name in owners), None):
                what = kind.removesuffix("s").replace("_", " ")
                error = PluginError(f"its {what} {clash!r} is offered by {owners[clash]} already")
                self._withdraw(plugin, error, "rename it, or uninstall one of the two")
                continue
            collected.update(offered)
            owners.update(dict.fromkeys(offered, f"the plugin {plugin!r}"))
            self._records[plugin].offers[kind] = sorted(offered)
        return collected

    def _guard(self, plugin: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            self._withdraw(plugin, error)
            return None

    def _withdraw(self, name: str, error: Exception, remedy: str = "") -> None:
        """Take a broken plugin out with everything that it has offered so far."""
        record = self._records[name]
        record.reason = f"{error}" if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        record.remedy = remedy or _remedy(record.name, error)
        record.offers.clear()
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        log.info("plugin %s is left out: %s", name, record.reason)

    def _missing(self, kind: str, name: str, known: Mapping[str, object]) -> NoReturn:
        broken = self._records.get(name)
        if broken is not None and broken.reason:
            raise PluginError(f"the plugin for {kind} {name!r} is broken: {broken.reason}; {broken.remedy}")
        if package := FIRST_PARTY.get(name):
            raise PluginError(f"{kind} {name!r} needs its plugin: pip install {package}")
        have = ", ".join(sorted(known)) or "none"
        raise PluginError(f"there is no {kind} {name!r}{did_you_mean(name, known)} (installed: {have})")


def _taking_what_it_names(impl: pluggy.HookImpl) -> Callable[..., Any]:
    return lambda **arguments: impl.function(**{name: arguments[name] for name in impl.argnames})


def _by_name(call: Callable[[], Iterable[Any]]) -> dict[str, Any]:
    return {item.name: item for item in call()}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _ours_first(entry: EntryPoint) -> tuple[bool, str]:
    """Sort key: the core's own plugins win a clash of names, then the alphabet decides, not the disk's order."""
    return (entry.dist is None or entry.dist.name != "chatbridge", entry.name)


def _remedy(plugin: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install the library that provides {error.name!r}"
    return f"update or uninstall the plugin {plugin!r}, or tell its author"
