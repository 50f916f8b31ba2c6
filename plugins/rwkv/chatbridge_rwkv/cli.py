"""`chatbridge states`: lists the states that RWKV models keep on disk, and takes one out of there, or puts one in.

A state taken out is a file of torch's that the rwkv package can go on from, that `init_state` takes, and that can be
put in for the same model on another machine, in another type. Knows folders and files; leaves states to the model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from chatbridge_rwkv.model import RwkvModel
    from chatbridge_rwkv.options import RwkvOptions

_config = click.option(
    "-c", "--config", type=click.Path(path_type=Path), default=Path("bots.yaml"), help="The bots.yaml with the models."
)
_SHOWN = 60  # characters of text


@click.group("states", invoke_without_command=True)
@_config
@click.pass_context
def states(context: click.Context, config: Path) -> None:
    """List the states of RWKV models, export one, or import one."""
    context.obj = config
    if context.invoked_subcommand is None:
        _list(config)


@states.command("export")
@click.argument("id")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def _export(config: Path, id: str, file: Path) -> None:
    """Write the state ID to FILE, as {"state": tensors, "tokens": ids, …} for torch.load."""
    import torch

    from chatbridge import ConfigError

    found = [(name, stored) for name, _, _, stored in _kept(config) if _id(stored).startswith(id)]
    if len({stored.path for _, stored in found}) != 1:
        raise ConfigError(f"{len(found)} states have an id that begins with {id!r}; `chatbridge states` lists them")
    name, stored = found[0]
    model = _load(config, name)
    adapters = {"": "", **model.info.adapters}
    adapter = next((one for one, digest in adapters.items() if stored.read_by(digest)), None)
    if adapter is None:
        raise ConfigError(f"the state {id} was made with an adapter that {name} does not have any more")
    state = model.new_state(stored.saved(), adapter)  # its own error says if it is another strategy's
    written = {
        "chatbridge": 1,
        "architecture": model.info.architecture,
        "vocabulary": model.info.vocabulary,
        "adapter": adapters[adapter],
        "tokens": list(stored.tokens),
        "state": model.exported(state),
    }
    torch.save(written, file)
    click.echo(f"{file}: {len(stored.tokens)} tokens of {name}")


@states.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-m", "--model", "name", help="The model of bots.yaml, where it has several of RWKV.")
@click.pass_obj
def _import(config: Path, file: Path, name: str | None) -> None:
    """Keep the state in FILE for a model, as if it had read these tokens itself."""
    from chatbridge import ConfigError
    from chatbridge_rwkv.checkpoint import load_entries

    if not file.exists():
        raise ConfigError(f"{file}: there is no such file")
    entries = load_entries(file, "cpu")
    if entries.get("chatbridge") != 1:
        raise ConfigError(f"{file}: `chatbridge states export` did not write this; init_state takes other states")
    models = _models(config)
    if name is None and len(models) == 1:
        name = next(iter(models))
    if name not in models:
        raise ConfigError(f"say which model by --model: {', '.join(models) or 'bots.yaml has none of RWKV'}")
    model = _load(config, name)
    if model.disk_cache is None:
        raise ConfigError(f"{name} keeps no states: keep_states is false")
    if entries["vocabulary"] != model.info.vocabulary:
        raise ConfigError(f"{file}: its tokens are of another vocabulary than those of {name}")
    adapters = {digest: adapter for adapter, digest in {"": "", **model.info.adapters}.items()}
    if entries["adapter"] not in adapters:
        raise ConfigError(f"{file}: it was made with an adapter that {name} does not have")
    tokens = entries["tokens"]
    try:
        state = model.imported(entries["state"], len(tokens), adapters[entries["adapter"]])
    except ValueError as error:
        raise ConfigError(f"{file}: this is no state of {name}: {error}") from error
    model.disk_cache.put(tokens, state, entries["adapter"])
    found, length = model.disk_cache.longest([*tokens, 0], whole=True, adapter=entries["adapter"])
    if found is None or length != len(tokens):
        raise ConfigError(f"{file}: {len(tokens)} tokens are too few to be kept, or the folder can't be written")
    click.echo(f"{_id(found)}: {len(tokens)} tokens for {name}; a program that runs already sees them when it restarts")


def _list(config: Path) -> None:
    import time

    from chatbridge import escaped

    count = 0
    for name, tokenizer, folder, stored in _kept(config):
        if not count:
            click.echo(f"{folder}")
        count += 1
        about = stored.path.stat()
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(about.st_mtime))
        end = tokenizer.decode(stored.tokens[-_SHOWN:]).decode("utf-8", "replace")
        text = " ".join(end.split())[-_SHOWN:]
        tokens = len(stored.tokens)
        click.echo(escaped(f"{_id(stored)}  {name}  {tokens} tokens  {about.st_size >> 10} KiB  {when}  …{text}"))
    if not count:
        click.echo("no states are kept yet: they come there when conversations get quiet, and when a program ends")


def _kept(config: Path) -> Iterator[tuple[str, Any, Path, Any]]:
    """Every state of a model in bots.yaml: the model's name, its tokenizer, the folder, and the state."""
    from chatbridge import ChatbridgeError, DiskCache
    from chatbridge_rwkv.checkpoint import read
    from chatbridge_rwkv.state import HEADER, belongs_to
    from chatbridge_rwkv.tokenizer import choose

    for name, options in _models(config).items():
        if not options.keep_states or not options.keep_states.is_dir():
            continue
        try:
            checkpoint = read(options.path)
            tokenizer = choose(options.tokenizer, checkpoint.path, checkpoint.vocab_size)
        except ChatbridgeError as error:
            click.echo(f"{name}: {error}", err=True)
            continue
        for stored in DiskCache.contents(options.keep_states):
            if belongs_to(stored.saved(HEADER), checkpoint.fingerprint):
                yield name, tokenizer, options.keep_states, stored


def _models(config: Path) -> dict[str, RwkvOptions]:
    """The RWKV models of bots.yaml. Raises ConfigError."""
    from chatbridge import Plugins, SettingsSource
    from chatbridge_rwkv.options import RwkvOptions

    found = SettingsSource.of_file(config, Plugins()).current.models
    return {name: model.options for name, model in found.items() if isinstance(model.options, RwkvOptions)}


def _load(config: Path, name: str) -> RwkvModel:
    from chatbridge_rwkv.backend import load

    def progress(share: float, doing: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{name}: {doing:<30}", err=True, nl=share == 1)

    return load(_models(config)[name], progress)


def _id(stored: Any) -> str:
    """What people call a state: the beginning of the second half of its file's name."""
    return str(stored.path.stem.rpartition("-")[2][:12])
