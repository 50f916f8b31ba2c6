"""Which model an adapter was trained on, as far as its conversion has to know: its family, and its numbers of heads.

Told by a folder or GGUF file that is given or that the adapter names, or by the sizes of the LLaMAs that Meta
published. Reads configurations and headers; no weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.config_values import check_model_config
from chatbridge.model_files.families import LLAMA_SIZES
from chatbridge.model_files.gguf import GgufHeader
from chatbridge.model_files.kinds import kind_of
from chatbridge.model_files.reading import read_json_object
from chatbridge.model_files.shapes import from_config
from chatbridge.model_tools.merging.lora import Adapter
from chatbridge.model_tools.tables import FORMS, Entry, Form, form_of

MERGE = "merge it into its model (chatbridge model merge), and convert that"
"""What to do with an adapter that can't be converted."""

_LLAMA = re.compile("llama|alpaca|vicuna", re.IGNORECASE)
_LLAMA_HEAD = 128
"""How wide a head is in each LLaMA that Meta published, from 7B to 65B."""

_CONFIGS = {
    "config.json": ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"),
    "params.json": ("dim", "n_heads", "n_kv_heads", "n_layers"),
}
"""Where the width, the heads, those of keys and the layers stand."""

_RENAMED = {"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
"""What BLOOM's files call some of them."""


@dataclass(frozen=True, slots=True)
class Base:
    """What has to be known of the model under an adapter. `sizes`: by the words of the tables, those that are known;
    `tied`: whether its head is its embedding; `told`: by what."""

    form: Form
    sizes: Mapping[str, int]
    tied: bool
    told: str


def base_of(adapter: Adapter, given: object) -> Base:
    """Raises ModelLoadError where it can't be told."""
    named = str(adapter.config.get("base_model_name_or_path") or "")
    path = Path(str(given)) if given is not None else Path(named) if named else None
    if path is not None and (given is not None or _there(path)):
        return _read_base(path, adapter)
    about = adapter.about.adapter
    layers, width = (about.layers, about.width) if about else (0, 0)
    if (size := LLAMA_SIZES.get((layers, width))) and _LLAMA.search(named):
        ends = ("k_proj.weight", "v_proj.weight")
        keys = next((delta.shape[0] for name, delta in adapter.deltas.items() if name.endswith(ends)), width)
        form = form_of("huggingface", "llama")
        assert form is not None
        heads, kv = width // _LLAMA_HEAD, max(1, keys // _LLAMA_HEAD)
        return Base(form, _sizes(width, heads, kv, _LLAMA_HEAD, layers), False, f"LLaMA {size}")
    says = f"adapter_config.json names {named[:200]!r}, which is no folder here" if named else "it names none"
    raise ModelLoadError(
        f"{adapter.path}: the model that it was trained on has to be known, for its heads, and {says}; give its folder "
        f"(config.json is enough), or a GGUF file of it, by --base"
    )


def _there(path: Path) -> bool:
    try:
        return (path / "config.json").is_file() or (path / "params.json").is_file() or path.is_file()
    except (OSError, ValueError):  # a name that no system takes
        return False


def _read_base(path: Path, adapter: Adapter) -> Base:
    if path.is_file() and kind_of(path) == "gguf":
        return _gguf_base(GgufHeader(path, reader="this"), adapter)
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such file or folder; give the model that the adapter was trained on")
    folder = path if path.is_dir() else path.parent
    for name in _CONFIGS:
        if (folder / name).is_file():
            return _configured(folder / name, read_json_object(folder / name), adapter)
    raise ModelLoadError(f"{path}: this is no base: no config.json or params.json is here, and it is no GGUF file")


def refuse_other_family(adapter: Adapter, name: str, told: str, what: str) -> None:
    """Raise ModelLoadError where a layer that an adapter changes is none of the base's family, but of another one.

    `name`: of a tensor by Hugging Face's; `told`: by what the base is known; `what`: its family.
    """
    own = sorted({form.architecture for form in FORMS if form.layout == "huggingface" and entry_of(form, name)[0]})
    if own and what not in own:
        raise ModelLoadError(
            f"{adapter.path}: it changes {name:.200}, which models such as {', '.join(own)} have, and {told} is "
            f"{what[:50] or 'of another family'}; give {adapter.base} by --base"
        )


def entry_of(form: Form, name: str) -> tuple[Entry | None, int | None]:
    """What becomes of a tensor by Hugging Face's name, None where the form has none such, and its layer's number."""
    own = name.removeprefix(form.prefix)
    layer = re.fullmatch(re.escape(form.layer).replace(r"\{\}", r"(\d{1,6})") + "(.+)", own)
    return (form.block.get(layer[2]), int(layer[1])) if layer else (form.top.get(own), None)


def _refuse_wrong_base(adapter: Adapter, told: str, what: str) -> None:
    for name in adapter.deltas:
        refuse_other_family(adapter, name, told, what)


def _configured(file: Path, config: Mapping[str, Any], adapter: Adapter) -> Base:
    check_model_config(file, config)
    kind = "llama" if file.name == "params.json" else str(config.get("model_type") or "")[:100]
    form = form_of("huggingface", kind)
    if form is None:
        _refuse_wrong_base(adapter, str(file), kind)
        known = ", ".join(sorted({kind for form in FORMS for kind in form.kinds}))
        told = f"adapters of {kind or 'what it is'} are not converted here, only those of {known}"
        raise ModelLoadError(f"{file}: {told}; {MERGE}")
    words = _CONFIGS[file.name]
    values = {_RENAMED.get(key, key): value for key, value in config.items()}
    width, heads, layers = (_natural(file, values, word) for word in (words[0], words[1], words[3]))
    kv = _natural(file, values, words[2]) if values.get(words[2]) is not None else heads
    head = _natural(file, values, "head_dim") if values.get("head_dim") is not None else width // heads
    if not head > 1 or head % 2 or heads % kv:
        raise ModelLoadError(f"{file}: a width of {width:,} does not go with {heads:,} heads, {kv:,} of them for keys")
    also = {word: size for word, size in from_config(config).items() if word in ("inner", "vocabulary")}
    tied = config.get("tie_word_embeddings", form.tied) is True
    return Base(form, {**_sizes(width, heads, kv, head, layers), **also}, tied, str(file))


def _gguf_base(header: GgufHeader, adapter: Adapter) -> Base:
    form = next((f for f in FORMS if f.layout == "huggingface" and f.architecture == header.architecture), None)
    if form is None:
        _refuse_wrong_base(adapter, str(header.path), header.architecture)
        raise ModelLoadError(f"{header.path}: adapters of {header.architecture[:50]!r} are not converted here; {MERGE}")
    width, heads, layers = (int(header.number(k)) for k in ("embedding_length", "attention.head_count", "block_count"))
    if "adapter.type" in header.metadata:
        raise ModelLoadError(f"{header.path}: this is an adapter itself; give the model that it is for by --base")
    if min(width, heads, layers) < 1:
        raise ModelLoadError(f"{header.path}: its metadata do not say how large the model is; give another base")
    head = int(header.number("attention.key_length", width // heads))
    kv = int(header.number("attention.head_count_kv", heads))
    return Base(form, _sizes(width, heads, kv, head, layers), "output.weight" not in header.tensors, str(header.path))


def _sizes(width: int, heads: int, kv: int, head: int, layers: int) -> dict[str, int]:
    return {"width": width, "heads": heads, "kv_heads": kv, "head": head, "q": heads * head, "kv": kv * head,
            "qkv": 3 * width, "layers": layers}  # fmt: skip


def _natural(file: Path, values: Mapping[str, Any], word: str) -> int:
    value = values.get(word)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise ModelLoadError(f"{file}: it gives {value!r:.60} for {word}; give the config.json of the model by --base")
    return value
