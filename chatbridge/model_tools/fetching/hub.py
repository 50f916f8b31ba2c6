"""What a repository on Hugging Face has: its files with sizes and checksums at one commit, and which are wanted.

Asks by huggingface_hub, an extra (`hub`), which knows the endpoint, the token and how the hub
says no. It lists alone: the bytes come by `download.py`, since from version 2 on huggingface_hub throws away what has
come when a download ends early, and a model is fetched for hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import count
from typing import TYPE_CHECKING

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.fetching.http import PASSING, TIMEOUT, retry_after
from chatbridge.model_tools.fetching.patience import Patience
from chatbridge.model_tools.fetching.remote import OWN, HubSource, Remote, RemoteFile, safe_name

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo

MAX_BYTES = 50 * 10**9
"""Of one file: what is larger the hub sends by its own protocol alone (huggingface_hub, MAX_HTTP_DOWNLOAD_SIZE)."""

_PART = re.compile(r"(.*)-\d{5}-of-\d{5}(\.\w+)")
_MANY = 12
"""Files that an error names."""

_NO_MODELS = (".git*", OWN)
"""What belongs to git, and what this program writes itself."""

_NEVER = (
    "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot", "*.tflite", "*.mlmodel", "*.mlpackage/*", "onnx/*",
    "openvino/*", "coreml/*", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.mp4", "*.pdf", "mmproj*", "*/mmproj*",
    "*optimizer.pt", "training_args.bin", "checkpoint-*/*", "runs/*",
)  # fmt: skip
"""What no backend reads: other programs' forms, pictures, and what a training leaves behind."""

_BESIDE_SAFETENSORS = (
    "pytorch_model*.bin",
    "pytorch_model*.index.json",
    "consolidated*",
    "original/*",
    "*.pth",
    "*.pt",
)
"""The same weights once more, where there are safetensors."""


def list_hub(
    source: HubSource, include: Sequence[str] = (), endpoint: str | None = None, patience: Patience | None = None
) -> Remote:
    """The files of a repository that are wanted. `include`: patterns of names (`*q4_k_m.gguf`); unless given, what
    backends read. `endpoint`: another hub; unless given, what HF_ENDPOINT says.

    Raises ModelLoadError: where there is no such repository or file, or several models are there.
    """
    hub = _Hub(source, endpoint, patience or Patience())
    info = hub.ask()
    commit = info.sha or source.revision or "main"
    files = [
        RemoteFile(
            safe_name(one.rfilename),
            hub.address(one.rfilename, commit),
            one.size,
            one.lfs.sha256 if one.lfs else "",
            "" if one.lfs else one.blob_id or "",
        )
        for one in info.siblings or ()
        if not any(fnmatchcase(one.rfilename, pattern) for pattern in _NO_MODELS)
    ]
    if not files:
        raise ModelLoadError(f"{source.repository}: this repository has no files")
    wanted = _included(source, files, [source.file] if source.file else include)
    if not source.file and not include:
        wanted = _readable(source, wanted)
    for file in wanted:
        if (file.size or 0) > MAX_BYTES:
            raise ModelLoadError(
                f"{source.repository}: {file.name} has {file.size:,} bytes, and the hub sends no file of more than "
                f"{MAX_BYTES:,} in this way; fetch it by `hf download` with hf_xet"
            )
    names = {file.name for file in wanted}
    left_out = tuple(file.name for file in files if file.name not in names)
    return Remote(source.repository, tuple(wanted), commit, left_out, hub.token, hub.endpoint)


def _included(source: HubSource, files: Sequence[RemoteFile], patterns: Iterable[str]) -> list[RemoteFile]:
    """Those that a pattern names, or all without one. Raises ModelLoadError for a pattern that names none."""
    names = [file.name for file in files]
    chosen: set[str] = set()
    for pattern in patterns:
        whole = f"{pattern}*" if pattern.endswith("/") else pattern  # a folder is all that is in it
        found = {name for name in names if name == pattern or fnmatchcase(name.lower(), whole.lower())}
        if not found:
            close = get_close_matches(pattern, names, n=1)
            known = f"; did you mean {close[0]!r}?" if close else f"; it has {_some(names)}"
            raise ModelLoadError(f"{source.repository}: no file there is called {pattern!r}{known}")
        chosen |= found
    return [file for file in files if file.name in chosen] if chosen else list(files)


