"""The base of every plugin's options, and the types of field that options often need. Knows no plugin and no file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo


class Options(BaseModel):
    """What a backend or a frontend accepts in bots.yaml: subclass it, one field for each key.

    Unknown keys are errors; each `Field(description=…)` shows in `chatbridge schema`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Secret = SecretStr
"""A token or password: never printed. `get_secret_value()` tells it; bots.yaml may give `<key>_file` instead."""


def _not_empty(path: object) -> object:
    if path == "" or "\0" in str(path):
        raise ValueError("this can't be the path of a file")
    return path


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError("there is no home folder of that name here") from error
    return path if base is None else Path(base) / path


ConfigPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_beside_the_file)]
"""A path in bots.yaml; a relative one is looked for beside bots.yaml, wherever the program was started."""
