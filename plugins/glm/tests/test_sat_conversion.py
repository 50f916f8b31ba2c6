"""GLM-130B from any number of shards into any other, whole and packed: to the bit what the original code makes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chatbridge_glm import quantization
from chatbridge_glm.backend import load
from chatbridge_glm.checkpoint import MATRICES, layer_key
from chatbridge_glm.converters import degree_and_bits
from chatbridge_glm.parallel import Cut, cut_of
from chatbridge_glm.quantization import Packed
from click.testing import CliRunner

from chatbridge import ModelLoadError, StoredTensor, inspect_model
from chatbridge.cli.model.convert import command
from chatbridge.testing import CountedProgress, KilledWork

from .conftest import GLM_130B, options_for, there
from .conversions import assert_same, contents, convert, shards
from .made_up import write_sat

DEGREES = (1, 2, 4)
PAIRS = [(degree, wanted) for degree in DEGREES for wanted in DEGREES if degree != wanted]


@pytest.mark.parametrize(("degree", "wanted"), PAIRS)
def test_every_degree_is_made_of_every_other(degree: int, wanted: int, tmp_path: Path) -> None:
    convert(there(GLM_130B / f"tp{degree}"), f"tp{wanted}", tmp_path / "made")
    found, expected = shards(tmp_path / "made"), shards(there(GLM_130B / f"tp{wanted}"))
    assert len(found) == len(expected) == wanted
    for shard, recorded in zip(found, expected, strict=True):
        assert list(shard) == list(recorded)
        assert_same(shard, recorded)


def test_going_round_gives_the_same_files_byte_for_byte(tmp_path: Path) -> None:
    """1 → 2 → 4 → 1 → 4 → 2 → 1, by files that are all written here."""
    at, known = there(GLM_130B / "tp1"), {}
    for number, wanted in enumerate((2, 4, 1, 4, 2, 1)):
        made = tmp_path / f"{number}-tp{wanted}"
        convert(at, f"tp{wanted}", made)
        assert contents(made) == known.setdefault(wanted, contents(made))
        at = made
    assert_same(shards(at)[0], shards(GLM_130B / "tp1")[0])


@pytest.mark.parametrize(
    ("source", "target", "recorded"),
    [
        ("tp2", "int4", "tp2-int4"),
        ("tp2", "int8", "tp2-int8"),
        ("tp1", "int4", "tp1-int4"),
        ("tp1", "tp2-int4", "tp2-int4"),
        ("tp4", "tp2-int8", "tp2-int8"),
        ("tp4", "tp1-int4", "tp1-int4"),
    ],
)
def test_shards_are_packed_as_recorded(source: str, target: str, recorded: str, tmp_path: Path) -> None:
    convert(there(GLM_130B / source), target, tmp_path / "made")
    found, expected = shards(tmp_path / "made"), shards(there(GLM_130B / recorded))
    for shard, wanted in zip(found, expected, strict=True):
        assert_same(shard, wanted)


def unpacked(folder: Path, bits: int) -> list[dict[str, Any]]:
    found = []
    for shard in shards(folder):
        for name in [name for name in shard if f"{name}_scale" in shard]:
            shard[name] = quantization.unpack(Packed(shard[name], shard.pop(f"{name}_scale"), bits), torch.float32)
        found.append(shard)
    return found


@pytest.mark.parametrize(("name", "bits"), [("tp1-int4", 4), ("tp2-int4", 4), ("tp2-int8", 8)])
def test_packed_shards_are_cut_further_and_lose_nothing(name: str, bits: int, tmp_path: Path) -> None:
    """Each of the new ones has the scales of that which it was cut from."""
    source = there(GLM_130B / name)
    convert(source, "tp4", tmp_path / "made")
    assert inspect_model(tmp_path / "made").quantization == f"int{bits}"
    found, was = unpacked(tmp_path / "made", bits), unpacked(source, bits)
    key = layer_key(1, f"{MATRICES[3]}.weight")
    assert torch.equal(torch.cat([one[key] for one in found], 1), torch.cat([one[key] for one in was], 1))
    plain = tmp_path / "plain"
    (plain / "1").mkdir(parents=True)
    (plain / "latest").write_text("1")
    for rank, shard in enumerate(was):
        torch.save({"module": shard}, plain / "1" / f"mp_rank_{rank:02}_model_states.pt")
    convert(plain, "tp4", tmp_path / "expected")
    for shard, expected in zip(found, shards(tmp_path / "expected"), strict=True):
        assert_same(shard, expected)


def test_the_folder_is_complete_and_runs(tmp_path: Path) -> None:
    source, made = write_sat(tmp_path / "source", parallel=1), tmp_path / "made"
    progress = convert(source, "tp2", made)
    assert {file.name for file in made.iterdir()} == {
        "100", "latest", "ice_text.model", "ids.json", "chatbridge-report.json",
    }  # fmt: skip
    report = json.loads((made / "chatbridge-report.json").read_text("utf-8"))
    told = {step.pop("step"): step for step in report["steps"]}
    assert told["compare"] == {"uncut": 16, "of which differ between shards": []}
    assert told["cut"] == {"shards": {"from": 1, "to": 2}, "bits": 0, "nbytes": progress.stages[-1][1]}
    assert told["copy"] == {"files": ["ice_text.model", "ids.json"], "tokenizer": True}
    assert all(total == done for _, total, done in progress.stages)
    logits = []
    for folder in (source, made):
        model = load(options_for(folder, config=folder / "ids.json"), lambda share, doing: None)
        logits.append(model.logits(model.new_state(), [30, 31, 32, 33, model.info.bidirectional_until or 0]))
        model.close()
    np.testing.assert_array_equal(logits[0], logits[1])


def test_a_folder_of_shards_alone_becomes_one(tmp_path: Path) -> None:
    convert(write_sat(tmp_path / "source", parallel=2) / "100", "tp4", tmp_path / "made")
    assert (tmp_path / "made" / "latest").read_text() == "100"
    bare = (tmp_path / "source" / "100").rename(tmp_path / "bare")
    convert(bare, "tp4", tmp_path / "other")
    assert not (tmp_path / "other" / "latest").exists()
    made, other = contents(tmp_path / "made"), contents(tmp_path / "other")
    assert len(other) == 4
    assert other.items() <= {name.removeprefix("100/"): value for name, value in made.items()}.items()


def test_what_a_training_left_beside_the_model_is_no_part_of_it(tmp_path: Path) -> None:
    source = write_sat(tmp_path / "source", parallel=1, layers=1)
    file = source / "100" / "mp_rank_00_model_states.pt"
    more = {f"{number}.exp_avg": torch.ones(2) for number in range(100)}
    torch.save(torch.load(file) | {"optimizer": more, "iteration": 100}, file)
    convert(source, "tp2", tmp_path / "made")
    found = torch.load(tmp_path / "made" / "100" / "mp_rank_01_model_states.pt")
    assert found.keys() == {"module", "iteration"}
    assert found["iteration"] == 100


def test_shards_that_differ_where_they_should_not_are_told_in_the_report(tmp_path: Path) -> None:
    source = write_sat(tmp_path / "source", parallel=2, layers=1)
    file = source / "100" / "mp_rank_01_model_states.pt"
    name, written = layer_key(0, "input_layernorm.bias"), torch.load(file)
    written["module"][name] += 1
    torch.save(written, file)
    convert(source, "tp1", tmp_path / "made")
    report = json.loads((tmp_path / "made" / "chatbridge-report.json").read_text("utf-8"))
    assert report["steps"][0]["of which differ between shards"] == [name]


def test_a_run_that_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor counts as written when it is, as in a model whose tensors are large."""
    monkeypatch.setattr("chatbridge.model_tools.output.SYNC", 1)
    source = write_sat(tmp_path / "source", parallel=1, layers=1)
    calls, whole = convert(source, "tp2-int4", tmp_path / "whole").calls, 0
    assert calls > 40
    for kill_at in range(1, calls + 1, 7):
        made = tmp_path / f"made-{kill_at}"
        with pytest.raises(KilledWork):
            convert(source, "tp2-int4", made, CountedProgress(kill_at))
        assert not made.exists()
        kept = {file.name: file.stat().st_ino for file in tmp_path.glob("*.partial/100/*.pt")}
        progress = convert(source, "tp2-int4", made)
        assert kept.items() <= {file.name: file.stat().st_ino for file in made.glob("100/*.pt")}.items()
        assert contents(made) == contents(tmp_path / "whole")
        assert all(total == done for _, total, done in progress.stages)
        whole += len(kept)
    assert whole, "no run was killed after its first shard was whole"
    assert not list(tmp_path.glob("*.partial"))


