"""Layers that compute a few conversations' tokens in another order give the same numbers."""

from __future__ import annotations

import pytest
import torch
from chatbridge_transformers.products import FewRows, quicken
from torch import nn

needs = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="nothing is replaced without MKL")


@needs
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 8), (3, 2), (1, 9), (0, 1)])
def test_a_layer_gives_the_same_numbers_whatever_the_number_of_rows(bias: bool, shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(512, 640, bias=bias))
    with torch.inference_mode():
        expected = model(given := torch.randn(*shape, 512))
        quicken(model)
        found = model(given)
    assert type(model[0]) is FewRows
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@needs
def test_only_layers_that_gain_by_it_are_replaced() -> None:
    class Own(nn.Linear):  # type: ignore[misc]
        """Somebody else's layer, with a forward of its own."""

    model = nn.ModuleDict(
        {
            "large": nn.Linear(512, 640),
            "small": nn.Linear(16, 64),
            "wide": nn.Linear(1024, 512),
            "rounded": nn.Linear(512, 640, dtype=torch.bfloat16),
            "own": Own(512, 640),
            "elsewhere": nn.Linear(512, 640, device="meta"),
        }
    )
    quicken(model)
    assert [name for name, layer in model.items() if type(layer) is FewRows] == ["large"]
