"""`chatbridge model quantize`: every type of llama.cpp's, the size told beforehand, and what is refused in words."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from chatbridge_llama_cpp.ftypes import ftypes

from chatbridge import GgufHeader
from chatbridge.testing import default_signals, llama_metadata, random_llama, write_gguf

from .conftest import Quantize
from .quantizing import (
    NARROW,
    ODD,
    READABLE,
    WIDE,
    importance,
    write_imatrix,
    write_model,
)

Metadata = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizer(random_metadata: Metadata) -> Metadata:
    return {key: value for key, value in random_metadata.items() if key.startswith("tokenizer.")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, tokenizer: Metadata) -> Path:
    """A model whose rows fit every type, as an f16 file."""
    return write_model(tmp_path_factory.mktemp("source") / "wide.gguf", tokenizer)


SLOW = ("iq1", "iq2", "iq3")
"""How types begin for which llama.cpp reckons for seconds before it begins."""


def made_of(source: Path, folder: Path, types: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """What comes of each type."""
    script = Path(__file__).with_name("quantizing.py")
    imatrix = write_imatrix(folder / "imatrix.gguf", importance(source))
    command = [sys.executable, str(script), str(source), str(folder / "made.gguf"), str(imatrix), *types]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return (json.loads(line) for line in done.stdout.splitlines())


def data_size(made: GgufHeader) -> int:
    """Bytes of the tensors with their padding, by the gguf package's table of blocks."""
    total = 0
    for tensor in made.tensors.values():
        block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.kind]]
        total += -(-tensor.size // block * nbytes // 32) * 32
    return total


# --- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_every_type_is_made_as_large_as_was_said_and_close_to_the_source(source: Path, tmp_path: Path) -> None:
    whole = bool(os.environ.get("CHATBRIDGE_FULL"))
    types = {name for name in ftypes() if whole or not name.startswith(SLOW)}
    assert len(types) > (30 if whole else 20)
    found = {made["name"]: made for made in made_of(source, tmp_path, types)}
    assert found.keys() == types
    assert {name for name, made in found.items() if "error" in made} == {"nvfp4"}
    assert "makes no file of it" in found.pop("nvfp4")["error"]
    for name, made in found.items():
        assert made["made"] == made["size"], name
        assert made["fallbacks"] == [], name
        for tensor, kind in made["kinds"].items():
            assert kind == made["types"][tensor] or kind.startswith("type "), (name, tensor)
        for kind, lost in made["errors"].items():
            block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
            # Each bit halves the error. BF16 keeps eight; three values, as of TQ1_0, suit models trained with them.
            bound = 2**-9 if kind == "BF16" else 2.8 * 2 ** -(8 * nbytes / block)
            assert lost < bound or kind.startswith("TQ"), (name, kind)
    assert found["q4_k"]["kinds"] == found["q4_k_m"]["kinds"]


@pytest.mark.parametrize(
    ("size", "kinds", "fallbacks"),
    [
        (NARROW, {"F32", "Q5_0", "Q8_0"}, {("Q4_K", 256, "Q5_0"), ("Q6_K", 256, "Q8_0")}),
        (ODD, {"F32", "F16"}, {("Q4_K", 256, "F16"), ("Q6_K", 256, "F16"), ("Q8_0", 32, "F16")}),
    ],
    ids=["multiples of 32", "no multiple of 32"],
)
def test_rows_that_do_not_fit_fall_back_and_are_named(
    quantize: Quantize, tmp_path: Path, tokenizer: Metadata, size: Metadata, kinds: set[str], fallbacks: set[object]
) -> None:
    path = write_model(tmp_path / "small.gguf", tokenizer, size, "F32")
    code, told, errors = quantize(path, "-o", tmp_path / "made.gguf", "Q4_K_M")
    assert (code, errors) == (0, "")
    assert {tensor.kind for tensor in GgufHeader(tmp_path / "made.gguf", reader="a test").tensors.values()} == kinds
    (plan, _) = json.loads((tmp_path / "made.gguf.report.json").read_text())["steps"]
    assert {(one["asked"], one["block"], one["made"]) for one in plan["fallbacks"]} <= fallbacks
    for asked, block, made in {(one["asked"], one["block"], one["made"]) for one in plan["fallbacks"]}:
        assert re.search(
            f"^! {asked} packs {block} numbers .* does not fit [a-z_0-9., ]+.*: {made} instead$", told, re.M
        )


@pytest.mark.parametrize(
    "options", [(), ("--pure",), ("--leave-output",), ("--threads", "1")], ids=lambda options: " ".join(options)
)
def test_a_dry_run_tells_the_size_to_the_byte_and_makes_nothing(
    quantize: Quantize, source: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    code, told, errors = quantize(source, "q4_k_m", "--dry-run", "-o", tmp_path / "made.gguf", *options)
    assert (code, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []
    code, again, _ = quantize(source, "-o", tmp_path / "made.gguf", "q4_k_m", *options)
    made = GgufHeader(tmp_path / "made.gguf", reader="a test")
    assert f"q4_k_m: {made.size:,} bytes" in told
    assert again.startswith(told)
    assert made.size - data_size(made) == min(tensor.start for tensor in made.tensors.values())
    kinds = {name: tensor.kind for name, tensor in made.tensors.items()}
    assert kinds["output.weight"] == {"--pure": "Q4_K", "--leave-output": "F16"}.get("".join(options), "Q6_K")
    assert (kinds["blk.0.attn_v.weight"] == "Q4_K") == (options == ("--pure",))


def test_a_source_with_another_alignment_and_in_parts_becomes_one_sound_file(
    quantize: Quantize, tmp_path: Path, tokenizer: Metadata
) -> None:
    metadata = llama_metadata(**WIDE) | tokenizer
    arrays = random_llama(**WIDE)
    halves = [dict(list(arrays.items())[:3]), dict(list(arrays.items())[3:])]
    for i, half in enumerate(halves):
        split = {
            "split.no": np.uint16(i), "split.count": np.uint16(2), "split.tensors.count": np.int32(len(arrays))
        }  # fmt: skip
        path = tmp_path / f"m-0000{i + 1}-of-00002.gguf"
        write_gguf(path, (metadata if not i else {}) | split, half, alignment=256)
    code, _, errors = quantize(tmp_path / "m-00001-of-00002.gguf", "-o", tmp_path / "made.gguf", "q8_0")
    assert (code, errors) == (0, "")
    made = GgufHeader(tmp_path / "made.gguf", reader="a test")
    assert (made.metadata["general.alignment"], "split.count" in made.metadata) == (32, False)
    for name, array in arrays.items():
        tensor = made.tensors[name]
        raw = np.fromfile(made.path, np.uint8, tensor.nbytes, offset=tensor.start)
        after = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[tensor.kind]).reshape(array.shape)
        assert np.abs(after - array).max() < 0.02 * np.abs(array).max()
    sources = json.loads((tmp_path / "made.gguf.report.json").read_text())["sources"]
    assert [Path(one["path"]).name[:7] for one in sources] == ["m-00001", "m-00002"]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_type_says_which_may_be_meant(quantize: Quantize, source: Path, tmp_path: Path) -> None:
    code, told, errors = quantize(source, "-o", tmp_path / "made.gguf", "q4_km")
    assert (code, told) == (1, "")
    assert errors.startswith("chatbridge: there is no type 'q4_km' (known: ")
    assert errors.endswith("); did you mean 'q4_k_m'?\n")
    assert " iq4_xs, " in errors


def test_what_is_quantised_already_is_refused_by_its_tensors_name_unless_it_is_allowed(
    quantize: Quantize, tmp_path: Path, tokenizer: Metadata
) -> None:
    path = write_model(tmp_path / "packed.gguf", tokenizer, kind="Q8_0")
    code, _, errors = quantize(path, "-o", tmp_path / "made.gguf", "q4_0")
    assert code == 1
    assert f"{path}: token_embd.weight is quantised already, as Q8_0; " in errors
    assert "--requantize" in errors
    assert quantize(path, "-o", tmp_path / "made.gguf", "q8_0", "--requantize")[2].startswith(
        f"chatbridge: {path}: nothing would change"
    )
    code, told, _ = quantize(path, "-o", tmp_path / "made.gguf", "q4_0", "--requantize")
    assert code == 0
    assert "! 9 tensors were quantised before, and lose more now" in told


def broken(name: str, folder: Path, source: Path, tokenizer: Metadata) -> Path:
    """A source that can't be quantised."""
    if name == "cut short":
        (folder / "cut.gguf").write_bytes(source.read_bytes()[:-1000])
        return folder / "cut.gguf"
    if name == "no number":
        arrays = random_llama(**WIDE)
        arrays["blk.0.ffn_up.weight"][3, 5] = np.nan
        return write_gguf(folder / "nan.gguf", llama_metadata(**WIDE) | tokenizer, arrays)
    if name == "unknown":
        metadata = {f"novel.{key.removeprefix('llama.')}": value for key, value in llama_metadata(**WIDE).items()}
        return write_gguf(folder / "novel.gguf", metadata | tokenizer, random_llama(**WIDE), architecture="novel")
    if name == "empty":
        (folder / "empty.gguf").touch()
        return folder / "empty.gguf"
    (folder / "folder").mkdir()
    return folder / "folder" if name == "empty folder" else folder / "absent.gguf"


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("cut short", "the file is cut short"),
        ("no number", "'blk.0.ffn_up.weight' has invalid data: it holds what is no number"),
        ("unknown", "does not know its architecture"),
        ("empty", "empty.gguf: "),
        ("empty folder", "the folder is empty"),
        ("absent", "there is no such file or folder"),
    ],
)
def test_a_source_that_cannot_be_quantised_is_told_of_and_leaves_nothing(
    quantize: Quantize, source: Path, tmp_path: Path, tokenizer: Metadata, name: str, phrase: str
) -> None:
    path = broken(name, tmp_path, source, tokenizer)
    before = set(tmp_path.iterdir())
    code, told, errors = quantize(path, "-o", tmp_path / "made.gguf", "q8_0")
    assert (code, told) == (1, "")
    assert errors.startswith(f"chatbridge: {path}: ")
    assert phrase in errors
    assert set(tmp_path.iterdir()) == before


