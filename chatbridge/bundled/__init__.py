"""The model that ships with chatbridge, as a file; knows nothing of how a model is run."""

from __future__ import annotations

from pathlib import Path


def guide_path() -> Path:
    """The bundled `guide` model: a GGUF file of a few megabytes that any GGUF backend can load."""
    return Path(__file__).with_name("guide.gguf")
