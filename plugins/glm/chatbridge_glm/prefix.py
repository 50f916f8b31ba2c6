"""P-Tuning v2 prefixes: keys and values that were trained and stand before every conversation.

Knows both forms that the project's ptuning folder writes: the values themselves, and those by a projection. They are
kept in float32 until they go into a cache. A prefix that doesn't belong to the model is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from chatbridge import ModelLoadError
from chatbridge_glm import files
from chatbridge_glm.checkpoint import PREFIX
from chatbridge_glm.config import Config, read_config
from chatbridge_glm.state import Prefix

_VALUES = "embedding.weight"
_PROJECTION = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")


def read(path: Path, config: Config) -> tuple[Prefix, str]:
    """The prefix in a folder or file, and what stands for its contents. Raises ModelLoadError."""
    if path.is_dir():
        found = list(files.data_files(path))
        declared = read_config(path / "config.json").pre_seq_len if (path / "config.json").exists() else 0
    else:
        found, declared = [path], 0
    tensors: dict[str, Any] = {}
    for file in found:
        about = files.look(file)
        opened = about.open()
        for name in about.tensors:
            # Some write the encoder's own names, without the model's before them.
            short = name.removeprefix(PREFIX)
            if short in (_VALUES, *_PROJECTION):
                tensors[short] = opened.tensor(name).float().clone()
    return of(tensors, config, path, declared), digest(tensors)


def of(tensors: Mapping[str, Any], config: Config, path: Path, declared: int = 0) -> Prefix:
    """Keys and values by layers. `declared`: the length that a config.json says, if any. Raises ModelLoadError."""
    if _VALUES not in tensors:
        raise ModelLoadError(f"{path}: there is no P-Tuning prefix in it: {PREFIX}{_VALUES} is missing")
    values = tensors[_VALUES].float()
    if any(name in tensors for name in _PROJECTION):
        if missing := [name for name in _PROJECTION if name not in tensors]:
            raise ModelLoadError(f"{path}: the prefix has a projection, and {PREFIX}{missing[0]} is missing")
        hidden = torch.tanh(values @ tensors[_PROJECTION[0]].float().T + tensors[_PROJECTION[1]].float())
        values = hidden @ tensors[_PROJECTION[2]].float().T + tensors[_PROJECTION[3]].float()
    length, width = values.shape
    wanted = 2 * config.layers * config.hidden_size
    if width != wanted:
        raise ModelLoadError(
            f"{path}: the prefix has {width} numbers for each of its {length} tokens, and this model takes {wanted} "
            f"(2 x {config.layers} layers x {config.hidden_size}): it was trained on another model"
        )
    if declared and declared != length:
        raise ModelLoadError(f"{path}: its config.json says pre_seq_len {declared}, and the prefix has {length} tokens")
    if not bool(torch.isfinite(values).all()):
        raise ModelLoadError(f"{path}: the prefix holds what is no number; its training went wrong")
    parts = values.view(length, 2 * config.layers, config.heads, config.head_size).permute(1, 2, 0, 3)
    return [(parts[2 * number].contiguous(), parts[2 * number + 1].contiguous()) for number in range(config.layers)]


def digest(tensors: Mapping[str, Any]) -> str:
    """What stands for a prefix: equal ones give equal states."""
    from hashlib import blake2b

    found = blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()
