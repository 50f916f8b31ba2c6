"""Writes files of weights as torch, safetensors and the old llama.cpp do, for tests: every number in them is zero.

Needs none of these programs. What is written is what `torch.save` writes, to the instruction, but for its alignment.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]

STORAGES = {"float16": ("HalfStorage", 2), "float32": ("FloatStorage", 4), "int8": ("CharStorage", 1)}
DTYPES = {"F16": 2, "F32": 4, "I8": 1}
FOREIGN = b"cposix\nsystem\nX\x04\0\0\0true\x85R"
"""The instructions of a pickle that would run a program."""


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    key: str, shape: tuple[int, ...], dtype: str = "float16", *, count: int | None = None, old: bool = False
) -> bytes:
    """The instructions for one tensor that has a storage of its own. `count`: what the storage is said to hold."""
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    size = prod(shape) if count is None else count
    storage = b"(" + text("storage") + b"ctorch\n" + STORAGES[dtype][0].encode() + b"\n" + text(key) + text("cpu")
    storage += number(size) + (b"N" if old else b"") + b"tQ"
    arguments = storage + number(0) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def entries(shapes: Shapes, dtype: str, *, old: bool = False) -> bytes:
    items = (text(name) + tensor(str(at), shape, dtype, old=old) for at, (name, shape) in enumerate(shapes.items()))
    return b"}(" + b"".join(items) + b"u"


def write_torch(
    path: Path, shapes: Shapes, dtype: str = "float16", *, group: str = "", extra: bytes = b"", pickle: bytes = b""
) -> Path:
    """A file of torch's with tensors by name. `group`: the name under which they are; `extra`: instructions for more
    items of the dictionary at the top; `pickle`: all instructions."""
    body = entries(shapes, dtype)
    if group:
        body = b"}(" + text(group) + body + b"u"
    if extra:
        body += b"(" + extra + b"u"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle or b"\x80\x02" + body + b".")
        for at, shape in enumerate(shapes.values()):
            archive.writestr(f"{path.stem}/data/{at}", bytes(prod(shape) * STORAGES[dtype][1]))
        archive.writestr(f"{path.stem}/version", "3\n")
    return path


def write_old_torch(path: Path, shapes: Shapes, dtype: str = "float16") -> Path:
    """The same as torch wrote it before version 1.6."""
    width = STORAGES[dtype][1]
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    keys = b"\x80\x02](" + b"".join(text(str(at)) for at in range(len(shapes))) + b"e."
    pickles = magic + b"\x80\x02M" + struct.pack("<H", 1001) + b".\x80\x02}."
    data = b"".join(struct.pack("<q", prod(shape)) + bytes(prod(shape) * width) for shape in shapes.values())
    path.write_bytes(pickles + b"\x80\x02" + entries(shapes, dtype, old=True) + b"." + keys + data)
    return path


def write_safetensors(path: Path, shapes: Shapes, dtype: str = "F16", notes: Mapping[str, str] | None = None) -> Path:
    header: dict[str, object] = {"__metadata__": dict(notes)} if notes else {}
    at = 0
    for name, shape in shapes.items():
        size = prod(shape) * DTYPES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))
    return path


GGML = {
    "ggml": (b"lmgg", 0),
    "ggmf 1": (b"fmgg", 1),
    "ggjt 1": (b"tjgg", 1),
    "ggjt 2": (b"tjgg", 2),
    "ggjt 3": (b"tjgg", 3),
}


def write_ggml(
    path: Path, kind: str, *, vocabulary: int = 8, width: int = 64, heads: int = 4, layers: int = 2, parts: int = 1
) -> Path:
    """A LLaMA as llama.cpp wrote it before GGUF. Matrices are Q4_0, norms F32; `parts`: of how many this is one."""
    magic, version = GGML[kind]
    block = 18 if version == 3 and magic == b"tjgg" else 20
    out = io.BytesIO()
    out.write(magic + (struct.pack("<I", version) if version else b""))
    out.write(struct.pack("<7i", vocabulary, width, 256, heads, layers, width // heads, 2))
    for token in range(vocabulary):
        piece = f"t{token}".encode()
        out.write(struct.pack("<I", len(piece)) + piece + (b"" if magic == b"lmgg" else struct.pack("<f", -token)))

    def put(name: str, shape: Sequence[int]) -> None:
        quantized = len(shape) == 2
        out.write(struct.pack("<3i", len(shape), len(name), 2 if quantized else 0))
        out.write(struct.pack(f"<{len(shape)}i", *reversed(shape)) + name.encode())
        if magic == b"tjgg":
            out.write(bytes(-out.tell() % 32))
        out.write(bytes(prod(shape) // 32 * block if quantized else prod(shape) * 4))

    put("tok_embeddings.weight", (vocabulary, width // parts))
    put("norm.weight", (width,))
    for layer in range(layers):
        put(f"layers.{layer}.attention.wq.weight", (width // parts, width))
        put(f"layers.{layer}.attention_norm.weight", (width,))
    path.write_bytes(out.getvalue())
    return path


# --- models ----------------------------------------------------------------------------------------------------------


def meta_llama(*, rows: int = 48, width: int = 16, layers: int = 2, parts: int = 1, inner: int = 32) -> Shapes:
    """One tensor-parallel part of a LLaMA by Meta's names."""
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (rows, width // parts), "norm.weight": (width,)}
    for layer in range(layers):
        for name in ("wq", "wk", "wv"):
            shapes[f"layers.{layer}.attention.{name}.weight"] = (width // parts, width)
        shapes[f"layers.{layer}.attention.wo.weight"] = (width, width // parts)
        shapes[f"layers.{layer}.feed_forward.w1.weight"] = (inner // parts, width)
        shapes[f"layers.{layer}.feed_forward.w2.weight"] = (width, inner // parts)
        shapes[f"layers.{layer}.attention_norm.weight"] = (width,)
    return {**shapes, "output.weight": (rows // parts, width), "rope.freqs": (2,)}


def hub_llama(*, rows: int = 48, width: int = 16, layers: int = 2, inner: int = 32) -> Shapes:
    """A LLaMA by Hugging Face's names."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, width)}
    for layer in range(layers):
        before = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{before}self_attn.{name}.weight"] = (width, width)
        shapes[f"{before}mlp.gate_proj.weight"] = shapes[f"{before}mlp.up_proj.weight"] = (inner, width)
        shapes[f"{before}mlp.down_proj.weight"] = (width, inner)
        shapes[f"{before}input_layernorm.weight"] = shapes[f"{before}post_attention_layernorm.weight"] = (width,)
    return {**shapes, "model.norm.weight": (width,), "lm_head.weight": (rows, width)}


def write_hub_llama(
    folder: Path, *, form: str = "safetensors", config: Mapping[str, object] | None = None, **sizes: int
) -> Path:
    """A folder in Hugging Face's form, without a tokenizer."""
    folder.mkdir(exist_ok=True)
    said = {"model_type": "llama", "hidden_size": sizes.get("width", 16), "num_hidden_layers": sizes.get("layers", 2)}
    said |= {"num_attention_heads": 4, "vocab_size": sizes.get("rows", 48), **(config or {})}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    if form == "safetensors":
        write_safetensors(folder / "model.safetensors", hub_llama(**sizes))
    else:
        write_torch(folder / "pytorch_model.bin", hub_llama(**sizes))
    return folder


def write_adapter(folder: Path, shapes: Shapes | None = None, **config: object) -> Path:
    """A PEFT adapter of rank 4 on q and v of one layer."""
    folder.mkdir(exist_ok=True)
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    layer = "base_model.model.model.layers.0.self_attn"
    usual: dict[str, tuple[int, ...]] = {}
    for name in ("q_proj", "v_proj"):
        usual |= {f"{layer}.{name}.lora_A.weight": (4, 16), f"{layer}.{name}.lora_B.weight": (16, 4)}
    write_torch(folder / "adapter_model.bin", usual if shapes is None else shapes, "float32")
    return folder