def test_a_folder_of_another_form_is_to_be_converted_first(quantize: Quantize, tmp_path: Path) -> None:
    from chatbridge.testing import fixtures

    code, _, errors = quantize(fixtures() / "llama" / "meta-1shard", "-o", tmp_path / "made.gguf", "q8_0")
    assert code == 1
    assert "this is LLaMA (meta), and GGUF files are quantised" in errors
    assert "chatbridge model convert" in errors


def test_outputs_that_cannot_be_are_refused_before_anything_is_done(
    quantize: Quantize, source: Path, tmp_path: Path, tokenizer: Metadata
) -> None:
    (tmp_path / "there.gguf").write_text("precious")
    assert "it is there already" in quantize(source, "-o", tmp_path / "there.gguf", "q8_0")[2]
    assert "it is there already" in quantize(source, "-o", source, "q8_0")[2]
    assert (tmp_path / "there.gguf").read_text() == "precious"
    assert "there is no such folder" in quantize(source, "-o", tmp_path / "absent" / "made.gguf", "q8_0")[2]
    assert "Missing option '-o'" in quantize(source, "q8_0")[2]
    tied = write_gguf(tmp_path / "tied.gguf", llama_metadata(**WIDE) | tokenizer, random_llama(**WIDE))
    assert "no output.weight to leave" in quantize(tied, "-o", tmp_path / "made.gguf", "q8_0", "--leave-output")[2]
    assert "nothing would change" in quantize(source, "-o", tmp_path / "made.gguf", "f16")[2]
    assert {path.name for path in tmp_path.iterdir()} == {"there.gguf", "tied.gguf"}


