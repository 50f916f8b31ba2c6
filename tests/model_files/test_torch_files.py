"""Headers of torch's files: names, shapes and places are read, nothing is run, and what is damaged is told in words."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from chatbridge import ModelLoadError, TensorInfo, check_model_file, read_tensors
from chatbridge.model_files import pickles
from chatbridge.testing import fixtures

from .writers import FOREIGN, entries, number, numbers, tensor, text, write_old_torch, write_torch

SHAPES = {"a.weight": (2, 3), "b.bias": (3,), "scalar": (), "none": (0, 4)}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        read_tensors(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_names_shapes_and_places_are_read(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "m.bin", SHAPES, "float32", extra=text("note") + text("hello"))
    found = read_tensors(path)
    assert (found.format, found.size) == ("torch", path.stat().st_size)
    assert found.tensors == {
        "a.weight": TensorInfo((2, 3), "float32", 24),
        "b.bias": TensorInfo((3,), "float32", 12),
        "scalar": TensorInfo((), "float32", 4),
        "none": TensorInfo((0, 4), "float32", 0),
    }
    assert (found.values, found.foreign) == ({"note": "hello"}, ())
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("m/data/1").header_offset
    assert found.tensors["b.bias"].start == begin + 30 + len("m/data/1")


def test_a_place_is_where_the_numbers_are() -> None:
    path = fixtures() / "llama" / "meta-1shard" / "consolidated.00.pth"
    norm = read_tensors(path).tensors["norm.weight"]
    halves = struct.unpack("<64e", path.read_bytes()[norm.start : norm.start + norm.nbytes])
    assert all(0.5 < abs(half) < 2 for half in halves)


def test_tensors_may_lie_otherwise_than_row_after_row(tmp_path: Path) -> None:
    turned = tensor("0", (6,)).replace(numbers((6,)) + numbers((1,)), numbers((3, 2)) + numbers((1, 3)))
    path = write_torch(tmp_path / "m.bin", {"x": (6,)}, pickle=b"\x80\x02}" + text("x") + turned + b"s.")
    assert read_tensors(path).tensors["x"].strides == (1, 3)


def test_several_tensors_may_lie_in_one_storage(tmp_path: Path) -> None:
    half = tensor("0", (3,), count=6).replace(number(0) + numbers((3,)), number(2) + numbers((3,)))
    body = text("x") + tensor("0", (6,)) + text("y") + half
    found = read_tensors(write_torch(tmp_path / "m.bin", {"x": (6,)}, pickle=b"\x80\x02}(" + body + b"u."))
    assert found.tensors["y"].start == found.tensors["x"].start + 2 * 2


def test_a_group_is_found_by_its_name(tmp_path: Path) -> None:
    found = read_tensors(write_torch(tmp_path / "m.pt", SHAPES, group="module"))
    assert not found.tensors
    assert found.groups["module"].keys() == SHAPES.keys() == found.weights.keys()


def test_files_of_an_old_torch_are_the_same(tmp_path: Path) -> None:
    old = read_tensors(write_old_torch(tmp_path / "old.bin", SHAPES, "float32"))
    new = read_tensors(write_torch(tmp_path / "new.bin", SHAPES, "float32"))
    assert (old.format, old.tensors) == ("torch before 1.6", new.tensors)
    with pytest.raises(ModelLoadError, match="can't be mapped into memory"):
        read_tensors(tmp_path / "old.bin", mapped=True)


def test_an_old_file_that_lists_what_is_no_storage(tmp_path: Path) -> None:
    whole = write_old_torch(tmp_path / "m.bin", {"x": (1,)}).read_bytes()
    for key in (b"]", text("7"), b"N"):
        (tmp_path / "m.bin").write_bytes(whole.replace(b"](" + text("0"), b"](" + key))
        refused(tmp_path / "m.bin", "it lists a storage of no tensor")
    (tmp_path / "m.bin").write_bytes(whole.replace(b"](" + text("0") + b"e.", b"]."))
    refused(tmp_path / "m.bin", "it has no data for the storage '0'")
    (tmp_path / "m.bin").write_bytes(whole[:-10] + struct.pack("<q", 2) + bytes(2))
    refused(tmp_path / "m.bin", "does not have the 1 numbers of its tensors")


def test_half_of_a_file_says_what_the_whole_has(tmp_path: Path) -> None:
    for write in (write_torch, write_old_torch):
        path = write(tmp_path / "m.bin", {"a": (1000, 1000)})
        path.write_bytes(path.read_bytes()[:1_000_000])
        refused(path, "1,000,000 bytes are there, and its tensors alone take 2,000,000", "download it again")
    whole = write_torch(tmp_path / "m.bin", SHAPES)
    whole.write_bytes(whole.read_bytes()[:-1])
    refused(whole, "bytes are there, and its end is missing")
    with pytest.raises(ModelLoadError, match="its end is missing"):
        check_model_file(whole)


def test_what_a_file_would_run_is_named_and_not_run(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "m.bin", SHAPES, extra=text("x") + FOREIGN)
    refused(path, "wants to run code (posix.system)", "safetensors")
    found = read_tensors(path, only_weights=False)
    assert (found.foreign, found.tensors.keys()) == (("posix.system",), SHAPES.keys())
    path.write_bytes(b"\x80\x02" + FOREIGN + b".")
    refused(path, "wants to run code (posix.system)")


def test_a_whole_module_of_an_old_torch_is_code_and_not_damaged(tmp_path: Path) -> None:
    module = b"(" + text("module") + b"cmodels\nNet\n" + text("net.py") + text("class Net: ...") + b"tQ)\x81}b."
    whole = write_old_torch(tmp_path / "m.bin", {}).read_bytes()
    (tmp_path / "m.bin").write_bytes(whole.replace(b"\x80\x02}(u.", b"\x80\x02" + module))
    refused(tmp_path / "m.bin", "wants to run code (models.Net)")


def test_what_torch_takes_for_weights_is_no_code(tmp_path: Path) -> None:
    layout = b"ctorch\nfloat8_e4m3fn\nctorch.cuda\nHalfStorage\nctorch.nn.parameter\nParameter\nc__builtin__\nset\nl"
    path = write_torch(tmp_path / "m.bin", {}, pickle=b"\x80\x02}" + text("x") + b"(" + layout + b"s.")
    assert read_tensors(path).foreign == ()


@pytest.mark.parametrize(
    ("pickle", "words"),
    [
        (b"\x80\x02}", "ends inside its pickle"),
        (b"\x80\x02}.", ""),
        (b"\x80\x02\x95", "has the instruction b'\\x95'"),
        (b"\x80\x04\x95" + bytes(8) + b"}.", "protocol 4, which torch reads only by running"),
        (b"\x80\x02}" + text("x") + tensor("0", (1,)) + b")bs.", "it makes another tensor of one"),
        (b"\x80\x02s.", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02}h\x07.", "it names the value 7"),
        (b"\x80\x02X\xff\xff\xff\x7f", "ends inside its pickle"),
        (b"\x80\x02c" + b"x" * 5000, "it names something in more than 1024 letters"),
        (b"\x80\x02}" + text("n" * 2000) + b"Ns.", "a name has 2,000 characters"),
        (b"\x80\x02}" + text("x") + tensor("0", (4,), count=3) + b"s.", "4 numbers of the storage '0', which has 3"),
        (b"\x80\x02}" + text("x") + tensor("7", (1,)) + b"s.", "it has no data for the storage '7'"),
        (b"\x80\x02}" + text("x") + tensor("0", (9,)) + b"s.", "the storage '0' has 2 of 18 bytes"),
        (b"\x80\x02}" + text("x") + tensor("0", (1,)).replace(b"Half", b"Odd!") + b"s.", "of a kind that is not known"),
        (b"\x80\x02}" + text("x") + tensor("0", (1,) * 17) + b"s.", "a tensor has 17 sizes"),
        (b"\x80\x02}" + text("x") + tensor("0", (1,)).replace(numbers((1,)), numbers((-1,))) + b"s.", "no tensor has"),
        (b"\x80\x02" + b"}" * 200_000, "wait for their container"),
        (b"\x80\x02" + b"(" * 200_000, "wait for their container"),
        (b"\x80\x02" + b"N0" * 10, "has the instruction b'0'"),
    ],
)  # fmt: skip
def test_pickles_that_are_damaged_or_hostile(tmp_path: Path, pickle: bytes, words: str) -> None:
    path = write_torch(tmp_path / "m.bin", {"x": (1,)}, pickle=pickle)
    if words:
        refused(path, words)
    else:
        assert not read_tensors(path).tensors


def test_a_pickle_that_never_ends_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_STEPS", 20_000)
    path = write_torch(tmp_path / "m.bin", {}, pickle=b"\x80\x02]" + b"Na" * 10_001)
    refused(path, "more than 20,000 instructions")


def test_a_list_that_is_named_again_and_again_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_STEPS", 20_000)
    pairs = b"(" + b"".join(number(at) + b"N\x86" for at in range(500)) + b"lq\x01"
    again = b"ccollections\nOrderedDict\nq\x02" + b"h\x02h\x01\x85R" * 500
    refused(write_torch(tmp_path / "m.bin", {}, pickle=b"\x80\x02" + pairs + again + b"."), "items in its dictionaries")


def test_values_inside_of_each_other_a_hundred_times_take_no_time(tmp_path: Path) -> None:
    nested = b")q\0" + b"h\0h\0\x86q\0" * 100
    for end in (b"Ns.", b"N\x86.", b"Q."):
        path = write_torch(tmp_path / "m.bin", {}, pickle=b"\x80\x02}" + nested + end)
        if end == b"Q.":
            refused(path, "it names a storage in a way that torch does not")
        else:
            assert not read_tensors(path).tensors


def test_archives_that_are_something_else(tmp_path: Path) -> None:
    for name, words in (("w.npy", "an archive of NumPy's"), ("m/constants.pkl", "TorchScript"), ("x", "no data.pkl")):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr(name, b"x")
        refused(tmp_path / "a.pth", words)
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}." + bytes(5000))
    refused(tmp_path / "a.pth", "compressed or encrypted", "another program has packed the file anew")


def packed(path: Path, *names: str) -> bytes:
    """An archive with a tensor in each pickle that is named so: "a" in the first, "b" in the second."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, shapes in zip(names, ({"a": (2,)}, {"b": (3,)}), strict=False):
            archive.writestr(name, b"\x80\x02" + entries(shapes, "float16") + b".")
            archive.writestr(f"{name.rpartition('/')[0]}/data/0", bytes(8))
    return path.read_bytes()


