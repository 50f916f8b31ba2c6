"""What `chatbridge model quantize` shows: the plan, the comparison, and where its plugin is missing.

The plugin's own tests have it at work (`plugins/llama_cpp`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli.model.compare import bars, draw, judgement, lines, show
from chatbridge.cli.model.quantize import llama_converter, plan_lines
from chatbridge.errors import PluginError
from chatbridge.plugins.manager import Plugins

PLAN: dict[str, Any] = {
    "type": "q4_k_m",
    "source_bytes": 4 << 20,
    "bytes": 1 << 20,
    "tensors": {"Q4_K": 1200, "F32": 5},
    "fallbacks": [],
    "requantised": 0,
    "needs_imatrix": False,
    "imatrix": None,
    "without_importance": [],
}

FOUND: dict[str, Any] = {
    "text": "text.txt",
    "text_tokens": 1500,
    "read_tokens": 1500,
    "tokens": 1498,
    "perplexity": {"source": 8.0, "made": 8.4},
    "kl_divergence": {"mean": 0.0123456, "median": 0.01, "p99": 0.25, "max": 1.0},
    "same_top_token": 0.9876,
    "histogram": {"log10_edges": [-3.0, -2.0, -1.0, 0.0, 1.0], "counts": [0, 80, 0, 20]},
}


def printed(plan: dict[str, Any]) -> list[str]:
    return [re.sub(r"\x1b\[\d*m", "", "".join(line)) for line in plan_lines(plan)]


def test_the_plan_says_sizes_and_types() -> None:
    assert printed(PLAN) == ["q4_k_m: 1 MiB, 25% of the source's 4 MiB", "  tensors: 1,200 of Q4_K, 5 of F32"]


def test_tensors_that_fall_back_are_named_by_what_they_become() -> None:
    def fallback(tensor: str, made: str) -> dict[str, Any]:
        return {"tensor": tensor, "columns": 96, "block": 256, "asked": "Q4_K", "made": made}

    fallbacks = [fallback("a", "Q5_0"), fallback("odd", "F16"), *(fallback(name, "Q5_0") for name in "bcde")]
    assert printed(PLAN | {"fallbacks": fallbacks})[2:] == [
        "! Q4_K packs 256 numbers of a row together, which does not fit odd: F16 instead",
        "! Q4_K packs 256 numbers of a row together, which does not fit a, b, c and 2 more: Q5_0 instead",
    ]


def test_what_costs_quality_is_told() -> None:
    told = printed(PLAN | {"requantised": 7, "needs_imatrix": True, "imatrix": "m.dat", "without_importance": ["up"]})
    assert told[2:] == [
        "! 7 tensors were quantised before, and lose more now",
        "! it is made only with an importance matrix: --imatrix",
        "· m.dat has no weights for up",
    ]


def test_a_missing_plugin_is_told_of_with_what_to_install() -> None:
    with pytest.raises(PluginError, match=r"pip install \S*plugins/llama_cpp"):
        llama_converter(Plugins(discover=False))


def test_a_comparison_is_told_in_numbers() -> None:
    assert list(lines(FOUND)) == [
        "compared on 1,498 tokens of text.txt",
        "  perplexity       8 in the source, 8.4 in what was made (+5.00%)",
        "  KL divergence    0.0123 on average; 99 of 100 tokens below 0.25",
        "  same top token   98.76%",
        "  judged           some answers differ from the source's",
        "                   by the mean KL divergence: below 0.01 hardly to be told from the source, up to",
        "                   0.1 some answers differ, above that much is lost",
    ]
    first, *_ = lines(FOUND | {"text_tokens": 4000})
    assert first == "compared on 1,498 tokens of text.txt, whose other 2,500 had no room: see --check-gib"


def test_the_histogram_is_drawn_in_characters_from_the_first_bar_to_the_last() -> None:
    assert list(bars(FOUND["histogram"])) == [
        f"1.0e-02 … 1.0e-01  {'#' * 40} 80",
        "1.0e-01 … 1.0e+00   0",
        f"1.0e+00 … 1.0e+01  {'#' * 10} 20",
    ]


def test_without_matplotlib_the_terminal_shows_it_and_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as where it is not installed
    show(FOUND, tmp_path / "made.gguf")
    told = capsys.readouterr().out
    assert "pip install matplotlib" in told
    assert f"{'#' * 40} 80" in told
    assert list(tmp_path.iterdir()) == []


def test_with_matplotlib_it_is_a_picture_beside_the_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw(FOUND["histogram"], tmp_path / "made.gguf.check.svg")
    assert "<svg" in (tmp_path / "made.gguf.check.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(("mean", "told"), [(0.009, "hardly"), (0.01, "some"), (0.1, "some"), (0.11, "much is lost")])
def test_a_divergence_is_judged_by_the_limits_that_are_told(mean: float, told: str) -> None:
    assert judgement(mean).startswith(told)