def test_a_disk_that_is_too_small_is_seen_before_the_source_is_read(
    quantize: Quantize, tmp_path: Path, tokenizer: Metadata
) -> None:
    path = write_model(tmp_path / "vast.gguf", tokenizer, kind="F32")
    whole = bytearray(path.read_bytes())
    # The last tensor, a vector, gets as long as no disk has room for; the file has a hole there and takes no room.
    name = max(GgufHeader(path, reader="a test").tensors.values(), key=lambda tensor: tensor.start).name.encode()
    count = 1 << 41
    at = whole.index(name) + len(name) + 4
    whole[at : at + 8] = count.to_bytes(8, "little")
    path.write_bytes(whole)
    try:
        os.truncate(path, len(whole) + 4 * count)
    except OSError:
        pytest.skip("this file system has no files of 9 TB")
    code, _, errors = quantize(path, "-o", tmp_path / "made.gguf", "q8_0")
    assert code == 1
    assert "made.gguf: it takes 8,796," in errors
    assert "free on the disk" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files there")
def test_a_disk_that_fills_up_meanwhile_leaves_nothing(source: Path, tmp_path: Path) -> None:
    program = (
        "import resource, sys; from chatbridge.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])); "
        "main(('model', 'quantize', *sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(source), "-o", str(tmp_path / "made.gguf"), "q8_0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "the file could not be written: the disk is full" in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- killed ----------------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(happened: Callable[[], object]) -> None:
    while not happened():
        os.sched_yield()


class Running:
    """A quantisation that takes a while, stopped at where the first bytes have been written."""

    def __init__(self, folder: Path, tokenizer: Metadata) -> None:
        size = WIDE | {"dim": 512, "hidden": 2048, "layers": 4}
        self.source = write_model(folder / "large.gguf", tokenizer, size)
        self.made = folder / "made.gguf"
        partial = folder / "made.gguf.partial"
        command = [sys.executable, "-m", "chatbridge", "model", "quantize", str(self.source), "-o", str(self.made)]
        with default_signals():
            self.process = subprocess.Popen(
                [*command, "iq3_s", "--threads", "1"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            )
        until(lambda: (partial.exists() and partial.stat().st_size) or self.process.poll() is not None)
        (self.child,) = children(self.process.pid)

    def ended(self) -> str:
        """What it has said of errors, once both processes have ended."""
        _, errors = self.process.communicate()
        until(lambda: not alive(self.child))
        return errors


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
def test_a_killed_run_takes_llama_cpp_along_and_leaves_the_temporary_name_alone(
    tmp_path: Path, tokenizer: Metadata, quantize: Quantize
) -> None:
    run = Running(tmp_path, tokenizer)
    run.process.send_signal(signal.SIGKILL)
    run.ended()
    assert {file.name for file in tmp_path.iterdir()} == {"large.gguf", "made.gguf.partial", "made.gguf.journal"}
    assert quantize(run.source, "-o", run.made, "q4_0")[0] == 0
    assert {file.name for file in tmp_path.iterdir()} == {"large.gguf", "made.gguf", "made.gguf.report.json"}
    assert {tensor.kind for tensor in GgufHeader(run.made, reader="a test").tensors.values()} <= READABLE


@linux
def test_a_run_that_is_interrupted_leaves_nothing(tmp_path: Path, tokenizer: Metadata) -> None:
    run = Running(tmp_path, tokenizer)
    run.process.send_signal(signal.SIGINT)
    assert "Traceback" not in run.ended()
    assert run.process.returncode != 0
    assert {file.name for file in tmp_path.iterdir()} == {"large.gguf"}


@linux
def test_a_child_that_dies_is_told_of_and_leaves_nothing(tmp_path: Path, tokenizer: Metadata) -> None:
    run = Running(tmp_path, tokenizer)
    os.kill(run.child, signal.SIGABRT)
    assert "the process in which llama.cpp worked ended by the signal SIGABRT" in run.ended()
    assert run.process.returncode == 1
    assert {file.name for file in tmp_path.iterdir()} == {"large.gguf"}
