"""Lets `chatbridge doctor` do without the libraries of the engines, which take seconds to load."""

from __future__ import annotations

from pathlib import Path

LIBRARIES = ("llama_cpp", "torch")


def leave_out_engines(site: Path) -> None:
    """Programs that have this folder as their PYTHONPATH find the libraries damaged, and go on without."""
    site.mkdir(exist_ok=True)
    for library in LIBRARIES:
        (site / f"{library}.py").write_text("raise ImportError('left out, since loading it takes seconds')\n", "utf-8")
