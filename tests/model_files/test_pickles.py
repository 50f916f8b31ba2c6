"""Instructions of pickles one by one: what torch writes is read as it means it, and up to each bound but no further."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from chatbridge import ModelLoadError, TensorFile, TensorInfo, read_tensors
from chatbridge.model_files import pickles
from chatbridge.model_files.pickles import PickledTensor, Storage

from .writers import entries, number, numbers, tensor, text, write_torch

HALVES = b"(" + text("storage") + b"ctorch\nHalfStorage\n" + text("0") + text("cpu")
STORED = HALVES + number(4) + b"tQ"
"""The storage "0" of four numbers in float16."""


def long(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def one(value: bytes) -> bytes:
    """A dictionary with `value` as "x"."""
    return b"}" + text("x") + value + b"s"


def rebuilt(*arguments: bytes, by: str = "torch._utils\n_rebuild_tensor_v2") -> bytes:
    return b"c" + by.encode() + b"\n(" + b"".join(arguments) + b"tR"


def read(folder: Path, pickle: bytes) -> TensorFile:
    """What is read of the instructions; the storage "0" has eight bytes."""
    path = write_torch(folder / "m.bin", {"x": (4,)}, pickle=b"\x80\x02" + pickle + b".")
    return read_tensors(path, only_weights=False)


def refused(folder: Path, pickle: bytes, words: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        read(folder, pickle)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "strides", "in_rows"),
    [
        ((2, 3), (3, 1), True),
        ((2, 3), (1, 2), False),
        ((2, 3), (4, 1), False),
        ((1, 3), (99, 1), True),
        ((3, 1), (1, 99), True),
        ((3,), (2,), False),
        ((2, 2), (2, 2), False),
        ((), (), True),
    ],
)
def test_numbers_lie_in_rows_where_each_axis_steps_over_those_behind(
    shape: tuple[int, ...], strides: tuple[int, ...], in_rows: bool
) -> None:
    assert PickledTensor(Storage("0", "float16", 99), 0, shape, strides, "float16").in_rows is in_rows


@pytest.mark.parametrize("code", [b"N", b"("])
def test_as_many_values_wait_as_may_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    monkeypatch.setattr(pickles, "MAX_STACK", 1000)
    refused(tmp_path, code * 1000 + b"0", "has the instruction b'0'")
    refused(tmp_path, code * 1001 + b"0", "more than 1,000 values wait for their container")


def test_an_instruction_of_protocol_3_is_no_torchs_either(tmp_path: Path) -> None:
    refused(tmp_path, b"\x80\x03B", "has the instruction b'B', which torch.save does not write")


def test_a_name_is_read_up_to_its_longest(tmp_path: Path) -> None:
    longest = b"x" * 1023
    assert read(tmp_path, b"}c" + longest + b"\n" + longest + b"\n").foreign == (f"{'x' * 1023}.{'x' * 1023}",)
    refused(tmp_path, b"}cx" + longest + b"\nx\n", "it names something in more than 1024 letters")
    assert read(tmp_path, b"}" + text("n" * 1024) + tensor("0", (4,)) + b"s").tensors.keys() == {"n" * 1024}
    refused(tmp_path, b"}" + text("n" * 1025) + b"Ns", "a name has 1,025 characters, and 1,024 are the most")


def test_foreign_names_are_remembered_up_to_a_hundred(tmp_path: Path) -> None:
    names = b"".join(f"cmy\nname{at}\n".encode() for at in range(101))
    assert len(read(tmp_path, b"}(" + b"N" + names + b"u").foreign) == 100


@pytest.mark.parametrize(
    ("pickle", "words"),
    [
        (b"N\x86", "a value is missing"),
        (b"Nb", "index out of range"),
        (b"}(" + text("x") + b"u", "zip() argument"),
        (one(HALVES + number(-1) + b"tQ"), "a storage is of a kind that is not known: torch.HalfStorage"),
        (one(HALVES + b"\x88tQ"), "a storage is of a kind that is not known: torch.HalfStorage"),
        (one(HALVES + long(1 << 62) + b"tQ"), "a storage is of a kind that is not known: torch.HalfStorage"),
        (one(HALVES + long((1 << 62) - 1) + b"tQ"), "the storage '0' has 8 of"),
        (one(STORED.replace(text("0"), number(0))), "a storage is of a kind that is not known: torch.HalfStorage"),
        (one(b"(" + text("storage") + b"N" + text("0") + text("cpu") + number(4) + b"tQ"), "none that has a name"),
        (one(STORED.replace(text("storage"), text("other"))), "it names a storage in a way that torch does not"),
        (b"(" + STORED + HALVES + number(3) + b"tQt", "the storage '0' is said to be two things"),
        (b"(" + STORED + STORED.replace(b"Half", b"Short") + b"t", "the storage '0' is said to be two things"),
        (one(rebuilt(b"N", number(0), numbers([4]), numbers([1]))), "a tensor has no storage, or no shape"),
        (one(rebuilt(STORED, number(0), number(4), numbers([1]))), "a tensor has no storage, or no shape"),
        (one(rebuilt(STORED, number(0), numbers([4]), number(1))), "a tensor has no storage, or no shape"),
        (one(rebuilt(STORED, number(0), numbers([4]), numbers([1, 1]))), "a tensor has 1 sizes and 2 strides"),
        (one(rebuilt(STORED, number(-1), numbers([4]), numbers([1]))), "a tensor has sizes that no tensor has"),
        (one(rebuilt(STORED, number(0), numbers([4]), numbers([-1]))), "a tensor has sizes that no tensor has"),
        (one(rebuilt(STORED, number(1), numbers([4]), numbers([1]))), "needs 5 numbers of the storage '0'"),
        (
            one(rebuilt(STORED, number(0), b"(" + long(1 << 31) * 2 + b"t", numbers([0, 0]))),
            "a tensor has sizes that no tensor has",
        ),
    ],
)  # fmt: skip
def test_what_no_torch_writes_is_told(tmp_path: Path, pickle: bytes, words: str) -> None:
    refused(tmp_path, pickle, words)


def test_a_tensor_may_have_sixteen_sizes_and_many_more_numbers_than_its_storage(tmp_path: Path) -> None:
    assert read(tmp_path, one(tensor("0", (1,) * 16))).tensors["x"].shape == (1,) * 16
    shape = b"(" + long(1 << 31) + long((1 << 31) - 1) + b"t"
    expanded = read(tmp_path, one(rebuilt(STORED, number(0), shape, numbers([0, 0])))).tensors["x"]
    assert (expanded.shape, expanded.strides) == ((1 << 31, (1 << 31) - 1), (0, 0))


@pytest.mark.parametrize(
    ("dtype", "found"),
    [(b"ctorch\nint16\n", "int16"), (b"N", "float16"), (b"ctorch\nint99\n", "float16"), (b"cmy\nint16\n", "float16")],
)
def test_the_type_of_a_third_form_goes_before_its_storages(tmp_path: Path, dtype: bytes, found: str) -> None:
    body = rebuilt(
        STORED, number(0), numbers([4]), numbers([1]), b"\x89N", dtype, by="torch._utils\n_rebuild_tensor_v3"
    )
    assert read(tmp_path, one(body)).tensors == {"x": TensorInfo((4,), found, 8)}


def test_parameters_and_other_classes_of_tensors_are_the_tensor_in_them(tmp_path: Path) -> None:
    made = tensor("0", (4,))
    function, arguments = made[: made.index(b"(")], made[made.index(b"(") : -1]
    kind = b"ctorch.nn.parameter\nParameter\n"
    by = "torch._tensor\n_rebuild_from_type_v2"
    for body in (
        rebuilt(made, b"\x88", b"}", by="torch._utils\n_rebuild_parameter"),
        rebuilt(function, kind, arguments, b"}", by=by),
        made.replace(numbers([4]), b"ctorch\nSize\n" + b"(" + numbers([4]) + b"tR"),
    ):
        assert read(tmp_path, one(body)).tensors == {"x": TensorInfo((4,), "float16", 8)}
    for body in (
        rebuilt(b"N", kind, arguments, b"}", by=by),
        rebuilt(kind, kind, arguments, b"}", by=by),
        rebuilt(function, kind, b"N", b"}", by=by),
        rebuilt(b"c" + by.encode() + b"\n", kind, b"(" + function + kind + arguments + b"}t", b"}", by=by),
    ):
        assert not read(tmp_path, one(body)).tensors


def test_the_pairs_of_a_dictionary_by_python_2_are_its_items(tmp_path: Path) -> None:
    pairs = b"(" + text("x") + tensor("0", (4,)) + b"\x86" + b"N" + b"NNN\x87" + b"l"
    made = b"ccollections\nOrderedDict\n(" + pairs + b"tR"
    assert read(tmp_path, made).tensors.keys() == {"x"}
    assert read(tmp_path, b"}(" + text("group") + made + b"u").groups["group"].keys() == {"x"}
    assert read(tmp_path, b"ccollections\nOrderedDict\n((NNttR").values == {}


def test_items_are_copied_up_to_as_many_as_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_STEPS", 2000)
    pairs = b"ccollections\nOrderedDict\nq\x02(" + b"NN\x86" * 500 + b"lq\x01"
    again = b"h\x02h\x01\x85R"
    assert not read(tmp_path, pairs + again * 4).tensors
    refused(tmp_path, pairs + again * 5, "more than 2,000 items in its dictionaries")


def test_items_of_what_is_no_dictionary_or_list_are_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, b"]NNs").values == {}
    assert read(tmp_path, b"})Ns").values == {}
    assert read(tmp_path, b"}Na").values == {}


def test_a_tensor_by_itself_has_no_name(tmp_path: Path) -> None:
    assert read(tmp_path, tensor("0", (4,))).tensors == {"": TensorInfo((4,), "float16", 8)}


def test_a_group_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    group = entries({"x": (4,)}, "float16")
    found = read(tmp_path, b"}(" + text("a") + group + b"q\1" + text("b") + b"h\1" + text("c") + b"}u")
    assert found.groups.keys() == {"a"}


def test_numbers_of_every_form_are_read(tmp_path: Path) -> None:
    forms = (
        b"K\xff",
        b"M\xff\xff",
        number(-5),
        b"G" + struct.pack(">d", 0.5),
        long(-(1 << 70)),
        b"\x88",
        b"\x89",
        b"N",
    )
    body = b"".join(text(str(at)) + form for at, form in enumerate(forms))
    wanted = [255, 65535, -5, 0.5, -(1 << 70), True, False, None]
    assert list(read(tmp_path, b"}(" + body + b"u").values.values()) == wanted
