"""Files of weights that are whole or not there, read back by the readers of the core and by others' where installed."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import Weights, as_float32, from_float32
from chatbridge.model_files.gguf import GgufHeader
from chatbridge.model_files.reading import read_tensors
from chatbridge.model_tools.gguf_file import GgufFile
from chatbridge.model_tools.output import (
    Container,
    NewTensor,
    alone_with,
    check_output,
    check_space,
    output_file,
    output_folder,
    write_tensors,
)
from chatbridge.model_tools.report import Report, hashed
from chatbridge.model_tools.safetensors_file import SafetensorsFile
from chatbridge.model_tools.torch_file import TorchFile

Make = Callable[[Sequence[NewTensor]], Container]
CONTAINERS: dict[str, Make] = {
    "model.safetensors": SafetensorsFile,
    "model.pth": TorchFile,
}


def tensor(name: str, array: np.ndarray, dtype: str = "float32") -> NewTensor:
    return NewTensor(
        name, array.shape, dtype, array.nbytes, lambda: [array[i : i + 1].tobytes() for i in range(len(array))]
    )


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def fill(path: Path, key: str, error: BaseException) -> None:
    with output_folder(path, key) as folder:
        (folder / "part").write_text("whole")
        raise error


ARRAYS = {
    "one": np.arange(12, dtype=np.float32).reshape(3, 4),
    "two": np.arange(5, dtype=np.float32),
    "three.weight": np.arange(30, dtype=np.float32).reshape(5, 3, 2),
}
TENSORS = [tensor(name, array) for name, array in ARRAYS.items()]


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    write_tensors(tmp_path / name, CONTAINERS[name](TENSORS), TENSORS, "key")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with Weights([read_tensors(tmp_path / name)]) as weights:
        assert list(weights) == list(ARRAYS)
        for known, array in ARRAYS.items():
            np.testing.assert_array_equal(weights[known].read(), array)
            np.testing.assert_array_equal(weights[known].read(1, 3), array[1:3])
            parts = [weights[known].floats(*span) for span in weights[known].slices(20)]
            np.testing.assert_array_equal(np.concatenate(parts), array)


def test_torch_reads_the_same(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pth"
    numbers = [NewTensor("half", (2,), "bfloat16", 4, lambda: [b"\x80\x3f\x00\x40"]), *TENSORS]
    write_tensors(path, TorchFile(numbers, group="module", values={"iteration": 70000, "name": "名"}), numbers, "key")
    for mapped in (False, True):
        found = torch.load(path, weights_only=True, mmap=mapped)
        assert (found["iteration"], found["name"]) == (70000, "名")
        assert found["module"]["half"].tolist() == [1.0, 2.0]
        for known, array in ARRAYS.items():
            np.testing.assert_array_equal(found["module"][known].numpy(), array)


def test_the_archive_is_sound_for_other_programs(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.pth", TorchFile(TENSORS), TENSORS, "key")
    with zipfile.ZipFile(tmp_path / "model.pth") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/data/1") == ARRAYS["two"].tobytes()
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_numbers_of_an_archive_begin_where_they_can_be_mapped(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.pth", TorchFile(TENSORS), TENSORS, "key")
    assert all(info.start % 64 == 0 for info in read_tensors(tmp_path / "model.pth").tensors.values())


def test_values_stand_beside_the_tensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.pth", TorchFile(TENSORS, values={"_strategy": "cpu fp32", "n": None}), TENSORS, "key")
    found = read_tensors(tmp_path / "a.pth")
    assert found.values == {"_strategy": "cpu fp32", "n": None}
    assert list(found.tensors) == list(ARRAYS)


def test_a_matrix_may_be_turned_over_in_a_torch_file_alone(tmp_path: Path) -> None:
    """Its numbers stay in the order in which they lay before."""
    turned = [NewTensor("w", (4, 3), "float32", 48, TENSORS[0].make, strides=(1, 4))]
    write_tensors(tmp_path / "a.pth", TorchFile(turned), turned, "key")
    with Weights([read_tensors(tmp_path / "a.pth")]) as weights:
        np.testing.assert_array_equal(weights["w"].read(), ARRAYS["one"].T)
    for other in (SafetensorsFile, lambda tensors: GgufFile("llama", lambda writer: None, tensors)):
        with pytest.raises(ValueError, match="no strides, and w has them"):
            other(turned)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_may_hold_no_tensor(tmp_path: Path, name: str) -> None:
    write_tensors(tmp_path / name, CONTAINERS[name]([]), [], "key")
    assert not read_tensors(tmp_path / name).tensors


def test_a_gguf_file_is_what_the_reader_of_the_core_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tensors = [NewTensor(name, t.shape, "f32", t.nbytes, t.make) for name, t in zip(ARRAYS, TENSORS, strict=True)]
    write_tensors(path, GgufFile("llama", lambda writer: writer.add_block_count(7), tensors), tensors, "key")
    header = GgufHeader(path, reader="this test")
    assert header.metadata["llama.block_count"] == 7
    data = path.read_bytes()
    for found, array in zip(header.tensors.values(), ARRAYS.values(), strict=True):
        assert data[found.start : found.start + array.nbytes] == array.tobytes()
    assert len(data) % 32 == 0


class Cut(BaseException):
    """What ends a program, and not only its work."""


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("after", range(len(TENSORS)))
def test_a_run_that_was_ended_is_gone_on_with(tmp_path: Path, name: str, after: int) -> None:
    made: list[str] = []

    def counted(number: int, cut: bool) -> NewTensor:
        whole = TENSORS[number]

        def make() -> list[bytes]:
            made.append(whole.name)
            if cut:
                raise Cut
            return list(whole.make())  # type: ignore[arg-type]

        return NewTensor(whole.name, whole.shape, whole.dtype, whole.nbytes, make)

    write_tensors(tmp_path / f"whole-{name}", CONTAINERS[name](TENSORS), TENSORS, "key")
    cut = [counted(number, number == after) for number in range(len(TENSORS))]
    with pytest.raises(Cut):
        write_tensors(tmp_path / name, CONTAINERS[name](cut), cut, "key")
    assert not (tmp_path / name).exists()
    made.clear()
    rest = [counted(number, False) for number in range(len(TENSORS))]
    write_tensors(tmp_path / name, CONTAINERS[name](rest), rest, "key")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


def test_tensors_of_a_killed_run_are_not_made_again(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from chatbridge.model_tools import output
from chatbridge.model_tools.safetensors_file import SafetensorsFile
output.SYNC = 1

def make(number, fatal):
    print(number, flush=True)
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return [bytes([number]) * 8]

tensors = [output.NewTensor(f"t{n}", (2,), "float32", 8, lambda n=n: make(n, n == int(sys.argv[2]))) for n in range(5)]
output.write_tensors(Path(sys.argv[1]), SafetensorsFile(tensors), tensors, "key")
"""
    path = tmp_path / "model.safetensors"
    runs = [
        subprocess.run([sys.executable, "-c", script, path, fatal], capture_output=True, text=True, check=False)
        for fatal in ("3", "9")
    ]
    assert runs[0].returncode == -signal.SIGKILL
    assert (runs[0].stdout.split(), runs[1].stdout.split()) == (["0", "1", "2", "3"], ["3", "4"])
    with Weights([read_tensors(path)]) as weights:
        assert [bytes(weights[f"t{n}"].read().tobytes()) for n in range(5)] == [bytes([n]) * 8 for n in range(5)]
    assert names_in(tmp_path) == [path.name]