def _readable(source: HubSource, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Those that a backend reads, of one model. Raises ModelLoadError where there are several models."""
    unwanted = [*_NEVER]
    if any(fnmatchcase(file.name, "*.safetensors") and "/" not in file.name for file in files):
        unwanted += _BESIDE_SAFETENSORS
    kept = [file for file in files if not any(fnmatchcase(file.name, pattern) for pattern in unwanted)]
    whole = any(file.name == "config.json" for file in kept)
    for ending in (".gguf", ".pth"):
        sizes: dict[str, int] = {}
        for file in kept:
            if file.name.endswith(ending) and not file.name.startswith("consolidated."):
                name = _PART.sub(r"\1-*\2", file.name)
                sizes[name] = sizes.get(name, 0) + (file.size or 0)
        if len(sizes) > 1 and not (whole and ending == ".pth"):
            some = _some([f"{name} ({size / 2**30:.1f} GiB)" for name, size in sizes.items()])
            raise ModelLoadError(
                f"{source.repository}: it has {len(sizes)} models: {some}; say which one you want, as --include "
                f"'{next(iter(sizes))}'"
            )
    if not kept:
        raise ModelLoadError(
            f"{source.repository}: it has nothing that a backend reads: {_some([f.name for f in files])}"
        )
    return kept


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more


class _Hub:
    """The hub at an endpoint, as huggingface_hub speaks to it. Raises ModelLoadError where that is not installed."""

    def __init__(self, source: HubSource, endpoint: str | None, patience: Patience) -> None:
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            from chatbridge.plugins.packages import install_extra

            raise ModelLoadError(
                f"{source.repository}: fetching from Hugging Face needs an extra, {install_extra('hub')}; "
                f"the address of one file is fetched without it ({error})"
            ) from error
        self._source, self._patience = source, patience
        self._api = HfApi(endpoint=endpoint)
        self.endpoint = str(self._api.endpoint)
        self.token = get_token() or ""

    def ask(self) -> ModelInfo:
        """What it tells of the repository. Raises ModelLoadError."""
        import httpx2
        from huggingface_hub import errors

        name, revision = self._source.repository, self._source.revision or None
        for failures in count(1):
            try:
                return self._api.model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)
            except errors.OfflineModeIsEnabled as error:
                raise ModelLoadError(f"{name}: HF_HUB_OFFLINE is set, so nothing is fetched; unset it") from error
            except errors.HFValidationError as error:
                raise ModelLoadError(f"{name}: this is no name of a repository ({error})") from error
            except errors.HfHubHTTPError as error:
                self._bear(error, failures)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
                # As where a server closes a connection that was kept for the next question.
                self._patience.bear(f"{name}: {self.endpoint} broke the connection ({error})", failures)
            except (httpx2.HTTPError, OSError, ValueError) as error:
                told = f"{name}: {self.endpoint} can't be asked ({type(error).__name__}: {error})"
                raise ModelLoadError(f"{told}; is this machine online?") from error
        raise AssertionError  # count() has no end

    def _bear(self, error: HfHubHTTPError, failures: int) -> None:
        """Wait where another try may help. Raises ModelLoadError, in words."""
        from huggingface_hub import errors

        name, status = self._source.repository, error.response.status_code
        if status in PASSING:
            seconds = retry_after(error.response.headers.get("Retry-After"))
            self._patience.bear(f"{name}: {self.endpoint} answers {status}", failures, seconds)
            return
        token = "the token that is set may not have it" if self.token else "and set HF_TOKEN to a token of yours"
        if isinstance(error, errors.GatedRepoError) or status == 403:
            page = f"{self.endpoint}/{name}"
            raise ModelLoadError(f"{name}: it is for who has accepted its terms: do that at {page}, {token}") from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise ModelLoadError(f"{name}: it has no revision {self._source.revision!r}") from error
        if status in (401, 404):  # the hub says 401 of what is not there, so that nobody learns what is private
            private = "if it is private, " + token.removeprefix("and ")
            raise ModelLoadError(f"{name}: there is no such repository at {self.endpoint}; {private}") from error
        raise ModelLoadError(f"{name}: {self.endpoint} answers {status}") from error

    def address(self, file: str, commit: str) -> str:
        """Where a file is at a commit."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._source.repository, file, revision=commit, endpoint=self.endpoint)
