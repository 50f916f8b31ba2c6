"""Finds plugins, remembers who offers what, and survives broken ones. Knows no plugin by itself.

A `Plugins` object is cheap to make: modules that only register hooks are imported, and what they offer is asked
for when it is first needed. A plugin that fails at any point is withdrawn whole and listed with the reason and the
remedy; it becomes an error only for those who ask for something it would have offered.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NoReturn

import pluggy

from chatbridge import hookspecs
from chatbridge.errors import PluginError
from chatbridge.plugins import builtin, checks
from chatbridge.plugins.packages import CORE, FIRST_PARTY, install_command
from chatbridge.suggest import closest, did_you_mean

if TYPE_CHECKING:
    import click

    from chatbridge.bots.command import ChatCommand
    from chatbridge.engine.backend import BackendType
    from chatbridge.model_tools.converter import Converter
    from chatbridge.plugins.frontend import FrontendType
    from chatbridge.prompts.template import Template

log = logging.getLogger(__name__)

GROUP = "chatbridge"
"""The entry-point group that plugin packages register under."""


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
        self._offered: dict[str, dict[str, Any]] = {}
        for entry in sorted(entry_points(group=GROUP), key=_ours_first) if discover else []:
            self._load(entry)
        for plugin in plugins:
            name = getattr(plugin, "__name__", None) or type(plugin).__name__
            self._register(plugin, PluginRecord(self._free_name(name)))

    @property
    def backends(self) -> Mapping[str, BackendType]:
        """Every backend by its name."""
        return self._everything("backends")

    @property
    def frontends(self) -> Mapping[str, FrontendType]:
        """Every frontend by its name."""
        return self._everything("frontends")

    @property
    def templates(self) -> Mapping[str, Template]:
        """The presets, and every template that plugins add."""
        return self._everything("templates")

    @property
    def chat_commands(self) -> Mapping[str, ChatCommand]:
        """The built-in chat commands, and every one that plugins add."""
        return self._everything("chat_commands")

    @property
    def converters(self) -> Mapping[str, Converter]:
        """Every way from one form of a model to another, by its name."""
        return self._everything("converters")

    @property
    def commands(self) -> Mapping[str, click.Command]:
        """What plugins add to the command line."""
        return {name: command for name, command in self._everything("commands").items() if command is not None}

    def ask(self, hook: str, **arguments: object) -> Any:
        """The first answer of a hook that is not None, newest plugin first; one that fails is logged and passed over.

        Observers are all told, whatever they answer.
        """
        spec = getattr(self._manager.hook, hook).spec
        for name, call in reversed(self._implementations(hook)):
            try:
                answer = call(**arguments)
            except KeyboardInterrupt:
                raise
            except BaseException:
                log.exception("the plugin %s failed in %s", name, hook)
            else:
                if answer is not None and spec.opts["firstresult"]:
                    return answer
        return None

    def records(self) -> list[PluginRecord]:
        """Every plugin, sound or broken, after asking each what it offers."""
        for kind in ("commands", *checks.KINDS):
            self._everything(kind)
        return list(self._records.values())

    def require_backend(self, name: str) -> BackendType:
        """The backend of that name. Raises PluginError with the way to get it."""
        return self.backends.get(name) or self._missing("backend", name, self.backends)

    def require_frontend(self, name: str) -> FrontendType:
        """The frontend of that name. Raises PluginError with the way to get it."""
        return self.frontends.get(name) or self._missing("frontend", name, self.frontends)

    # --- loading -----------------------------------------------------------------------------------------------

    def _load(self, entry: EntryPoint) -> None:
        _, version = _distribution(entry)
        record = PluginRecord(self._free_name(entry.name), version)
        try:
            plugin = entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and what libraries in Rust raise when they panic
            self._records[record.name] = record
            self._withdraw(record, error)
            return
        self._register(plugin, record)
        if record.name != entry.name:
            self._withdraw(record, _Clash(f"another plugin is called {entry.name!r} already"))

    def _free_name(self, name: str) -> str:
        same = sum(known == name or known.startswith(f"{name} (") for known in self._records)
        return f"{name} ({same + 1})" if same else name

    def _register(self, plugin: object, record: PluginRecord) -> None:
        self._records[record.name] = record
        try:
            self._manager.register(plugin, record.name)
            self._check_hooks(plugin)
            self._manager.check_pending()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._withdraw(record, error)

    def _check_hooks(self, plugin: object) -> None:
        known = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")]
        for caller in self._manager.get_hookcallers(plugin) or ():
            if caller.name not in known:
                raise PluginError(f"there is no hook called {caller.name!r}{did_you_mean(caller.name, known)}")
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin and (impl.wrapper or impl.hookwrapper):
                    raise PluginError(f"its {caller.name} is a wrapper; hooks are plain functions here")
                if impl.plugin is plugin and inspect.iscoroutinefunction(impl.function):
                    raise PluginError(f"its {caller.name} is async; hooks are plain functions that return at once")

    # --- what plugins offer ------------------------------------------------------------------------------------

    def _everything(self, kind: str) -> dict[str, Any]:
        """All that is offered of a kind: ours and the plugins'.

        Each plugin is asked for all kinds at once, since it stays or goes as a whole; but for its commands, which
        are wanted for `--help` and cost nothing.
        """
        if kind not in self._offered:
            self._gather(builtin.commands() if kind == "commands" else builtin.everything_else())
        return self._offered[kind]

    def _gather(self, offered: dict[str, dict[str, Any]]) -> None:
        """Add to `offered`, by kind and name, what each plugin has; a failure or a clash is that plugin's alone."""
        self._offered |= offered
        owners = dict.fromkeys(_pairs(offered), "chatbridge itself")
        for record in [record for record in self._records.values() if not record.reason]:
            try:
                found = {kind: self._offers_of(record.name, kind) for kind in offered}
                for kind, name in _pairs(found):
                    if (kind, name) in owners:
                        what = kind.removesuffix("s").replace("_", " ")
                        raise _Clash(f"its {what} {name!r} is offered by {owners[kind, name]} already")
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._withdraw(record, error)
            else:
                owners |= dict.fromkeys(_pairs(found), f"the plugin {record.name!r}")
                record.offers |= {kind: sorted(names) for kind, names in found.items() if names}
                for kind, names in found.items():
                    offered[kind] |= names

    def _offers_of(self, plugin: str, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, call in self._implementations(f"register_{kind}"):
            if name == plugin:
                found |= checks.validated(kind, call)
        return found

    def _implementations(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """Each plugin's function for a hook, which takes the hook's arguments by name and leaves out what it lacks."""
        found = getattr(self._manager.hook, hook).get_hookimpls()
        return [(impl.plugin_name, _taking_what_it_names(impl)) for impl in found]

    def _withdraw(self, record: PluginRecord, error: BaseException) -> None:
        """Take a broken plugin out with everything that it has offered so far."""
        words = " ".join(str(error).split())
        record.reason = words if isinstance(error, PluginError) else f"{type(error).__name__}: {words}".rstrip(": ")
        record.remedy = _remedy(record.name, error)
        for kind, names in record.offers.items():
            for name in names:
                del self._offered[kind][name]
        record.offers.clear()
        if self._manager.has_plugin(record.name):
            self._manager.unregister(name=record.name)
        log.info("plugin %s is left out: %s", record.name, record.reason)

    def _missing(self, kind: str, name: str, known: Mapping[str, object]) -> NoReturn:
        broken = {record.name: record for record in self._records.values() if record.reason}
        if name in broken:
            raise PluginError(f"the plugin for {kind} {name!r} is broken: {broken[name].reason}; {broken[name].remedy}")
        if install := install_command(kind, name):
            raise PluginError(f"{kind} {name!r} needs its plugin: {install}")
        have = ", ".join(sorted(known)) or "none"
        more = f"; broken plugins: {', '.join(broken)}, see `chatbridge plugins`" if broken else ""
        hint = did_you_mean(name, known)
        if not hint and (close := closest(name, FIRST_PARTY[kind].keys() - known.keys())):
            hint = f"; did you mean {close!r}? It needs its plugin: {install_command(kind, close)}"
        raise PluginError(f"there is no {kind} {name!r}{hint} (installed: {have}{more})")


class _Clash(PluginError):
    """Two plugins can't be told apart by name."""


def _pairs(found: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    return [(kind, name) for kind, names in found.items() for name in names]


def _taking_what_it_names(impl: pluggy.HookImpl) -> Callable[..., Any]:
    return lambda **arguments: impl.function(**{name: arguments[name] for name in impl.argnames})


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the package that an entry point comes from, as far as they can be told."""
    try:
        return (entry.dist.name or "", entry.dist.version or "") if entry.dist else ("", "")
    except Exception:  # a damaged installation; without its metadata, names are None or an error, as Python likes
        return "", ""


def _ours_first(entry: EntryPoint) -> tuple[bool, str]:
    """Sort key: the core's own plugins win a clash of names, then the alphabet decides, not the disk's order."""
    return (_distribution(entry)[0] != CORE, entry.name)


def _remedy(plugin: str, error: BaseException) -> str:
    if isinstance(error, _Clash):
        return "rename it, or uninstall one of the two"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install the library that provides {error.name!r}"
    return f"update or uninstall the plugin {plugin!r}, or tell its author"