def test_what_a_run_with_another_source_has_left_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"

    def fail() -> list[bytes]:
        raise Cut

    other = [tensor("one", ARRAYS["one"] + 1), NewTensor("two", (5,), "float32", 20, fail), TENSORS[2]]
    with pytest.raises(Cut):
        write_tensors(path, SafetensorsFile(other), other, "an older source")
    write_tensors(path, SafetensorsFile(TENSORS), TENSORS, "key")
    with Weights([read_tensors(path)]) as weights:
        np.testing.assert_array_equal(weights["one"].read(), ARRAYS["one"])


def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> list[bytes]:
        raise ModelLoadError("the source is broken")

    broken = [*TENSORS, NewTensor("last", (1,), "float32", 4, fail)]
    with pytest.raises(ModelLoadError, match="the source is broken"):
        write_tensors(tmp_path / "model.pth", TorchFile(broken), broken, "key")
    with pytest.raises(ModelLoadError, match="broken"):
        fill(tmp_path / "folder", "key", ModelLoadError("broken"))
    assert not list(tmp_path.iterdir())


def test_a_folder_gets_its_name_at_the_end_and_keeps_what_an_ended_run_made(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        fill(path, "key", KeyboardInterrupt())
    assert not path.exists()
    with output_folder(path, "key") as folder:
        assert (folder / "part").read_text() == "whole"
        assert not path.exists()
    assert names_in(path) == ["part"]
    assert names_in(tmp_path) == ["model"]
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "other", "key", KeyboardInterrupt())
    with output_folder(tmp_path / "other", "another key") as folder:
        assert not (folder / "part").exists()


