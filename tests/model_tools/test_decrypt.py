"""Decrypting what BELLE publishes: the recorded files, other keys and damaged files, and runs that were killed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbridge import ModelLoadError
from chatbridge.cli import main
from chatbridge.model_tools.decrypting.decrypt import CHUNK, decrypt
from chatbridge.model_tools.decrypting.llama_keys import ORIGINALS, Original
from chatbridge.model_tools.progress import Silent
from chatbridge.testing import fixtures
from tests.model_files.writers import meta_llama, write_torch

XOR = fixtures() / "belle-bloom" / "xor"
KEY = XOR / "consolidated.00.pth"
WORDS = ORIGINALS[0].sha256[:12]
MIB = 1 << 20


def encrypted(folder: Path, name: str, plain: bytes, key: bytes) -> Path:
    """A file as BELLE's tool makes one: it takes the key in chunks, a short last one over and over in its own."""
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(plain)
    parts = [key[at : at + CHUNK] for at in range(0, len(key), CHUNK)]
    out = bytearray()
    for number, at in enumerate(range(0, len(plain), CHUNK)):
        data, part = plain[at : at + CHUNK], parts[number % len(parts)]
        mask = (part * (len(data) // len(part) + 1))[: len(data)]
        out += (int.from_bytes(data) ^ int.from_bytes(mask)).to_bytes(len(data))
    path = folder / f"{name}.{digest.hexdigest()}.enc"
    path.write_bytes(digest.digest() + bytes(out))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """A file larger than its key, the key, and what is in it."""
    folder = tmp_path_factory.mktemp("large")
    random = Random(1)
    key = folder / "consolidated.00.pth"
    key.write_bytes(random.randbytes(13 * MIB))
    plain = b"PK\3\4" + random.randbytes(34 * MIB) + b"PK\5\6" + bytes(18)
    return encrypted(folder, "pytorch_model.bin", plain, key.read_bytes()), key, plain


@pytest.mark.parametrize("key", [KEY, XOR], ids=["file", "folder"])
def test_a_folder_becomes_what_was_recorded(key: Path, tmp_path: Path) -> None:
    decrypt(XOR / "enc", key, tmp_path / "out")
    made = files_in(tmp_path / "out")
    told = json.loads(made.pop("chatbridge-report.json"))
    assert made == files_in(XOR / "plain")
    assert {source["path"].rsplit("/")[-1].rsplit("\\")[-1] for source in told["sources"]} == {
        KEY.name, *(file.name for file in (XOR / "enc").iterdir())
    }  # fmt: skip
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


def test_a_file_becomes_a_file_with_a_report_beside_it(tmp_path: Path) -> None:
    (source,) = (XOR / "enc").glob("blob.bin.*")
    decrypt(source, KEY, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == (XOR / "plain" / "blob.bin").read_bytes()
    told = json.loads((tmp_path / "blob.report.json").read_text(encoding="utf-8"))
    assert [source["sha256"] for source in told["sources"]] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (KEY, source)
    ]


def test_what_lies_beside_the_files_comes_along(tmp_path: Path) -> None:
    shutil.copytree(XOR / "enc", tmp_path / "enc")
    for name in ("tokenizer.model", "LICENSE", ".gitattributes", "video.mp4", "config.json"):
        (tmp_path / "enc" / name).write_text(name)
    decrypt(tmp_path / "enc", KEY, tmp_path / "out")
    made = files_in(tmp_path / "out")
    assert set(made) == {"blob.bin", "config.json", "tokenizer.model", "LICENSE", "chatbridge-report.json"}
    assert made["config.json"] == (XOR / "plain" / "config.json").read_bytes()


def test_a_key_that_ends_first_begins_anew_with_the_next_chunk(large: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    source, key, plain = large
    tracemalloc.start()
    decrypt(source, key, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out").read_bytes() == plain
    assert peak < 6 * CHUNK


KILLED = """
import os, sys
from pathlib import Path
from chatbridge.model_tools.decrypting.decrypt import decrypt
class Killer:
    doing, seen = "", 0
    def begin(self, doing, total): self.doing = doing
    def advance(self, nbytes):
        self.seen += self.doing == "decrypting"
        if self.seen == int(sys.argv[4]): os._exit(9)
decrypt(*map(Path, sys.argv[1:4]), Killer())
"""


def killed_after(source: Path, key: Path, output: Path, chunks: int) -> int:
    """How a run ended that dies after so many chunks, as by kill -9."""
    return subprocess.run([sys.executable, "-c", KILLED, source, key, output, str(chunks)], check=False).returncode


def test_a_run_that_was_killed_is_gone_on_with(large: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    source, key, plain = large
    assert killed_after(source, key, tmp_path / "out", 3) == 9
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.journal", "out.partial"]
    decrypt(source, key, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == plain
    assert not (tmp_path / "out.journal").exists()
    told = json.loads((tmp_path / "out.report.json").read_text(encoding="utf-8"))
    assert told["steps"][-1]["resumed_at"] >= 2 * CHUNK
    assert told["sources"][-1]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.parametrize("left", [bytes(20 * MIB), bytes(40 * MIB), b"", b"x"], ids=["zeros", "longer", "empty", "x"])
def test_what_a_killed_run_left_is_believed_by_its_hash_alone(
    large: tuple[Path, Path, bytes], left: bytes, tmp_path: Path
) -> None:
    source, key, plain = large
    (tmp_path / "out.partial").write_bytes(left)
    decrypt(source, key, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == plain


def test_what_a_killed_run_left_of_another_model_is_deleted(tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "blob.bin").write_bytes(bytes(2577))
    (left / "other.bin").write_bytes(b"other")
    (left / ".key").write_text("of another model")
    decrypt(XOR / "enc", KEY, tmp_path / "out")
    made = files_in(tmp_path / "out")
    del made["chatbridge-report.json"]
    assert made == files_in(XOR / "plain")


def test_two_programs_do_not_decrypt_into_one_file(large: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    source, key, plain = large

    class Meanwhile(Silent):
        def begin(self, doing: str, total: int) -> None:
            self.doing = doing

        def advance(self, nbytes: int) -> None:
            if self.doing == "decrypting":
                with pytest.raises(ModelLoadError, match="another program is making it now"):
                    decrypt(source, key, tmp_path / "out")

    decrypt(source, key, tmp_path / "out", Meanwhile())
    assert (tmp_path / "out").read_bytes() == plain


def refused(source: Path, key: Path, output: Path, originals: Sequence[Original] = ORIGINALS) -> str:
    """What is said, when nothing may be made or left."""
    before = {*output.parent.iterdir()}
    with pytest.raises(ModelLoadError) as error:
        decrypt(source, key, output, originals=originals)
    assert {*output.parent.iterdir()} == before
    return str(error.value)


def test_another_key_is_told_with_both_hashes_before_anything_is_written(tmp_path: Path) -> None:
    other = write_torch(tmp_path / "other.pth", meta_llama())
    said = refused(XOR / "enc", other, tmp_path / "out")
    assert said.startswith(f"{other}: this is not the key: blob.bin")
    assert hashlib.sha256(other.read_bytes()).hexdigest()[:12] in said
    assert "a LLaMA of 2 layers with a width of 16" in said
    assert all(f"{original.model} ({original.sha256[:12]}…)" in said for original in ORIGINALS)
    assert len(said.removeprefix(str(other))) < 420
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "### Encrypted weights" in readme
    assert all(original.sha256 in readme for original in ORIGINALS)


def test_a_key_that_is_not_there_is_told_with_what_to_give(tmp_path: Path) -> None:
    said = refused(XOR / "enc", tmp_path / "gone.pth", tmp_path / "out")
    assert said == (
        f"{tmp_path / 'gone.pth'}: there is no such file for the key; give consolidated.00.pth of the original LLaMA "
        f"7B or 13B, or its folder"
    )


def test_a_key_in_the_middle_of_which_bytes_differ_is_found_by_the_hash_of_what_comes_out(
    large: tuple[Path, Path, bytes], tmp_path: Path
) -> None:
    source, key, _ = large
    other = tmp_path / "other.pth"
    damaged = bytearray(key.read_bytes())
    damaged[5 * MIB] ^= 1
    other.write_bytes(damaged)
    said = refused(source, other, tmp_path / "out")
    assert source.name[18:30] in said
    assert hashlib.sha256(damaged).hexdigest()[:12] in said
    assert WORDS in said


@pytest.mark.parametrize(
    ("size", "words"), [(MIB, "sha256"), (15 * MIB, "no table of contents"), (30 * MIB, "no table of contents")]
)
def test_a_large_file_that_was_downloaded_in_part_is_told_before_anything_is_written(
    large: tuple[Path, Path, bytes], size: int, words: str, tmp_path: Path
) -> None:
    source, key, _ = large
    part = tmp_path / source.name
    part.write_bytes(source.read_bytes()[:size])
    said = refused(part, key, tmp_path / "out")
    assert f"decrypted with it, has {'the ' if words == 'sha256' else ''}{words}" in said


def test_one_damaged_file_among_good_ones_is_named(tmp_path: Path) -> None:
    shutil.copytree(XOR / "enc", tmp_path / "enc")
    (blob,), (config,) = ((tmp_path / "enc").glob(f"{name}.*") for name in ("blob.bin", "config.json"))
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1])
    assert refused(tmp_path / "enc", KEY, tmp_path / "out").startswith(f"{KEY}: this is not the key: blob.bin")
    blob.write_bytes(whole)
    config.write_bytes(config.read_bytes()[:-1])
    said = refused(tmp_path / "enc", KEY, tmp_path / "out")
    assert said.startswith(f"{config}: the key is right, as another file shows, and what comes out has the sha256")


def test_a_folder_goes_on_after_its_finished_files_and_leaves_nothing_where_one_is_damaged(
    large: tuple[Path, Path, bytes], tmp_path: Path
) -> None:
    source, key, plain = large
    folder = tmp_path / "enc"
    second = encrypted(folder, "z.npy", b"x" + plain, key.read_bytes())
    shutil.copy(source, folder)
    assert killed_after(folder, key, tmp_path / "out", 5) == 9
    assert "pytorch_model.bin" in files_in(tmp_path / "out.partial")
    decrypt(folder, key, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "chatbridge-report.json").read_text(encoding="utf-8"))
    resumed = {step["file"]: step["resumed_at"] for step in told["steps"] if step["step"] == "decrypted"}
    assert resumed["pytorch_model.bin"] == len(plain)
    assert (tmp_path / "out" / "z.npy").read_bytes() == b"x" + plain
    shutil.rmtree(tmp_path / "out")
    raw = bytearray(second.read_bytes())
    raw[15 * MIB] ^= 1
    second.write_bytes(raw)
    assert "this is not the key: z.npy" in refused(folder, key, tmp_path / "out")


def test_the_llama_folder_has_its_sizes_below_and_the_fitting_one_is_taken(tmp_path: Path) -> None:
    for name, content in (("13B", bytes(1000)), ("7B", KEY.read_bytes())):
        (tmp_path / "llama" / name).mkdir(parents=True)
        (tmp_path / "llama" / name / "consolidated.00.pth").write_bytes(content)
    decrypt(XOR / "enc", tmp_path / "llama", tmp_path / "out")
    assert (tmp_path / "out" / "blob.bin").read_bytes() == (XOR / "plain" / "blob.bin").read_bytes()


def test_what_can_be_neither_source_nor_key_is_told_in_words(tmp_path: Path) -> None:
    good = tmp_path / "enc"
    shutil.copytree(XOR / "enc", good)
    (blob,), out = good.glob("blob.bin.*"), tmp_path / "out"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 13476939516\n"
    for content, words in ((b"", "empty"), (pointer, "Git LFS pointer"), (b"<html>no", "web page")):
        (tmp_path / "key").write_bytes(content)
        assert words in refused(good, tmp_path / "key", out)
    assert "no such file" in refused(good, tmp_path / "none", out)
    assert "it is converted" in refused(good, fixtures() / "llama" / "hf", out)
    assert "no consolidated.00.pth" in refused(good, XOR / "plain", out)
    assert "NAME.HASH.enc" in refused(XOR / "plain", KEY, out)
    assert "NAME.HASH.enc" in refused(KEY, KEY, out)
    assert "no such folder" in refused_without_parent(good, tmp_path / "none" / "out")
    whole = blob.read_bytes()
    for content, words in ((b"", "empty"), (whole[:32], "nothing behind its hash"), (whole[1:], "not begin with")):
        blob.write_bytes(content)
        assert words in refused(good, KEY, out)
    blob.write_bytes(whole)
    out.mkdir()
    with pytest.raises(ModelLoadError, match="it is there already"):
        decrypt(good, KEY, out)


def refused_without_parent(source: Path, output: Path) -> str:
    with pytest.raises(ModelLoadError) as error:
        decrypt(source, KEY, output)
    return str(error.value)


def test_part_of_a_key_is_told_as_such(tmp_path: Path) -> None:
    key = write_torch(tmp_path / "consolidated.00.pth", meta_llama())
    key.write_bytes(key.read_bytes()[:-500])
    assert "only a part of the file was downloaded" in refused(XOR / "enc", key, tmp_path / "out")


def test_a_file_whose_name_would_lead_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    key = KEY.read_bytes()
    for name in (".", ".."):
        (tmp_path / "enc").mkdir(exist_ok=True)
        encrypted(tmp_path / "enc", name, b"x", key)
    assert "is no name for a file" in refused(tmp_path / "enc", KEY, tmp_path / "out")


def test_two_files_for_one_name_are_refused(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        encrypted(tmp_path / "enc", "config.json", content, KEY.read_bytes())
    assert "more than once" in refused(tmp_path / "enc", KEY, tmp_path / "out")


Change = Callable[[bytes, int, bytes], bytes]
CHANGES: tuple[Change, ...] = (
    lambda data, at, other: data[: at % (len(data) + 1)],
    lambda data, at, other: data[at % (len(data) + 1) :],
    lambda data, at, other: other,
    lambda data, at, other: data[:32] + other,
    lambda data, at, other: data + other,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(("blob", "config", "key")), st.sampled_from(CHANGES), st.integers(0, 3000), st.binary())
def test_whatever_is_done_to_a_file_it_is_made_right_or_refused_in_words(
    which: str, change: Change, at: int, other: bytes
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(XOR, folder / "xor")
        target = next((folder / "xor").rglob("consolidated*" if which == "key" else f"{which}*.enc"))
        target.write_bytes(change(target.read_bytes(), at, other))
        said = outcome(folder / "xor", folder / "out")
        if said:
            assert str(folder / "xor") in said
            assert [*folder.iterdir()] == [folder / "xor"]
        else:
            made = files_in(folder / "out")
            del made["chatbridge-report.json"]
            assert made == files_in(XOR / "plain")


def outcome(xor: Path, output: Path) -> str:
    """What is said of files that can't be decrypted; "" where they are."""
    try:
        decrypt(xor / "enc", xor / "consolidated.00.pth", output)
    except ModelLoadError as error:
        return str(error)
    return ""


def test_the_command_says_what_was_made_and_what_is_wrong_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("model", "decrypt", str(XOR / "enc"), str(KEY), "-o", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert f"{tmp_path / 'out'} is made, with the hashes that were published.\n" in printed.out
    assert "error: there are no weights here; download" in printed.err
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"chatbridge: {tmp_path / 'out'}: it is there already")


@pytest.mark.parametrize(("rows", "words"), [(32000, "damaged or saved anew"), (49953, "49,953 rows (Chinese-LLaMA)")])
def test_a_key_with_the_shapes_of_the_original_and_another_hash_is_none(rows: int, words: str, tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (rows, 1)}
    for layer in range(32):
        before = f"layers.{layer}."
        shapes |= {f"{before}attention.wq.weight": (1, 1), f"{before}feed_forward.w1.weight": (1, 1)}
        shapes[f"{before}attention_norm.weight"] = (4096,)
    key = write_torch(tmp_path / "consolidated.00.pth", shapes)
    fitting = encrypted(tmp_path / "enc", "config.json", b"{}", key.read_bytes())
    source = fitting.parent if rows == 32000 else XOR / "enc"
    assert words in refused(source, key, tmp_path / "out")


def test_a_key_that_is_known_is_named_and_damaged_files_are_told_from_another_key(tmp_path: Path) -> None:
    known = (Original("7B", hashlib.sha256(KEY.read_bytes()).hexdigest()), Original("13B", "ab" * 32))
    decrypt(XOR / "enc", KEY, tmp_path / "out", originals=known)
    told = json.loads((tmp_path / "out" / "chatbridge-report.json").read_text(encoding="utf-8"))
    assert told["steps"][0]["is"] == str(known[0])
    shutil.copytree(XOR / "enc", tmp_path / "enc")
    (blob,) = (tmp_path / "enc").glob("blob.bin.*")
    blob.write_bytes(blob.read_bytes()[:-1])
    said = refused(tmp_path / "enc", KEY, tmp_path / "new", known)
    assert said.startswith(f"{blob}: the key is {known[0]}, and what comes out has the sha256")
    (tmp_path / "13B").write_bytes(bytes(1000))
    wrong = (Original("13B", hashlib.sha256(bytes(1000)).hexdigest()), known[0])
    said = refused(XOR / "enc", tmp_path / "13B", tmp_path / "new", wrong)
    assert f"It is {wrong[0]}; wanted is consolidated.00.pth of LLaMA 7B ({known[0].sha256[:12]}…), as Meta" in said


def test_a_file_that_is_damaged_within_is_told_from_another_key(
    large: tuple[Path, Path, bytes], tmp_path: Path
) -> None:
    source, key, _ = large
    raw = bytearray(source.read_bytes())
    raw[15 * MIB] ^= 1
    (tmp_path / source.name).write_bytes(raw)
    known = (Original("7B", hashlib.sha256(key.read_bytes()).hexdigest()),)
    said = refused(tmp_path / source.name, key, tmp_path / "out", known)
    assert said.startswith(f"{tmp_path / source.name}: decrypted with {known[0]}, it has the sha256")


def test_the_two_places_in_the_wrong_order_are_told_as_that(tmp_path: Path) -> None:
    for files in (XOR / "enc", next((XOR / "enc").glob("blob.bin.*"))):
        with pytest.raises(ModelLoadError, match=r"give that first, and the key after it"):
            decrypt(KEY, files, tmp_path / "out")
    assert not (tmp_path / "out").exists()
