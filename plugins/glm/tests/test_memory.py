"""Memory is reckoned before loading, to the byte for weights; loading takes little more than what stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chatbridge_glm import loading, memory
from chatbridge_glm.checkpoint import Checkpoint
from chatbridge_glm.config import Config, sat_config
from chatbridge_glm.loading import Told
from chatbridge_glm.memory import Machine, Plan

from chatbridge import ModelLoadError, TensorInfo

from .conftest import folder_of, options_for
from .made_up import write_chatglm, write_sat

GIB = 1 << 30
GLM_130B = sat_config(70, 12288, 96, 32768, 150528, {})
CHATGLM = replace(GLM_130B, architecture="ChatGLM-6B", layers=28, hidden_size=4096, heads=32, inner_hidden_size=16384,
                  vocab_size=130528, glu=False)  # fmt: skip


def of_size(config: Config, bits: int = 0, parallel: int = 1) -> Checkpoint:
    """A checkpoint that is nowhere."""
    largest = TensorInfo((config.vocab_size // parallel, config.hidden_size), "float16",
                     2 * config.vocab_size * config.hidden_size // parallel)  # fmt: skip
    return Checkpoint(Path("glm"), config, (), {"x": largest}, parallel, bits, 0, False, Path("x"), ("</s>", 0), {})


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, {"quantization": "int8"}, {"quantization": "int4"}])
def test_reckoned_bytes_are_the_bytes_that_are_there(options: dict) -> None:
    loaded = loading.load(options_for(folder_of(), **options), lambda share, doing: None)
    assert loaded.held == sum(memory.needs(loaded.checkpoint, loaded.plan).devices.values())


@pytest.mark.parametrize("form", [{"bits": 8}, {"bits": 4}, {"bits": 4, "embeddings": True}])
def test_reckoned_bytes_of_packed_files(form: dict) -> None:
    loaded = loading.load(options_for(folder_of(**form)), lambda share, doing: None)
    assert loaded.held == sum(memory.needs(loaded.checkpoint, loaded.plan).devices.values())


@pytest.mark.parametrize(("bits", "parallel"), [(0, 2), (8, 4), (4, 2)])
def test_reckoned_bytes_of_shards(tmp_path: Path, bits: int, parallel: int) -> None:
    folder = write_sat(tmp_path / "sat", parallel=parallel, bits=bits)
    options = options_for(folder, config=folder / "ids.json")
    loaded = loading.load(options, lambda share, doing: None)
    assert loaded.held == sum(memory.needs(loaded.checkpoint, loaded.plan).devices.values())


def test_the_published_sizes_of_glm_130b() -> None:
    """fp16 on eight cards of 40 GB, int8 on eight of 32 or 24, int4 on four of 24 or eight of 11, as its page says."""
    assert of_size(GLM_130B).parameters == pytest.approx(128.7e9, rel=0.001)
    for bits, total in ((0, 257.4e9), (8, 130.6e9), (4, 67.2e9)):
        plan = Plan(bits, "fp16", ("cuda:0",) * 70)
        found = sum(memory.needs(of_size(GLM_130B, bits), plan).devices.values())
        assert found == pytest.approx(total, rel=0.01)
    assert memory.cache_bytes(GLM_130B, "fp16") == 2 * 70 * 12288 * 2
    for bits, cards, size, fits in (
        (0, 8, 40, True), (0, 8, 32, False), (8, 8, 32, True), (8, 8, 24, True), (8, 4, 24, False), (4, 4, 24, True),
        (4, 8, 11, True), (4, 4, 11, False),
    ):  # fmt: skip
        machine = Machine(64 * GIB, (int(size * 1e9),) * cards)
        given = {f"cuda:{number}": 0 for number in range(cards)}
        about = of_size(GLM_130B, bits)
        needed = memory.needs(about, Plan(bits, "fp16", ("cuda:0",) * 70))
        places = memory.place(70, given, machine, needed.layer, needed.embedding)
        assert len(places) == 70
        short = memory.shortage(memory.needs(about, Plan(bits, "fp16", places)), machine)
        assert (not short) == fits, (bits, cards, size, short)


def test_what_a_chatglm_6b_takes() -> None:
    for bits, dtype, least, most in ((4, "fp32", 3.4, 3.8), (8, "fp32", 6.0, 6.4), (0, "bf16", 11.3, 11.8)):
        needed = memory.needs(of_size(CHATGLM, bits), Plan(bits, dtype, ("cpu",) * 28))
        assert least * GIB < needed.devices["cpu"] < most * GIB
    assert memory.cache_bytes(CHATGLM, "fp16") * 2048 < 1 * GIB


def test_layers_fill_cards_evenly_and_the_rest_goes_to_the_processor() -> None:
    machine = Machine(64 * GIB, (8 * GIB, 16 * GIB))
    places = memory.place(28, {}, machine, GIB // 4, GIB)
    assert (places.count("cuda:0"), places.count("cuda:1")) == (9, 19)
    assert memory.place(28, {}, Machine(64 * GIB, (3 * GIB,)), GIB // 4, GIB) == ("cuda:0",) * 6 + ("cpu",) * 22
    assert memory.place(28, {}, Machine(64 * GIB), GIB // 4, GIB) == ("cpu",) * 28
    assert memory.place(4, {"cuda:0": 1, "cpu": 3}, machine, GIB, GIB) == ("cuda:0", "cpu", "cpu", "cpu")


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    plan = Plan(0, "fp32", ("cpu",) * 28)
    with pytest.raises(
        ModelLoadError, match=r"loading needs 2\d\.\d GiB of main memory, and 10\.0 GiB are free; quant"
    ):
        memory.refuse_what_does_not_fit(of_size(CHATGLM), plan, Machine(10 * GIB))
    with pytest.raises(
        ModelLoadError, match=r"take a smaller model, free memory, or leave layers in the files by device: disk"
    ):
        memory.refuse_what_does_not_fit(of_size(CHATGLM), plan, Machine(1 * GIB))
    memory.refuse_what_does_not_fit(of_size(CHATGLM), Plan(0, "fp32", ("disk",) * 28), Machine(5 * GIB))


def test_as_many_conversations_as_there_is_room_for() -> None:
    """A ChatGLM-6B's takes 896 MiB in half precision."""
    for free, devices, count in (
        (Machine(6 * GIB), ("cpu",) * 28, 5),
        (Machine(1 * GIB), ("cpu",) * 28, 1),
        (Machine(64 * GIB, (2 * GIB,)), ("cuda:0",) * 28, 1),
        (Machine(6 * GIB, (2 * GIB,)), ("cuda:0",) * 14 + ("cpu",) * 14, 3),
    ):
        assert memory.conversations(CHATGLM, "fp16", 2048, devices, free) == count
    assert memory.conversations(CHATGLM, "fp16", 2048, ("cpu",) * 28, Machine(0)) > 1000


