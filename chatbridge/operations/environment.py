"""The environment that child processes get: what their libraries need, and no secrets. Knows names, no values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

_KEPT = re.compile(
    r"PATH|HOME|USERPROFILE|APPDATA|LOCALAPPDATA|SYSTEMROOT|WINDIR|COMSPEC|PATHEXT|TEMP|TMP|TMPDIR|LANG|LC_\w+|TZ|"
    r"VIRTUAL_ENV|LD_LIBRARY_PATH|DYLD_\w+|PYTHON\w*|XDG_\w+|"
    r"(CUDA|NVIDIA|NCCL|HIP|ROCM|ROCR|HSA|GGML|LLAMA|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|VECLIB|NUMEXPR|TORCH|PYTORCH|"
    r"TRITON|RWKV|XLA|JAX|VK)_\w+|HF_(HOME|HUB_CACHE|HUB_OFFLINE|ENDPOINT)|TRANSFORMERS_(CACHE|OFFLINE)",
    re.IGNORECASE,
)
"""Variables that native libraries go by, and nobody keeps secrets in, whatever their names hold."""

_SECRET = re.compile(
    r"TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|COOKIE|DSN|PRIVATE|SIGN|(API|ACCESS|_|^)_?KEYS?(_|$)", re.IGNORECASE
)
"""What names of secrets have in them."""

_PLAIN = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY"})
"""Names that look like secrets' and are none."""


def child_environment(hidden: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of `environment` (`os.environ` unless given) that a child process may have.

    Left out are those of the names `hidden`, such as the ones that bots.yaml takes values from, every variable that has
    the same value as one of them, those whose names look like a secret's, and addresses with a password in them. What
    native libraries go by (PATH, HOME, LD_LIBRARY_PATH, CUDA_…, OMP_…, HF_HOME) stays in any case.
    """
    given = os.environ if environment is None else environment
    names = {name.upper() for name in hidden}
    values = {value for name, value in given.items() if name.upper() in names and value and not _KEPT.fullmatch(name)}
    return {
        name: value
        for name, value in given.items()
        if not _password(value)
        and (
            _KEPT.fullmatch(name) is not None
            or (name.upper() not in names and value not in values and (name in _PLAIN or not _SECRET.search(name)))
        )
    }


def _password(value: str) -> bool:
    """Whether a value is an address with a password in it."""
    if "://" not in value or "@" not in value:
        return False
    try:
        return urlsplit(value).password is not None
    except ValueError:
        return True
