"""Which file of the original LLaMA a key is: told by its hash and, where that is not known, by its tensors' shapes.

Knows the files that projects have encrypted their weights with; encrypts and decrypts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.families import LLAMA_ROWS, LLAMA_SIZES
from chatbridge.model_files.kinds import exists, kind_of
from chatbridge.model_files.reading import files_in
from chatbridge.model_files.shapes import family_of, measure, without_prefix
from chatbridge.model_files.torch_files import read_torch_zip
from chatbridge.model_tools.progress import WorkProgress
from chatbridge.model_tools.report import Source, hashed

NAME = "consolidated.00.pth"
"""What the key is called in the original LLaMA: BELLE's models/README names this file alone, also for 13B models."""


@dataclass(frozen=True, slots=True)
class Original:
    """A file of the LLaMA that Meta published in February 2023."""

    model: str
    sha256: str

    def __str__(self) -> str:
        return f"{NAME} of LLaMA {self.model} (sha256 {short(self.sha256)})"


ORIGINALS = (
    Original("7B", "700df0d3013b703a806d2ae7f1bfb8e59814e3d06ae78be0c66368a50059f33d"),
    Original("13B", "745bf4e29a4dd6f411e72976d92b452da1b49168a4f41c951cfcc8051823cf08"),
)
"""Those that BELLE names, as Chinese-LLaMA-Alpaca's SHA256.md lists them. EXT-13B, too, wants that of 7B."""

AS_PUBLISHED = "as Meta published it in February 2023"
SEE = 'more is in the README under "Encrypted weights"'


def short(sha256: str) -> str:
    """As much of a hash as people compare; the report and the README have all of it."""
    return f"{sha256[:12]}…"


def keys_at(path: Path) -> list[Path]:
    """The files that may be the key: `path` itself or, in a folder of the original LLaMA, `consolidated.00.pth`.

    In the folder above, which has one for each size, all of them. Raises ModelLoadError where there is none.
    """
    if not exists(path):
        raise ModelLoadError(
            f"{path}: there is no such file for the key; give {NAME} of the original LLaMA 7B or 13B, or its folder"
        )
    if not path.is_dir():
        return [path]
    found = [file for folder in (path, *_folders(path)) if (file := folder / NAME).exists()]
    if found:
        return found
    converted = " (it is converted, and only Meta's own files decrypt)" if (path / "config.json").exists() else ""
    raise ModelLoadError(
        f"{path}: there is no {NAME} here{converted}; give that of LLaMA 7B or 13B, {AS_PUBLISHED}; {SEE}"
    )


def check_key(path: Path) -> str:
    """What the header tells of a key, in words, "" where it tells nothing. Raises ModelLoadError for a part of one."""
    if kind_of(path) != "torch":
        return ""
    tensors = read_torch_zip(path).weights
    family = family_of(tensors, ("meta",))
    if family is None:
        return "by its tensors it is no LLaMA in Meta's form"
    sizes = measure(family, [without_prefix(family, tensors)])
    size = LLAMA_SIZES.get((sizes.layers, sizes.width))
    if size is None:
        return f"by its tensors it is a LLaMA of {sizes.layers} layers with a width of {sizes.width:,}"
    rows = tensors[family.embedding].shape[0] if family.embedding in tensors else 0
    more = f" with {rows:,} rows{_named(rows)}" if rows != 32000 else ""
    return f"by its tensors it is a LLaMA {size}{more}"


def identify(path: Path, originals: Sequence[Original], progress: WorkProgress) -> tuple[Source, Original | None]:
    """The key's size and hash, and which original it is. Raises ModelLoadError for one that can't be read."""
    (source,) = hashed([path], progress)
    return source, next((original for original in originals if original.sha256 == source.sha256), None)


def unlike(source: Source, originals: Sequence[Original], about: str, why: str) -> ModelLoadError:
    """The error for a key that does not fit. `about`: what its header tells; `why`: how that was found."""
    is_one = [original for original in originals if original.sha256 == source.sha256]
    told = f"is {is_one[0]}" if is_one else f"has the sha256 {short(source.sha256)}{f', and {about}' if about else ''}"
    wanted = " or ".join(f"{one.model} ({short(one.sha256)})" for one in originals if one not in is_one)
    return ModelLoadError(
        f"{source.path}: this is not the key: {why}. It {told}; wanted is {NAME} of LLaMA {wanted}, {AS_PUBLISHED}; "
        f"{SEE}"
    )


def _folders(path: Path) -> Iterator[Path]:
    yield from (folder for folder in files_in(path) if folder.is_dir())


def _named(rows: int) -> str:
    return f" ({LLAMA_ROWS[rows]})" if LLAMA_ROWS.get(rows) else ""
