"""Whatever is done to a file, inspecting it ends in a description or in words, in little memory, and never in a crash.

Each form of publication is written small and sound, and then cut short, changed, or given another's name.
"""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbridge import ModelLoadError, inspect_model
from chatbridge.testing import fixtures, random_llama, write_gguf

from .writers import (
    GGML,
    hub_llama,
    meta_llama,
    text,
    write_adapter,
    write_ggml,
    write_hub_llama,
    write_old_torch,
    write_safetensors,
    write_torch,
)

MEMORY = 32 << 20
"""Bytes that inspecting a file of some kilobytes may take, with all that Python keeps of it."""

SMALL = {"rows": 6, "width": 4, "layers": 1, "inner": 4}


def gguf(folder: Path) -> Path:
    arrays = random_llama(layers=1, dim=4, hidden=4, heads=2, kv_heads=2, vocabulary=6)
    metadata = {"llama.block_count": 1, "llama.embedding_length": 4, "general.type": "model", "split.count": 1,
                "tokenizer.ggml.tokens": [*"abcdef"], "tokenizer.ggml.token_type": [1, 1, 1, 3, 3, 4],
                "tokenizer.ggml.model": "llama", "tokenizer.chat_template": "{{ x }}"}  # fmt: skip
    return write_gguf(folder / "m.gguf", metadata, arrays)


def safetensors(folder: Path) -> Path:
    return write_safetensors(folder / "model.safetensors", hub_llama(**SMALL), notes={"format": "pt"})


def torch_zip(folder: Path) -> Path:
    return write_torch(folder / "consolidated.00.pth", meta_llama(**SMALL), extra=text("note") + text("x"))


def torch_old(folder: Path) -> Path:
    return write_old_torch(folder / "model.bin", hub_llama(**SMALL))


def ggml(folder: Path) -> Path:
    for number, kind in enumerate(GGML):
        write_ggml(folder / f"ggml-{number}.bin", kind, width=32, layers=1, vocabulary=3)
    return folder / "ggml-0.bin"


def hub(folder: Path) -> Path:
    write_hub_llama(folder, form="torch", **SMALL)
    shutil.copy(fixtures() / "llama" / "tokenizer.model", folder)
    (folder / "tokenizer_config.json").write_text(
        '{"chat_template": "{{ x }}", "added_tokens_decoder": {"5": {"content": "a"}}}'
    )
    names = dict.fromkeys(hub_llama(**SMALL), "pytorch_model.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def adapter(folder: Path) -> Path:
    write_adapter(folder)
    (folder / "added_tokens.json").write_text('{"[PAD]": 3}')
    return folder


def meta(folder: Path) -> Path:
    for number in range(2):
        write_torch(folder / f"consolidated.{number:02}.pth", meta_llama(**SMALL, parts=2))
    (folder / "params.json").write_text('{"dim": 4, "n_layers": 1, "n_heads": 1}')
    return folder


def sat(folder: Path) -> Path:
    layer = "transformer.layers.0."
    part = {"transformer.word_embeddings.weight": (3, 4), f"{layer}attention.query_key_value.bias": (6,),
            f"{layer}attention.query_key_value.weight": (6, 4), f"{layer}input_layernorm.weight": (4,),
            f"{layer}mlp.dense_h_to_4h.bias": (8,)}  # fmt: skip
    (folder / "1").mkdir()
    (folder / "latest").write_text("1")
    for rank in range(2):
        write_torch(folder / "1" / f"mp_rank_{rank:02}_model_states.pt", part, group="module")
    return folder


def xor(folder: Path) -> Path:
    digest = sha256(b"x").digest()
    (folder / f"pytorch_model.bin.{digest.hex()}.enc").write_bytes(digest + b"encrypted")
    return folder


def tokenizer(folder: Path) -> Path:
    write_hub_llama(folder, **SMALL)
    vocabulary = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<s>", "id": 2}]}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    return folder


FORMS: tuple[Callable[[Path], Path], ...] = (
    gguf, safetensors, torch_zip, torch_old, ggml, hub, adapter, meta, sat, xor, tokenizer,
)  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> Callable[[list[Path]], Path]:
    """A way to spoil one or two of a form's files; it returns one of them."""
    which, at, other = (draw(st.floats(0, 1, exclude_max=True)) for _ in range(3))
    how = draw(st.sampled_from(["cut", "bytes", "number", "again", "swap", "name", "text"]))
    raw = draw(st.binary(min_size=1, max_size=12))
    near = draw(st.booleans())

    def spoil(files: list[Path]) -> Path:
        path, second = files[int(which * len(files))], files[int(other * len(files))]
        content = bytearray(path.read_bytes())
        place = int((at**3 if near else at) * (len(content) + 1))  # more often in the header
        if how == "cut":
            del content[place:]
        elif how == "bytes":
            content[place : place + len(raw)] = raw
        elif how == "number":
            content[place : place + 8] = int.from_bytes(raw, "little").to_bytes(12, "little")[:8]
        elif how == "again":
            content[place:place] = content[place // 2 : place // 2 + 400]
        elif how == "text":
            content[place:place] = raw.hex().encode()
        path.write_bytes(content)
        if how in ("swap", "name") and path != second:
            spare = path.with_name("spare")
            path.rename(spare)
            second.rename(path)
            if how == "swap":
                spare.rename(second)
        return path

    return spoil


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_spoilt_ends_in_a_description_or_in_words(form: Callable[[Path], Path]) -> None:
    with TemporaryDirectory() as sound:
        inspect_model(form(Path(sound)))

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(damages(), st.sampled_from([True, False, False, False]))  # to watch the memory takes three times as long
        def spoil(damage: Callable[[list[Path]], Path], watched: bool) -> None:
            with TemporaryDirectory() as spoilt:
                folder = Path(spoilt) / "m"
                shutil.copytree(sound, folder)
                damaged = damage(sorted(path for path in folder.rglob("*") if path.is_file()))
                for path in (folder, damaged):
                    with little_memory() if watched else nullcontext():
                        check(path)

        spoil()


def check(path: Path) -> None:
    words = ""
    try:
        found = inspect_model(path)
    except ModelLoadError as error:
        words = str(error)
    if words:
        assert str(path) in words
        return
    assert all(problem.message for problem in found.problems)
    assert found.layout or not found.sound