def test_two_programs_do_not_make_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"

    def meanwhile() -> list[bytes]:
        with pytest.raises(ModelLoadError, match="another program is making it now"):
            write_tensors(path, SafetensorsFile(TENSORS), TENSORS, "key")
        return [bytes(4)]

    slow = [NewTensor("one", (1,), "float32", 4, meanwhile)]
    write_tensors(path, SafetensorsFile(slow), slow, "key")
    assert read_tensors(path).tensors.keys() == {"one"}
    with output_folder(tmp_path / "folder", "key"):  # noqa: SIM117
        with pytest.raises(ModelLoadError, match="another program"), output_folder(tmp_path / "folder", "key"):
            pass
    assert (tmp_path / "folder").is_dir()


def test_a_folder_that_somebody_is_at_work_on_is_left_alone_whatever_it_is_to_become(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with output_folder(path, "key") as folder:
        (folder / "part").write_text("half")
        with pytest.raises(ModelLoadError, match="another program"), output_folder(path, "another key"):
            raise AssertionError
        assert (folder / "part").read_text() == "half"
    assert names_in(path) == ["part"]


def test_a_folder_that_no_killed_run_has_left_is_left_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "model", tmp_path / "model.partial"
    other.mkdir()
    (other / "mine").write_text("mine")
    with pytest.raises(ModelLoadError, match=r"model\.partial: it is in the way"), output_folder(path, "key"):
        raise AssertionError
    assert (other / "mine").read_text() == "mine"


def test_what_is_left_of_a_folder_is_no_file_and_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        fill(path, "key", KeyboardInterrupt())
    for make in (
        lambda: write_tensors(path, SafetensorsFile(TENSORS), TENSORS, "key"),
        lambda: output_file(path).__enter__(),
        lambda: alone_with(path).__enter__(),
    ):
        with pytest.raises(ModelLoadError, match=r"model\.partial: a run that makes something else was killed here"):
            make()
    assert sorted(names_in(tmp_path / "model.partial")) == [".key", "part"]
    shutil.rmtree(tmp_path / "model.partial")
    (tmp_path / "model.partial").write_text("half a file")
    with pytest.raises(ModelLoadError, match="a run that makes something else"), output_folder(path, "key"):
        raise AssertionError
    assert (tmp_path / "model.partial").read_text() == "half a file"


def test_where_an_output_can_not_be_made_is_told_before(tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    with pytest.raises(ModelLoadError, match="there already"):
        check_output(tmp_path)
    with pytest.raises(ModelLoadError, match="there is no such folder to put the output into; make it first"):
        check_output(tmp_path / "none" / "new")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match="there already"):
        check_output(tmp_path / "link")


def test_sources_that_change_while_they_are_read_make_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"old")
    report = Report("", hashed([source]))
    report.check_sources()
    changed = [NewTensor("one", (1,), "float32", 4, lambda: [bytes(4)] if source.write_bytes(b"newer") else [])]
    told = "source: the file has changed while it was read"
    with pytest.raises(ModelLoadError, match=told):
        write_tensors(tmp_path / "m", SafetensorsFile(changed), changed, "", last=report.check_sources)
    with pytest.raises(ModelLoadError, match=told), output_folder(tmp_path / "folder", "key") as folder:
        report.write(folder)
    assert names_in(tmp_path) == ["source"]
    source.unlink()
    report.check_sources()  # it was read to its end


