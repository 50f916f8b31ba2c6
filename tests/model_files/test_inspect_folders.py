"""Which form a folder has is told by what lies in it, and what is told about it goes no further than a reader would."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from chatbridge import ModelDescription, ModelLoadError, check_model_file, inspect_model, read_json_object
from chatbridge.model_files import reading
from chatbridge.model_files.description import Problem, listed
from chatbridge.model_files.drafts import Draft
from chatbridge.model_files.inspect import refuse_unsound, sound_model
from chatbridge.model_files.kinds import exists, kind_of
from chatbridge.model_files.reading import expected_files, files_in, missing, weight_files

from .writers import hub_llama, meta_llama, write_adapter, write_hub_llama, write_safetensors, write_torch


def told(found: ModelDescription) -> list[str]:
    return [f"{one.severity}: {one.message}" for one in found.problems]


def test_a_sound_model_is_described_and_another_is_an_error(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    found = sound_model(folder, {"acme": ["huggingface"]})
    assert (found.layers, found.backends) == (2, ("transformers", "acme"))
    write_hub_llama(folder, config={"hidden_size": 5})
    with pytest.raises(ModelLoadError, match=r"width: config\.json says 5, and the weights 16; download all files"):
        sound_model(folder)
    notes = (Problem("note", "one"), Problem("warning", "two"))
    refuse_unsound(ModelDescription(folder, "x", problems=notes))
    with pytest.raises(ModelLoadError, match=r"m: three$"):
        refuse_unsound(ModelDescription(folder, "x", problems=(*notes, Problem("error", "three"))))


def test_what_was_asked_for_is_told_where_it_is_not_what_is_described(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    assert "asked for" not in inspect_model(folder).details
    assert inspect_model(folder / "config.json").details["asked for"] == str(folder / "config.json")


def test_a_folder_of_files_is_the_one_that_has_weights(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "old.bin").mkdir()
    path = write_torch(tmp_path / "a.pth", {"x": (2, 2)})
    assert inspect_model(tmp_path).path == path
    for name in ("b.pt", "c.safetensors"):
        write_torch(tmp_path / name, {"x": (2, 2)})
    with pytest.raises(ModelLoadError, match=r"there are 3 models here: a\.pth, b\.pt, c\.safetensors; give"):
        inspect_model(tmp_path)


def test_twelve_names_are_told_and_more_are_counted() -> None:
    names = [f"f{number}" for number in range(13)]
    assert (listed([]), listed(names[:1])) == ("", "f0")
    assert listed(names[:12]) == ", ".join(names[:12])
    assert listed(names) == f"{', '.join(names[:12])} and 1 more"
    assert (listed(names, 13), listed(names, 1)) == (", ".join(names), "f0 and 12 more")


def test_folders_are_named_that_may_be_meant(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"f{number}").mkdir()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ModelLoadError, match=r"one of its folders may be what you mean: f0, f1, f2, f3, f4, f5$"):
        inspect_model(tmp_path)
    for number in range(6):
        (tmp_path / f"f{number}").rmdir()
    with pytest.raises(ModelLoadError, match=r"there is no model here: no config\.json and no weights$"):
        inspect_model(tmp_path)


def test_a_configuration_with_a_damaged_index_does_not_hide_other_weights(tmp_path: Path) -> None:
    write_torch(tmp_path / "consolidated.00.pth", meta_llama())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert inspect_model(tmp_path).layout == "meta"
    write_adapter(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", hub_llama())
    assert inspect_model(tmp_path).layout == "peft"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_three_links_are_named_and_more_are_counted(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    for count, words in (
        (1, "a0 is a link to what is not there"),
        (3, "a0, a1, a2 are links to what is not there"),
        (5, "a0, a1, a2 and 2 more are links to what is not there"),
    ):
        for number in range(count):
            (folder / f"a{number}").unlink(missing_ok=True)
            (folder / f"a{number}").symlink_to("nowhere")
        assert f"warning: {words}" in told(inspect_model(folder))


@pytest.mark.parametrize(
    ("count", "inside"), [(1, "f0"), (5, "f0, f1, f2, f3, f4"), (6, "f0, f1, f2, f3, f4 and 1 more")]
)
def test_an_encrypted_model_tells_what_is_inside(tmp_path: Path, count: int, inside: str) -> None:
    digest = sha256(b"x").digest()
    for number in range(count):
        (tmp_path / f"f{number}.{digest.hex()}.enc").write_bytes(digest + bytes(number))
    found = inspect_model(tmp_path)
    assert (found.layout, found.architecture, found.preset, found.sound) == ("xor", "llama", "", True)
    assert (found.format, found.files) == (f"XOR-encrypted, {count} file{'s' if count > 1 else ''}", count)
    assert (found.details["inside"], found.nbytes) == (inside, 32 * count + sum(range(count)))
    assert inspect_model(tmp_path / f"f0.{digest.hex()}.enc").files == 1


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_folder_may_hold_so_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_FILES", 3)
    for number in (2, 0, 1):
        (tmp_path / f"{number}").touch()
    assert [file.name for file in files_in(tmp_path)] == ["0", "1", "2"]
    (tmp_path / "3").touch()
    with pytest.raises(ModelLoadError, match="there are more than 3 files here; give a model's folder"):
        files_in(tmp_path)


def test_an_index_may_name_so_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_FILES", 3)
    index = tmp_path / "model.safetensors.index.json"
    for count in (3, 4):
        index.write_text(json.dumps({"weight_map": {str(at): f"f{at % count}" for at in range(9)}}))
        if count == 3:
            assert [file.name for file in expected_files(tmp_path)] == ["f0", "f1", "f2"]
    with pytest.raises(ModelLoadError, match="it names more than 3 files"):
        expected_files(tmp_path)
    index.unlink()
    (tmp_path / "model-00001-of-00009.safetensors").touch()
    assert len(expected_files(tmp_path)) == 3


@pytest.mark.parametrize("written", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_names_is_told(tmp_path: Path, written: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(written))
    with pytest.raises(ModelLoadError, match="it names no files"):
        weight_files(tmp_path)


def test_files_that_are_missing_are_counted_after_the_third(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abcd"]
    assert [missing(files[:count]) for count in (0, 1, 3, 4)] == [
        "", "a is missing", "a, b, c are missing", "a, b, c and 1 more are missing"
    ]  # fmt: skip


def test_json_may_have_so_many_bytes_and_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    lists = '{"a": [' + ",".join(["[]"] * 1200) + "]}"
    path.write_text(lists)
    assert len(read_json_object(path)["a"]) == 1200
    path.write_text('{"a": [' + ",".join(["[{}]"] * 2000) + "]}")
    with pytest.raises(ModelLoadError, match="it is made of brackets"):
        read_json_object(path)
    path.write_text(lists)
    monkeypatch.setattr(reading, "MAX_JSON", len(lists))
    read_json_object(path)
    monkeypatch.setattr(reading, "MAX_JSON", len(lists) - 1)
    with pytest.raises(ModelLoadError, match="it has more than"):
        read_json_object(path)


def test_a_name_that_no_system_takes_is_nothing() -> None:
    assert not exists(Path("a\0b"))
    assert not exists(Path("x" * 5000))


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"\x80\1", "pickle"),
        (b"\x80\5", "pickle"),
        (b"\x80\6", "other"),
        (b"\x81\2", "other"),
        (b" [1]", "json"),
        (b"Entry not found " + bytes(600), "other"),
        (bytes(4) + b"\0\0\0\0{", "safetensors"),
    ],
)
def test_a_file_is_what_its_first_bytes_are(tmp_path: Path, begin: bytes, kind: str) -> None:
    (tmp_path / "m.bin").write_bytes(begin)
    assert kind_of(tmp_path / "m.bin") == kind


def test_a_name_decides_where_the_first_bytes_do_not(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"hello")
    (tmp_path / "m.model").write_bytes(b"\n\1a")
    assert (kind_of(tmp_path / "m.safetensors"), kind_of(tmp_path / "m.model")) == ("safetensors", "sentencepiece")


def test_a_servers_answer_is_told_up_to_a_hundred_letters(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"Entry not found\n" + b"x" * 300)
    with pytest.raises(ModelLoadError) as caught:
        check_model_file(tmp_path / "m.bin")
    assert f"'Entry not found {'x' * 84}'" in str(caught.value)
    (tmp_path / "m.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelLoadError, match="not the file itself; run `git lfs install`"):
        check_model_file(tmp_path / "m.bin")


# --- what forms have in common ---------------------------------------------------------------------------------------


def test_a_head_of_another_size_is_told(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    write_safetensors(folder / "model.safetensors", {**hub_llama(), "lm_head.weight": (50, 16)})
    assert "error: rows of the vocabulary: the embedding says 48, and the head 50" in told(inspect_model(folder))


def test_shards_lack_what_their_index_says(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    shapes = hub_llama()
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "a.safetensors", shapes)
    for lost, more in ((["x"], ""), (["x", "y"], " and 1 more"), ([], None)):
        named = dict.fromkeys([*shapes, *lost], "a.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
        words = told(inspect_model(folder))
        wanted = f"error: a.safetensors: x{more} should be in it by model.safetensors.index.json, and is not"
        assert (wanted in words) is (more is not None)
        assert any("should be in it" in word for word in words) is (more is not None)


def test_an_index_beside_a_whole_file_is_of_other_files(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}))
    assert inspect_model(folder).sound


def test_a_prefix_without_a_shape_has_no_positions(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "chatglm"}')
    write_torch(tmp_path / "pytorch_model.bin", {"prefix_encoder.embedding.weight": ()})
    found = inspect_model(tmp_path)
    assert (found.layout, found.details["prefix"]) == ("ptuning", "0 positions of 0 numbers")


@pytest.mark.parametrize(
    ("config", "quantization"),
    [
        ({}, "none (float16)"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 3}}, "awq, 3 bits"),
        ({"quantization_config": {"quant_method": 5}}, "none (float16)"),
        ({"quantization_config": [1]}, "none (float16)"),
    ],
)
def test_quantisation_is_what_is_said(tmp_path: Path, config: dict[str, object], quantization: str) -> None:
    assert inspect_model(write_hub_llama(tmp_path / "m", config=config)).quantization == quantization


def test_sizes_that_the_weights_do_not_tell_are_the_configurations(tmp_path: Path) -> None:
    folder = write_hub_llama(tmp_path / "m", config={"model_type": "gpt", "n_positions": 77, "n_inner": 9})
    write_safetensors(folder / "model.safetensors", {"gpt.wte.weight": (48, 16), "gpt.h.0.x": (2, 2)})
    found = inspect_model(folder)
    assert (found.layers, found.width, found.heads, found.inner, found.context) == (2, 16, 4, 9, 77)
    assert (found.vocabulary, found.architecture, found.family) == (48, "gpt", "gpt")
    assert found.details["sizes"] == "as config.json says; the weights don't tell"
    assert found.quantization == "none (float16)"


@pytest.mark.parametrize(("count", "most"), [(19, 19), (21, 20)])
def test_so_many_faults_are_told_and_each_once(tmp_path: Path, count: int, most: int) -> None:
    draft = Draft(tmp_path)
    for number in range(count):
        draft.say("note", str(number))
        draft.say("note", str(number))
    assert [one.message for one in draft.problems] == [str(number) for number in range(most)]
