"""Memory is reckoned before anything is loaded: what a plan takes, which strategy fits, and words for what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chatbridge_rwkv import memory, planning
from chatbridge_rwkv.checkpoint import Checkpoint, read
from chatbridge_rwkv.options import RwkvOptions
from chatbridge_rwkv.strategy import StrategyError

from chatbridge import Card, Machine, MemoryPlan, ModelLoadError, TensorInfo, refuse_what_does_not_fit, this_machine

from .conftest import CONVERTED, V4, V7, Load, options_for, there

GIB = 2**30


def machine_of(main: int, *cards: int) -> Machine:
    """So many bytes of main memory, and cards with so many each."""
    return Machine(main, tuple(Card("card", card) for card in cards))


def planned(checkpoint: Checkpoint, strategy: str, machine: Machine) -> MemoryPlan:
    return planning.memory_plan(RwkvOptions(path=checkpoint.path), checkpoint, strategy, machine)


def half(shape: tuple[int, int]) -> TensorInfo:
    """A tensor in two bytes for each number."""
    return TensorInfo(shape, "float16", 2 * shape[0] * shape[1])


def raven(version: float = 4.0, layers: int = 32, width: int = 4096) -> Checkpoint:
    """Raven 7B by its sizes, in a file of 16 bits."""
    tensors = {"emb.weight": half((50277, width)), "head.weight": half((50277, width))}
    for number in range(layers):
        for name in ("att.key", "att.value", "att.receptance", "att.output", "ffn.receptance"):
            tensors[f"blocks.{number}.{name}.weight"] = half((width, width))
        tensors[f"blocks.{number}.ffn.key.weight"] = half((4 * width, width))
        tensors[f"blocks.{number}.ffn.value.weight"] = half((width, 4 * width))
    return Checkpoint(Path("raven.pth"), version, layers, width, width, 0, 0, 50277, tensors, None, False, "f")


@pytest.mark.parametrize(
    ("free", "strategy"),
    [
        (machine_of(64 * GIB, 24 * GIB), "cuda fp16"),
        (machine_of(64 * GIB, 8 * GIB, 24 * GIB), "cuda:1 fp16"),
        (machine_of(64 * GIB, 10 * GIB, 10 * GIB), "cuda:0 fp16 *16 -> cuda:1 fp16 *17"),
        (machine_of(64 * GIB, 10 * GIB), "cuda fp16i8"),
        (machine_of(64 * GIB, 4 * GIB), "cuda fp16i8 *16 -> cpu fp32"),
        (Machine(64 * GIB), "cpu fp32"),
        (Machine(20 * GIB), "cpu bf16"),
        (Machine(0), "cpu fp32"),  # nothing can be told, so nothing is forbidden
    ],
)
def test_auto_takes_the_most_exact_that_fits(free: Machine, strategy: str) -> None:
    chosen = planning.choose(raven(), free)
    assert chosen == strategy
    refuse_what_does_not_fit(planned(raven(), chosen, free))


def test_rwkv_7_has_no_weights_of_8_bits() -> None:
    assert planning.choose(raven(7.0), machine_of(20 * GIB, 10 * GIB)) == "cpu bf16"
    for strategy, at in (("cuda fp16i8", 9), ("cuda fp16 *3+", 10), ("cuda fp16 -> cpu fp32", 11)):
        with pytest.raises(StrategyError, match="RWKV-7 is loaded by one device and one type") as raised:
            memory.slots_for(raven(7.0), strategy)
        assert raised.value.at == at


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    def refused(strategy: str, machine: Machine, said: str) -> None:
        with pytest.raises(ModelLoadError, match=said):
            refuse_what_does_not_fit(planned(raven(), strategy, machine))

    card, small = machine_of(64 * GIB, 10 * GIB), Machine(6 * GIB)
    refused("cuda fp16", card, r"cuda would need 14\.\d GiB, and 10\.0 GiB are free; strategy: cuda fp16i8 would fit")
    refused("cpu fp32", Machine(20 * GIB), r"main memory, and 20\.0 GiB are free; strategy: cpu bf16 would fit")
    refused(
        planning.choose(raven(), small), small, r"raven\.pth: loading needs 1\d\.\d GiB .* are free; take a smaller"
    )


def test_the_report_says_which_layer_goes_where() -> None:
    slots = memory.slots_for(raven(), "cuda fp16i8 *20 -> cpu fp32")
    said = memory.report(slots, memory.needs(raven(), slots))
    assert said == (
        "layers 1 to 20 on cuda in fp16 with weights of 8 bits, 4.1 GiB; layers 21 to 32 and the head on cpu in fp32, "
        "10.5 GiB; with the embedding, 10.9 GiB on cpu, 4.1 GiB on cuda"
    )
    slots = memory.slots_for(raven(), "cuda fp16 *1+")
    said = memory.report(slots, memory.needs(raven(), slots))
    assert said.startswith("layer 1 on cuda in fp16, 416.0 MiB; layers 2 to 32 and the head on cuda in fp16, ")
    assert ", kept in main memory and copied for each use; with the embedding, " in said


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16", "cpu fp32i8", "cpu bf16i8 *1 -> cpu fp32"])
def test_reckoned_bytes_are_the_bytes_that_are_there(strategy: str) -> None:
    from chatbridge_rwkv import loading

    loaded = loading.load(options_for(V4, strategy=strategy), lambda share, doing: None)
    there = sum(tensor.nbytes for tensor in loaded.package_model._model.w.values())
    reckoned = sum(memory.needs(loaded.checkpoint, loaded.slots).devices.values())
    assert abs(there - reckoned) < 0.05 * there


def test_a_converted_file_takes_what_it_holds() -> None:
    checkpoint = read(there(CONVERTED))
    assert checkpoint.converted
    slots = memory.slots_for(checkpoint, checkpoint.converted)
    held = sum(tensor.size * tensor.width for tensor in checkpoint.tensors.values())
    assert sum(memory.needs(checkpoint, slots).devices.values()) == held


def test_auto_is_what_this_machine_has_room_for(model_of: Load) -> None:
    machine = this_machine()
    assert machine.main > 0
    for path in (V4, V7):
        strategy = model_of(path).info.details["strategy"]
        assert strategy == planning.choose(read(path), replace(machine, cards=machine.cards))
