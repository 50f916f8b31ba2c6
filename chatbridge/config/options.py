"""The base of every plugin's options, and the types of field that options often need. Knows no plugin and no file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationInfo


class Options(BaseModel):
    """What a backend or a frontend accepts in bots.yaml: subclass it, one field for each key.

    Unknown keys are errors; each `Field(description=…)` shows in `chatbridge schema`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


Secret = SecretStr
"""A token or password: never printed. `get_secret_value()` tells it; bots.yaml may give `<key>_file` instead."""


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    path = path.expanduser()
    return path if base is None or path.is_absolute() else Path(base) / path


ConfigPath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path in bots.yaml; a relative one is looked for beside bots.yaml, wherever the program was started."""
