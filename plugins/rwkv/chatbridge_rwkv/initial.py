"""Initial states (state tuning): what a model remembers before a conversation begins, from files, by name.

Knows the files that RWKV-PEFT and ChatRWKV use, and a whole state as the package holds it; knows no conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError
from chatbridge_rwkv.checkpoint import Checkpoint, load_entries
from chatbridge_rwkv.package_model import from_package_state
from chatbridge_rwkv.state import Layout, Tensors


def read(path: Path, checkpoint: Checkpoint, layout: Layout) -> Tensors:
    """The state in a file. Raises ModelLoadError where it does not fit this model.

    Either `blocks.N.att.time_state` of each layer, [heads, size, size] (RWKV-5 and 6 hold it transposed, RWKV-7 as it
    is), or a whole state: the list of tensors that the package's `forward` returns, or `{"state": that list}`.
    """
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such file; it is named by adapters: … init_state:")
    entries = load_entries(path, "cpu")
    tuned = {name: value for name, value in entries.items() if name.endswith("att.time_state")}
    try:
        if tuned:
            return _tuned(tuned, checkpoint, layout)
        whole = entries.get("state", entries.get(""))
        if isinstance(whole, (list, tuple)):
            return from_package_state(layout, whole)
        raise ValueError("it has neither blocks.N.att.time_state nor a list of tensors")
    except ValueError as error:
        raise ModelLoadError(f"{path}: this is no initial state for {checkpoint.path.name}: {error}") from error


def within(weights: Mapping[str, Any], checkpoint: Checkpoint, layout: Layout) -> Tensors | None:
    """The state that a model itself begins with, where one was merged into its file (RWKV-5 and 6)."""
    tuned = {name: value for name, value in weights.items() if name.endswith("att.time_state")}
    return _tuned(tuned, checkpoint, layout) if tuned else None


def digest(tensors: Sequence[Any]) -> str:
    """Identifies an initial state by its contents."""
    found = blake2b(digest_size=16)
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"rwkv-state-{found.hexdigest()}"


def _tuned(tuned: Mapping[str, Any], checkpoint: Checkpoint, layout: Layout) -> Tensors:
    if not layout.has_heads:
        raise ValueError(f"{checkpoint.name} has no states of this kind")
    tensors = layout.empty()
    for number, (_, _, state) in enumerate(layout.views(tensors)):
        name = f"blocks.{number}.att.time_state"
        if name not in tuned:
            raise ValueError(f"it has no {name}")
        value = tuned[name]
        if tuple(value.shape) != tuple(state.shape):
            raise ValueError(f"{name} is {list(value.shape)}, and the model's are {list(state.shape)}")
        # The trainers keep [key, value] for RWKV-5 and 6 where the package computes with [value, key] transposed.
        state.copy_(value if checkpoint.version == 7 else value.transpose(1, 2))
    if beyond := next((name for name in tuned if int(name.split(".")[1]) >= checkpoint.layers), None):
        raise ValueError(f"it has {beyond}, and the model has {checkpoint.layers} layers")
    return tensors
