"""Memory is reckoned before loading, to the byte for weights; loading takes little more than what stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chatbridge_glm import loading, memory
from chatbridge_glm.checkpoint import Checkpoint
from chatbridge_glm.config import Config, sat_config
from chatbridge_glm.loading import Told
from chatbridge_glm.memory import Plan
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import Card, Machine, TensorInfo

from .conftest import folder_of, options_for
from .made_up import write_chatglm, write_sat

GIB = 1 << 30
GLM_130B = sat_config(70, 12288, 96, 32768, 150528, {})
CHATGLM = replace(GLM_130B, architecture="ChatGLM-6B", layers=28, hidden_size=4096, heads=32, inner_hidden_size=16384,
                  vocab_size=130528, glu=False)  # fmt: skip


def machine_of(main: float, *cards: float) -> Machine:
    """So many bytes of main memory, and cards with so many each."""
    return Machine(int(main), tuple(Card("card", int(card)) for card in cards))


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
    """By their weights alone, with those that are packed as its page packs them."""
    assert of_size(GLM_130B).parameters == pytest.approx(128.7e9, rel=0.001)
    for bits, total in ((0, 257.4e9), (8, 130.6e9), (4, 67.2e9)):
        plan = Plan(bits, "fp16", ("cuda:0",) * 70)
        found = sum(memory.needs(of_size(GLM_130B, bits), plan).devices.values())
        assert found == pytest.approx(total, rel=0.01)
    assert memory.cache_bytes(GLM_130B, "fp16") == 2 * 70 * 12288 * 2


def test_what_a_chatglm_6b_takes() -> None:
    for bits, dtype, least, most in ((4, "fp32", 3.4, 3.8), (8, "fp32", 6.0, 6.4), (0, "bf16", 11.3, 11.8)):
        needed = memory.needs(of_size(CHATGLM, bits), Plan(bits, dtype, ("cpu",) * 28))
        assert least * GIB < needed.devices["cpu"] < most * GIB
    assert memory.cache_bytes(CHATGLM, "fp16") * 2048 < 1 * GIB


def test_layers_fill_cards_evenly_and_the_rest_goes_to_the_processor() -> None:
    machine = machine_of(64 * GIB, 8 * GIB, 16 * GIB)
    places = memory.place(28, {}, machine, GIB // 4, GIB)
    assert (places.count("cuda:0"), places.count("cuda:1")) == (9, 19)
    assert memory.place(28, {}, machine_of(64 * GIB, 3 * GIB), GIB // 4, GIB) == ("cuda:0",) * 6 + ("cpu",) * 22
    assert memory.place(28, {}, Machine(64 * GIB), GIB // 4, GIB) == ("cpu",) * 28
    assert memory.place(4, {"cuda:0": 1, "cpu": 3}, machine, GIB, GIB) == ("cuda:0", "cpu", "cpu", "cpu")


@settings(deadline=None)
@given(
    st.integers(1, 100), st.lists(st.integers(0, 12 * GIB), max_size=9), st.integers(1 << 20, GIB), st.integers(0, GIB)
)
def test_every_layer_has_one_place_on_whatever_cards(layers: int, cards: list[int], layer: int, first: int) -> None:
    machine = machine_of(64 * GIB, *cards)
    places = memory.place(layers, {}, machine, layer, first)
    assert len(places) == layers
    assert [*dict.fromkeys(places)] == sorted(set(places), key=lambda name: (name == "cpu", name))
    for name in set(places) - {"cpu"}:
        taken = places.count(name) * layer + (first if name == "cuda:0" else 0)
        assert taken + memory.SPARE <= (machine.free(name) or 0)


def test_as_many_conversations_as_there_is_room_for() -> None:
    """A ChatGLM-6B's takes 896 MiB in half precision."""
    for free, devices, count in (
        (Machine(6 * GIB), ("cpu",) * 28, 5),
        (Machine(1 * GIB), ("cpu",) * 28, 1),
        (machine_of(64 * GIB, 2 * GIB), ("cuda:0",) * 28, 1),
        (machine_of(6 * GIB, 2 * GIB), ("cuda:0",) * 14 + ("cpu",) * 14, 3),
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