def test_a_disk_that_is_full_is_called_that(tmp_path: Path) -> None:
    def fail() -> list[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")

    tensors = [*TENSORS, NewTensor("last", (1,), "float32", 4, fail)]
    with pytest.raises(ModelLoadError, match=r"model\.safetensors: .* the disk is full; free some space"):
        write_tensors(tmp_path / "model.safetensors", SafetensorsFile(tensors), tensors, "key")
    assert not names_in(tmp_path)


def test_room_on_the_disk_is_asked_for_first(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "model.gguf", free // 2)
    with pytest.raises(ModelLoadError, match=r"model\.gguf: it takes .* bytes, and .* are free"):
        check_space(tmp_path / "new" / "model.gguf", free * 2)


def test_what_lies_column_after_column_is_read_row_after_row(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"t": torch.arange(12.0).reshape(3, 4).t()}, tmp_path / "t.pth")
    with Weights.of_files([tmp_path / "t.pth"]) as weights:
        np.testing.assert_array_equal(weights["t"].read(1, 3), np.arange(12.0).reshape(3, 4).T[1:3])


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bfloat16_is_rounded_to_the_nearest(values: list[float]) -> None:
    array = np.array(values, np.float32)
    stored = from_float32(array, "bfloat16")
    assert stored.dtype == np.uint16
    back = as_float32(stored, "bfloat16")
    again = as_float32(from_float32(back, "bfloat16"), "bfloat16")
    np.testing.assert_array_equal(back, again)
    for one, other in zip(array, back, strict=True):
        if np.isfinite(one) and np.isfinite(other):
            lower, upper = as_float32((np.array([one]).view(np.uint32) >> 16).astype(np.uint16), "bfloat16"), None
            upper = as_float32(((np.array([one]).view(np.uint32) >> 16) + 1).astype(np.uint16), "bfloat16")
            near = min(abs(float(lower[0]) - float(one)), abs(float(upper[0]) - float(one)))
            assert abs(float(other) - float(one)) <= near or not np.isfinite(upper[0])


def test_what_is_no_float_is_refused_by_its_name(tmp_path: Path) -> None:
    numbers = [NewTensor("ids", (2,), "int8", 2, lambda: [b"ab"])]
    write_tensors(tmp_path / "a.safetensors", SafetensorsFile(numbers), numbers, "key")
    with Weights.of_files([tmp_path / "a.safetensors"]) as weights, pytest.raises(ModelLoadError, match=r"ids .* int8"):
        weights["ids"].floats()


# --- files that other programs write ---------------------------------------------------------------------------------


def test_a_file_of_another_program_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made.bin"
    (tmp_path / "made.bin.partial").write_text("what a killed run has left, and more of it than is written now")
    with output_file(path) as partial:
        assert (partial.name, partial.stat().st_size, path.exists()) == ("made.bin.partial", 0, False)
        partial.write_text("whole")
    assert names_in(tmp_path) == ["made.bin"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("error", [ModelLoadError("no"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_file_of_another_program_that_fails_or_is_stopped_leaves_nothing(
    tmp_path: Path, error: BaseException
) -> None:
    def make() -> None:
        with output_file(tmp_path / "made.bin") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        make()
    assert names_in(tmp_path) == []


def test_two_programs_never_write_one_file(tmp_path: Path) -> None:
    with output_file(tmp_path / "made.bin") as partial:
        partial.write_text("ours")
        with (
            pytest.raises(ModelLoadError, match=r"made\.bin: another program is making it now"),
            output_file(tmp_path / "made.bin"),
        ):
            raise AssertionError
        assert partial.read_text() == "ours"
    assert names_in(tmp_path) == ["made.bin"]


def test_a_file_in_a_folder_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="it can't be written: No such file"), output_file(tmp_path / "a" / "b"):
        raise AssertionError


def test_each_entry_of_an_archive_needs_the_version_that_knows_wide_numbers(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m.pth", TorchFile(TENSORS), TENSORS, "key")
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        for entry in archive.infolist():
            assert (entry.create_version, entry.extract_version, entry.create_system) == (45, 45, 0)
            assert (entry.flag_bits, entry.compress_type, entry.date_time[:3]) == (0, 0, (1980, 1, 1))
            assert (entry.internal_attr, entry.external_attr, entry.volume) == (0, 0, 0)
