"""`chatbridge doctor`: looks over this machine, the plugins, their engines and the settings; says what to do."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatbridge.cli.output import Styled, echo, echo_json, joined, styled
from chatbridge.errors import ChatbridgeError
from chatbridge.operations.printable import in_one_line

if TYPE_CHECKING:
    from chatbridge.config.settings import ModelSettings, Settings
    from chatbridge.plugins.manager import Plugins
    from chatbridge.types import ModelInfo

_LITTLE_MEMORY, _LITTLE_DISK = 4 * 2**30, 2 * 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked. `state`: good, warning or error; `remedy`: what to do about the last two."""

    about: str
    what: str
    state: str = "good"
    remedy: str = ""


@click.command("doctor")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The bots.yaml to look at.")
@click.option("--load", is_flag=True, help="Load each model, too, and say what is really in use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(config: Path | None, load: bool, as_json: bool) -> None:
    """Look over this machine, the plugins and the settings; say what to do.

    Exits 1 where something is wrong that keeps chatbridge from working, else 0.
    """
    checks = list(run_checks(config, load=load))
    if as_json:
        echo_json([asdict(check) for check in checks])
    else:
        for check in checks:
            echo(_line(check))
    sys.exit(int(any(check.state == "error" for check in checks)))


def run_checks(config: Path | None, *, load: bool = False) -> Iterator[Check]:
    """All checks, in order. `load`: also load each model in its worker, one after another."""
    from chatbridge.plugins.manager import Plugins

    plugins = Plugins()
    yield from _machine()
    yield from _plugins(plugins)
    yield from _engines(plugins)
    yield from _settings(config, plugins, load)


def _machine() -> Iterator[Check]:
    from chatbridge import __version__
    from chatbridge.operations import hardware
    from chatbridge.operations.threads import default_threads

    yield _own_package(__version__)
    yield Check("python", f"{platform.python_version()} ({sys.executable})")
    yield Check("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Check("processor", hardware.processor())
    yield Check("threads", f"{default_threads()} for a model, unless its `threads` says otherwise")
    features = hardware.cpu_features()
    yield Check("instructions", ", ".join(features) or "none that speed models up are known")
    total, free = hardware.memory()
    if not total:
        yield Check("memory", "can't be told on this system")
    else:
        what = f"{hardware.size(total)}" + (f", {hardware.size(free)} free" if free else "")
        low = 0 < free < _LITTLE_MEMORY
        advice = (
            f"a 7B model in 4 bits takes about {hardware.size(_LITTLE_MEMORY)}: close programs, or choose a smaller one"
        )
        yield Check("memory", what, "warning" if low else "good", advice if low else "")
    cards = hardware.gpus()
    for card in cards:
        parts = (card.name, hardware.size(card.memory) if card.memory else "", card.driver)
        yield Check("gpu", ", ".join(part for part in parts if part))
    if not cards:
        yield Check("gpu", "none seen; models run on the processor")


def _own_package(version: str) -> Check:
    """Which chatbridge runs: of another project's package with a folder of the same name, nothing else would tell."""
    from chatbridge.plugins.packages import CORE, OTHERS, replaced_by, stale

    if other := replaced_by():
        what = f"{version}, with another project called {OTHERS} {other}, which puts its files in place of ours"
        return Check("chatbridge", what, "error", f"pip uninstall {OTHERS}, and install {CORE} again")
    if place := stale():
        what = f"{version}, from {Path(__file__).parents[1]}, while another one is installed in {place}"
        return Check("chatbridge", what, "warning", "start it from another folder, or uninstall one of the two")
    return Check("chatbridge", version)


def _plugins(plugins: Plugins) -> Iterator[Check]:
    for record in plugins.records():
        if record.reason:
            yield Check(
                "plugin", f"{record.name} {record.version} is broken: {record.reason}", "warning", record.remedy
            )
        else:
            offers = "; ".join(f"{kind} {', '.join(names)}" for kind, names in record.offers.items())
            yield Check("plugin", f"{record.name} {record.version}: {offers or 'offers nothing'}")


def _engines(plugins: Plugins) -> Iterator[Check]:
    for backend in plugins.backends.values():
        if backend.build_info is None:
            continue
        try:
            info = backend.build_info()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a library that can't be imported, in whatever way it fails
            what = f"{backend.name}: {type(error).__name__}: {error}"
            yield Check("engine", what, "warning", f"reinstall the package of backend {backend.name}")
            continue
        yield Check("engine", f"{backend.name}: " + ", ".join(f"{name} {value}" for name, value in info.items()))


def _settings(config: Path | None, plugins: Plugins, load_models: bool) -> Iterator[Check]:
    from chatbridge.config.reader import default_settings, load

    path = config or Path("bots.yaml")
    try:
        if config is None and not path.exists():
            settings = default_settings(plugins)
            yield Check("settings", "no bots.yaml here: the bundled guide model is used")
        else:
            settings = load(path, plugins)
            bots = ", ".join(settings.bots) or "none"
            yield Check("settings", f"{path}: models {', '.join(settings.models)}; bots {bots}")
    except ChatbridgeError as error:
        yield Check("settings", str(error), "error", "mend the lines above; `chatbridge check` looks again")
        return
    for one in settings.models.values():
        if one.when_idle:
            yield Check("model", f"{one.name}: {one.when_idle}")
    yield from _disk(settings)
    if load_models:
        for model in settings.models.values():
            yield _model(model, plugins)
        return
    from chatbridge.model_tools.planning.machine import this_machine
    from chatbridge.model_tools.planning.planner import too_large

    for name, plan in too_large(settings.models.values(), plugins.backends, this_machine()):
        yield Check("model", f"{name} will not fit: {plan.shortage()}", "warning", plan.advice())


def _model(settings: ModelSettings, plugins: Plugins) -> Check:
    """What the model says of itself once it is loaded, or why it can't be loaded."""
    import asyncio

    from chatbridge.worker.pool import ModelPool

    async def load() -> ModelInfo:
        models = ModelPool(plugins.require_backend)
        try:
            async with models.use(settings) as backend:
                return backend.info
        finally:
            await models.aclose()

    try:
        info = asyncio.run(load())
    except ChatbridgeError as error:
        return Check("model", f"{settings.name}: {error}", "error", f"mend the entry of {settings.name} in `models`")
    details = {"context": f"{info.context_length} tokens", "chat template": _template(info), **info.details}
    if info.adapters:
        details.setdefault("adapters", ", ".join(info.adapters))
    lines = (f"{in_one_line(key)}: {in_one_line(str(value))}" for key, value in details.items())
    return Check("model", "\n    ".join((f"{settings.name} ({in_one_line(info.architecture)})", *lines)))


def _template(info: ModelInfo) -> str:
    from chatbridge.prompts.builtin import suggest_preset

    found = suggest_preset(info)
    return f"{'its own' if found == 'model' else 'none of its own'}; fitting preset: {found or 'none known'}"


def _disk(settings: Settings) -> Iterator[Check]:
    from chatbridge.operations import hardware

    store = settings.store
    free = hardware.disk_free(store.absolute())
    advice = "make room, or set `store` in bots.yaml to another disk" if free < _LITTLE_DISK else ""
    state = "warning" if advice else "good"
    if why := hardware.why_not_writable(store.absolute()):
        state, advice = "error", f"{why}; set `store` in bots.yaml to a file in a folder of yours"
    yield Check("store", f"{store}, {hardware.size(free)} free", state, advice)
    if store.is_file() and state != "error":
        yield from _damaged(store)


def _damaged(store: Path) -> Iterator[Check]:
    """What in the store can't be read, also while a bot uses it."""
    import asyncio

    from chatbridge.store import Store

    async def count() -> int:
        opened = await Store.open(store, shared=True)
        await opened.aclose()
        return opened.damaged_rows

    try:
        rows = asyncio.run(count())
    except ChatbridgeError as error:
        yield Check("store", str(error), "error", "the line above says what to do")
        return
    if rows:
        advice = "`chatbridge queue` lists them, and retries or drops them"
        yield Check("store", f"{rows} damaged rows are put aside; all others are in use", "warning", advice)


def _line(check: Check) -> Styled:
    color = {"good": "green", "warning": "yellow", "error": "red"}[check.state]
    mark = styled({"good": "✓", "warning": "!", "error": "✗"}[check.state], fg=color)
    advice = f"\n    → {check.remedy}" if check.remedy else ""
    return joined(mark, f" {check.about:<13} {check.what}{advice}")
