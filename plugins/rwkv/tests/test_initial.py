"""Initial states by name: a channel's conversations begin with one, and nobody else's do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_rwkv.model import RwkvModel

from chatbridge import ModelLoadError, Request, Row, Sampling, Text
from chatbridge.engine.engine import Engine
from chatbridge.testing import finish_all

from .conftest import IDS, V4, V7, Load, sizes
from .weights import write_model


def tuned(path: Path, layers: int, heads: int, size: int, seed: int = 1) -> Path:
    """A file as state tuning leaves it."""
    generator = torch.Generator().manual_seed(seed)
    states = {
        f"blocks.{number}.att.time_state": 9 * torch.randn(heads, size, size, generator=generator)
        for number in range(layers)
    }
    torch.save(states, path)
    return path


def tuned_v7(path: Path, seed: int = 1) -> Path:
    """One for the recorded RWKV-7."""
    size = sizes(V7)
    return tuned(path, size.layers, size.heads, size.head_size, seed)


def by_the_package(model: RwkvModel, version: float, path: Path, ids: list[int]) -> Any:
    """The logits after `ids` as ChatRWKV's demos begin with such a file: transposed before RWKV-7, as it is there."""
    package = model._arithmetic._model  # type: ignore[union-attr]
    raw = torch.load(path)
    state = []
    for number in range(len(raw)):
        memory = raw[f"blocks.{number}.att.time_state"].float()
        memory = memory.contiguous() if version == 7 else memory.transpose(1, 2).contiguous()
        state += [torch.zeros(64), memory, torch.zeros(64)]
    with torch.inference_mode():
        logits, _ = package.forward(ids, state)
    return logits


@pytest.mark.parametrize("version", [5.2, 6.0, 7.0])
def test_a_tuned_state_is_used_as_chatrwkv_uses_it(version: float, tmp_path: Path, model_of: Load) -> None:
    model_path = write_model(tmp_path / "m.pth", version)
    path = tuned(tmp_path / "state.pth", 2, 2, 32)
    options = {"adapters": {"teller": {"init_state": path}}, "batched": False, "jit": False}
    model = model_of(model_path, **options)
    found = model.logits(model.new_state(adapter="teller"), IDS)[-1]
    torch.testing.assert_close(torch.from_numpy(found), by_the_package(model, version, path, IDS), rtol=0, atol=2e-4)
    plain = model.logits(model.new_state(), IDS)[-1]
    assert abs(plain - found).max() > 0.01
    if version == 7:
        ours = model_of(model_path, **{**options, "batched": True})
        torch.testing.assert_close(ours.logits(ours.new_state(adapter="teller"), IDS)[-1], found, rtol=0, atol=2e-4)


def test_the_file_itself_is_never_changed(tmp_path: Path, model_of: Load) -> None:
    path = tuned_v7(tmp_path / "state.pth")
    model = model_of(V7, adapters={"teller": {"init_state": path}})
    first = model.new_state(adapter="teller")
    before = first.save()
    beside = model.new_state()
    model.step([Row(first, IDS, None), Row(beside, IDS, None)])
    assert model.new_state(adapter="teller").save() == before
    assert model.new_state().save() != before
    assert beside.save() != first.save()


def test_channels_with_and_without_one_do_not_mix(tmp_path: Path, model_of: Load) -> None:
    paths = {name: tuned_v7(tmp_path / f"{name}.pth", seed) for seed, name in enumerate(("a", "b"))}
    model = model_of(V7, adapters={name: {"init_state": path} for name, path in paths.items()})
    assert set(model.info.adapters) == {"a", "b"}
    assert len(set(model.info.adapters.values())) == 2
    assert model.info.details["adapters"] == "a, b"

    def asked(adapter: str, number: int = 0) -> Request:
        sampling = Sampling(temperature=0, max_tokens=10)
        return Request((Text("Once"),), id=f"{adapter}-{number}", sampling=sampling, adapter=adapter)

    alone = {name: finish_all(Engine(model), [asked(name)])[f"{name}-0"].reply.text for name in ("", "a", "b")}
    assert len(set(alone.values())) == 3
    engine = Engine(model)
    for number in range(2):
        together = finish_all(engine, [asked(name, number) for name in ("", "a", "b")])
        assert {name: together[f"{name}-{number}"].reply.text for name in alone} == alone
        assert all(finish.usage.cached == (finish.usage.prompt - 1) * number for finish in together.values())


def test_a_whole_state_can_be_one_too(tmp_path: Path, model_of: Load, v4: RwkvModel) -> None:
    state = v4.new_state()
    v4.step([Row(state, IDS, None)])
    whole = v4.exported(state)
    torch.save({"state": whole}, tmp_path / "whole.pth")
    torch.save(whole, tmp_path / "list.pth")
    model = model_of(V4, adapters={name: {"init_state": tmp_path / f"{name}.pth"} for name in ("whole", "list")})
    expected = v4.logits(state, [5])
    for name in ("whole", "list"):
        # Weights that lie elsewhere in memory may be added up in another order.
        torch.testing.assert_close(model.logits(model.new_state(adapter=name), [5]), expected, rtol=0, atol=1e-4)


def states(layers: int, *shape: int) -> dict[str, Any]:
    return {f"blocks.{number}.att.time_state": torch.ones(shape) for number in range(layers)}


def test_files_that_do_not_fit(tmp_path: Path, model_of: Load) -> None:
    size = sizes(V7)
    own = (size.heads, size.head_size, size.head_size)
    cases: list[tuple[Path, Any, str]] = [
        (V4, states(1, 1, 2, 2), "RWKV-4 has no states of this kind"),
        (V7, states(size.layers - 1, *own), f"it has no blocks.{size.layers - 1}.att.time_state"),
        (V7, states(size.layers, size.heads, 1, 2), "the model's are"),
        (V7, states(size.layers + 1, *own), f"the model has {size.layers} layers"),
        (V7, {"emb.weight": torch.ones(2)}, "neither blocks.N.att.time_state nor a list"),
        (V7, [torch.ones(2)], f"it has 1 tensors, and {3 * size.layers} are expected"),
        (V7, [torch.ones(2)] * 3 * size.layers, "where"),
    ]
    for model, content, why in cases:
        torch.save(content, tmp_path / "state.pth")
        with pytest.raises(ModelLoadError, match=why):
            model_of(model, adapters={"a": {"init_state": tmp_path / "state.pth"}})