def test_the_report_says_which_layer_goes_where() -> None:
    said = memory.report(of_size(CHATGLM, 4), Plan(4, "fp16", ("cuda:0",) * 20 + ("cpu",) * 8))
    assert said.startswith("layers 1 to 20 on cuda:0; layers 21 to 28 on cpu; with the embedding, ")


def test_progress_tells_bytes_and_time_left() -> None:
    said: list[str] = []
    now = [0.0]
    told = Told(lambda share, doing: said.append(doing), lambda: now[0])
    for read in range(11):
        told(read * GIB, 10 * GIB)
        now[0] += 3
    assert said[1] == "reading weights: 1.0 GiB of 10.0 GiB, 27 s left"
    assert said[-1] == "reading weights: 10.0 GiB of 10.0 GiB"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
@pytest.mark.parametrize("form", ["packed", "to be packed", "shards"])
def test_loading_takes_little_more_than_what_stays(tmp_path: Path, form: str) -> None:
    size = {"layers": 4, "hidden": 768, "inner": 3072}
    if form == "shards":
        folder = write_sat(tmp_path / "sat", parallel=4, bits=4, layers=6, hidden=768, inner=1536)
        options = options_for(folder, config=folder / "ids.json")
    else:
        folder = write_chatglm(tmp_path / "model", **size, bits=4 if form == "packed" else 0, files=3)
        options = options_for(folder, quantization="auto" if form == "packed" else "int4")

    def load() -> loading.Loaded:
        return loading.load(options, lambda share, doing: None)

    load()  # what the libraries need themselves
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    loaded = load()
    peak = resident("VmHWM") - before
    largest = max(tensor.nbytes for tensor in loaded.checkpoint.tensors.values()) * loaded.checkpoint.parallel
    # In float32 a block of rows is unpacked at a time; all files together are twice to eight times as large.
    assert peak < loaded.held + 4 * largest + (24 << 20), (peak >> 20, loaded.held >> 20, largest >> 20)
    assert sum(file.nbytes for file in loaded.checkpoint.files) > loaded.held or form != "to be packed"


def resident(what: str) -> int:
    """Bytes of this process's memory, now (VmRSS) or at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(what)
