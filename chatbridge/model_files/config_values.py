"""Holds the values of adapter_config.json and config.json that are reckoned with against what they can be.

Values that are not there, or null, are another's to ask for, but for what no adapter is used without. Knows keys and
values; opens no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.families import CONFIG_KEYS

MAX_SIZE = 1 << 31
_MAX_NUMBER = 1e12
_MAX_ALPHA = 1e9

_SIZE, _NUMBER, _SMALL, _FLAG, _TEXT = (
    "a whole number above 0", "a number above 0", "a number above 0 and below 1", "true or false", "a text",
)  # fmt: skip

_MODEL: Mapping[str, str] = {
    **{key: _SIZE for keys in CONFIG_KEYS.values() for key in keys},
    **dict.fromkeys(("n_embed", "num_key_value_heads", "n_kv_heads", "head_dim"), _SIZE),
    **dict.fromkeys(
        ("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", "layernorm_epsilon"), _SMALL
    ),
    "rope_theta": _NUMBER,
    "tie_word_embeddings": _FLAG,
    "model_type": _TEXT,
}  # fmt: skip
"""What each key of a model's configuration can be, where it is said."""

_BY_LAYER = (*CONFIG_KEYS["heads"], *CONFIG_KEYS["inner"], "num_key_value_heads", "n_kv_heads", "head_dim")
"""What may differ from layer to layer, as a list."""

_ROTARY = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
"""Numbers above 0 in `rope_scaling` and `rope_parameters`."""

_UNSAID = ("vocab_size", "max_seq_len")
"""What Meta's params.json says by -1: as the tokenizer has it, or as the program is told."""


def model_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with values of a model's config.json or params.json, in words, each with key, value and what is
    expected. Of sizes that may differ by layer, as lists, each is looked at."""
    within = config.get("text_config")
    for prefix, values in (("", config), ("text_config.", within if isinstance(within, dict) else {})):
        for key, expected in _MODEL.items():
            value = values.get(key)
            if value is None or (key in _UNSAID and value == -1 and not isinstance(value, bool)):
                continue
            for one in value if value and isinstance(value, list) and key in _BY_LAYER else [value]:
                if not _is(one, expected):
                    yield _wrong(prefix + key, one, expected)
                    break
        for key in ("rope_scaling", "rope_parameters"):
            yield from _rotary_faults(prefix + key, values.get(key))


def adapter_faults(config: Mapping[str, Any], ranks: Iterable[int] = ()) -> Iterator[str]:
    """The same for PEFT's adapter_config.json. `ranks`: what the tensors of layers have, without repeats.

    A negative `lora_alpha` could be reckoned with, and would take away what was trained: it is a mistake.
    """
    for key in ("peft_type", "base_model_name_or_path", "bias"):
        if (value := config.get(key)) is not None and not isinstance(value, str):
            yield _wrong(key, value, _TEXT)
    if str(config.get("peft_type") or "LORA").upper() != "LORA":
        return
    patterns = {}
    for key in ("rank_pattern", "alpha_pattern"):
        patterns[key] = config.get(key) or {}
        if not isinstance(patterns[key], dict):
            yield _wrong(key, patterns[key], "a table of layers")
            return
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not _is_alpha(alpha) or not (alpha or patterns["alpha_pattern"]):
        yield _wrong("lora_alpha", alpha, f"{_NUMBER}: by it the adapter's strength is reckoned")
    for layer, own in patterns["alpha_pattern"].items():
        if not _is_alpha(own):
            yield _wrong(f"alpha_pattern for {layer:.100}", own, "a number, 0 or more")
    named = [("r", rank), *((f"rank_pattern for {layer:.100}", own) for layer, own in patterns["rank_pattern"].items())]
    wrong = [(key, value) for key, value in named if not _is(value, _SIZE)]
    yield from (_wrong(key, value, f"{_SIZE}: the adapter's rank") for key, value in wrong)
    told = sorted(set(ranks))
    if told and not wrong and not set(told) <= {value for _, value in named}:
        said = " and ".join(str(value) for _, value in named)
        yield f"rank: adapter_config.json says {said}, and the tensors {' and '.join(map(str, told))}"
    for key in ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias"):
        if (value := config.get(key)) is not None and not isinstance(value, bool):
            yield _wrong(key, value, _FLAG)


def check_adapter_config(file: Path, config: Mapping[str, Any], ranks: Iterable[int] = ()) -> None:
    """Raise ModelLoadError for the first value of an adapter_config.json that can't be.

    `file`: where it was read; `ranks`: of the tensors of its layers, to be held against what it says.
    """
    _refuse(file, adapter_faults(config, ranks))


def check_model_config(file: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelLoadError for the first value of a model's config.json or params.json that can't be."""
    _refuse(file, model_faults(config))


def _refuse(file: Path, faults: Iterator[str]) -> None:
    if (fault := next(faults, "")) != "":
        raise ModelLoadError(f"{file}: {fault}; take the file that was published with the weights")


def _rotary_faults(key: str, written: object) -> Iterator[str]:
    if written is None:
        return
    if not isinstance(written, dict):
        yield _wrong(key, written, "a table of numbers")
        return
    for name, value in written.items():
        if isinstance(value, dict):  # one for each kind of layers
            yield from _rotary_faults(f"{key}.{name:.50}", value)
        elif name in _ROTARY and value is not None and not _is(value, _NUMBER):
            yield _wrong(f"{key}.{name}", value, _NUMBER)


def _is(value: object, expected: str) -> bool:
    if expected == _TEXT:
        return isinstance(value, str)
    if expected == _FLAG:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if expected == _SIZE:
        return isinstance(value, int) and 0 < value < MAX_SIZE
    return 0 < value < (1 if expected == _SMALL else _MAX_NUMBER)


def _is_alpha(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MAX_ALPHA


def _wrong(key: str, value: object, expected: str) -> str:
    said = "is not said" if value is None else f"is {value!r:.60}"
    return f"{key} {said}, and should be {expected}"