def test_what_was_left_of_other_weights_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatbridge.model_tools.output.SYNC", 1)
    source = write_sat(tmp_path / "source", parallel=1, layers=1)
    file, made = source / "100" / "mp_rank_00_model_states.pt", tmp_path / "made"
    with pytest.raises(KilledWork):
        convert(source, "tp2", made, CountedProgress(25))
    written = torch.load(file)
    written["module"]["transformer.word_embeddings.weight"] += 1
    torch.save(written, file)
    convert(source, "tp2", made)
    convert(source, "tp2", tmp_path / "whole")
    assert contents(made) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("tp2", "tp2", "it has 2 shards already; there is nothing to do"),
        ("tp2-int4", "int4", "it has 2 shards of 4 bits already; there is nothing to do"),
        ("tp2-int4", "tp2-int4", "it has 2 shards of 4 bits already"),
        ("tp2-int4", "tp4-int8", "its weights have 4 bits, and 8 are asked for: what was lost"),
        ("tp2-int4", "tp1", "2 shards are packed in 4 bits, .* a multiple of 2, and not be joined into 1"),
        ("tp1", "tp3", "its 8 heads can't be cut into 3 equal parts"),
        ("tp1", "tp16", "its 8 heads can't be cut into 16 equal parts"),
        ("tp1", "tp", "write tp and the number of shards, as in tp4"),
        ("tp1", "tp0", "write tp and the number of shards, as in tp4"),
        ("tp1", "tp4-int3", "write tp and the number of shards, as in tp4"),
    ],
)
def test_what_can_not_be_had_is_refused_before_anything_is_written(
    name: str, target: str, why: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(command, [str(there(GLM_130B / name)), "-o", str(tmp_path / "made"), "--to", target])
    with pytest.raises(ModelLoadError, match=why):
        raise done.exception or AssertionError(done.output)
    assert not list(tmp_path.iterdir())


def test_sizes_that_do_not_divide_are_refused_with_the_tensors_name(tmp_path: Path) -> None:
    source = write_sat(tmp_path / "source", parallel=1, layers=1, inner=60)
    with pytest.raises(ModelLoadError, match=r"dense_h_to_4h\.weight: 60 can't be cut into 8 equal parts"):
        convert(source, "tp8", tmp_path / "made")
    source = write_sat(tmp_path / "odd", parallel=1, layers=1, inner=20)
    with pytest.raises(ModelLoadError, match=r"dense_4h_to_h\.weight would have 5 columns, and 4 bits need an even"):
        convert(source, "tp4-int4", tmp_path / "made")


def test_targets_are_read_in_any_case() -> None:
    assert degree_and_bits("TP8-INT4") == (8, 4)
    assert degree_and_bits("int8") == (None, 8)
    assert degree_and_bits("tp1024") == (1024, 0)


@pytest.mark.parametrize(("degree", "wanted"), [(1, 8), (2, 4), (4, 1)])
def test_what_is_cut_by_columns_is_read_once(
    degree: int, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not once for each new shard: rows of a file hold the columns of all of them."""
    source = write_sat(tmp_path / "source", parallel=degree, hidden=128, inner=128)
    read: Counter[str] = Counter()
    plain = StoredTensor._bytes

    def counted(tensor: StoredTensor, start: int, count: int) -> bytearray:
        read[tensor.name] += count
        return plain(tensor, start, count)

    monkeypatch.setattr(StoredTensor, "_bytes", counted)
    convert(source, f"tp{wanted}", tmp_path / "made")
    weights = shards(source)
    names = [name for name in weights[0] if cut_of(name) is Cut.COLUMNS]
    assert names
    for name in names:
        assert read[name] == sum(shard[name].numel() * 2 for shard in weights)