def test_of_two_pickles_that_is_read_which_torch_reads(tmp_path: Path) -> None:
    packed(tmp_path / "a.bin", "m/x/data.pkl", "m/data.pkl")
    assert read_tensors(tmp_path / "a.bin").tensors.keys() == {"b"}
    with zipfile.ZipFile(tmp_path / "b.bin", "w") as archive:
        for name in ("m/data.pkl", "m/DATA.PKL"):
            archive.writestr(name, b"\x80\x02}.")
    refused(tmp_path / "b.bin", "2 entries with 1 names")


@pytest.mark.parametrize("wide", [False, True])
def test_an_archive_behind_another_is_refused(tmp_path: Path, wide: bool) -> None:
    first, second = packed(tmp_path / "a.bin", "m/data.pkl"), packed(tmp_path / "b.bin", "n/data.pkl")
    if wide:
        first, second = _widened(first), _widened(second)
        (tmp_path / "a.bin").write_bytes(first)
        assert read_tensors(tmp_path / "a.bin").tensors
    (tmp_path / "a.bin").write_bytes(first + second)
    refused(tmp_path / "a.bin", "its end is not where it says" if wide else "its table of contents should end at byte")


def _widened(archive: bytes) -> bytes:
    """The archive with its end once more in wide numbers, as torch writes it."""
    at = archive.rindex(b"PK\5\6")
    entries_, length, start = struct.unpack("<HII", archive[at + 10 : at + 20])
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries_, entries_, length, start)
    return archive[:at] + wide + struct.pack("<4sIQI", b"PK\6\7", 0, at, 1) + archive[at:]


def test_a_table_of_contents_that_claims_too_much_is_not_read(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "m.bin", SHAPES)
    whole = path.read_bytes()
    at = whole.rindex(b"PK\5\6")
    path.write_bytes(whole[: at + 12] + struct.pack("<I", 1 << 31) + whole[at + 16 :])
    refused(path, "its table of contents has 2,147,483,648 bytes")


def test_a_pickle_of_python_is_no_file_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"\x80\x02" + entries({}, "float16") + b".")
    refused(path, "a pickle of Python's")
