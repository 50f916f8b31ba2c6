"""GLM-130B from any number of shards into any other, as it is or packed in 8 or 4 bits; shard by shard.

Shards are cut and joined as tools/convert_tp.py of THUDM/GLM-130B does it, and packed after that, so that each has
scales of its own. Knows names and files; leaves pieces to `parallel.py` and rows to `new_tensors.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from chatbridge import (
    Conversion,
    ModelLoadError,
    NewTensor,
    TensorFile,
    TorchFile,
    Weights,
    check_space,
    hashed,
    output_folder,
    read_tensors,
    write_tensors,
)
from chatbridge_glm.checkpoint import EMBEDDING, MATRICES, bits_of, layer_key, shards_of
from chatbridge_glm.companions import copy_companions
from chatbridge_glm.new_tensors import Part, copied, packed
from chatbridge_glm.parallel import Cut, Piece, cut_of, pieces, scale_of_columns

_GROUP = "module"


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's shards. `within`: the folder that they are in, by its name, "" for that of the checkpoint."""

    path: Path
    within: str
    headers: Sequence[TensorFile]
    bits: int
    heads: int

    @property
    def degree(self) -> int:
        return len(self.headers)


def check(work: Conversion, degree: int | None, bits: int) -> None:
    """Raises ModelLoadError for what can't be converted, or has no room."""
    source = _read(work, degree, bits)
    wanted = degree or source.degree
    with ExitStack() as opened:
        shards = [opened.enter_context(Weights([header])) for header in source.headers]
        sizes = [_total(_tensors(shards, rank, wanted, bits)) for rank in range(wanted)]
    check_space(work.output, sum(sizes))


def convert(work: Conversion, degree: int | None, bits: int) -> None:
    """Write the folder. Raises ModelLoadError."""
    source = _read(work, degree, bits)
    wanted = degree or source.degree
    work.report.sources.extend(hashed((header.path for header in source.headers), work.progress))
    key = repr((wanted, bits, [one.sha256 for one in work.report.sources]))
    with ExitStack() as opened:
        shards = [opened.enter_context(Weights([header])) for header in source.headers]
        made = [list(_tensors(shards, rank, wanted, bits)) for rank in range(wanted)]
        folder = opened.enter_context(output_folder(work.output, key))
        work.report.step("compare", **_alike(shards))
        into = folder / source.within
        into.mkdir(exist_ok=True)
        work.progress.begin(f"writing {wanted} shard{'s' * (wanted > 1)}", sum(map(_total, made)))
        for rank, tensors in enumerate(made):
            path = into / f"mp_rank_{rank:02}_model_states.pt"
            if path.exists():  # by a run that was killed later
                work.progress.advance(_total(tensors))
                continue
            container = TorchFile(tensors, group=_GROUP, values=source.headers[0].values)
            write_tensors(path, container, tensors, f"{key} {rank}", work.progress)
        names = copy_companions(source.path, folder, tokenizer="ice_text.model")
        if source.within:
            (folder / "latest").write_text(source.within, encoding="utf-8")
        nbytes = sum(map(_total, made))
        work.report.step("cut", shards={"from": source.degree, "to": wanted}, bits=bits or source.bits, nbytes=nbytes)
        work.report.step("copy", files=names, tokenizer="ice_text.model" in names)
        work.report.write(folder, ("torch", "numpy"))


def _read(work: Conversion, degree: int | None, bits: int) -> Source:
    path = work.source.path
    found = shards_of(path)
    headers = []
    for file in found:
        header = read_tensors(file.path)
        # A training's other groups, as those of its optimizer, are no part of the model.
        headers.append(replace(header, tensors=header.groups[_GROUP]))
    first = headers[0].tensors
    for name in (f"{EMBEDDING}.weight", layer_key(0, f"{MATRICES[0]}.weight")):
        if name not in first or len(first[name].shape) != 2:
            raise ModelLoadError(f"{headers[0].path}: this is no GLM-130B: it has no matrix {name}")
    width = first[f"{EMBEDDING}.weight"].shape[1]
    folder = found[0].path.parent
    within = "" if folder == path else folder.name
    source = Source(path, within, headers, bits_of(path, first, layer_key(0, MATRICES[0]), width), work.source.heads)
    _refuse_useless(source, degree or source.degree, bits)
    return source


def _refuse_useless(source: Source, wanted: int, bits: int) -> None:
    """Raises ModelLoadError where there is nothing to do, or what is asked for can't be had of these files."""
    half = "take the model in half precision"
    if source.bits and bits not in (0, source.bits):
        raise ModelLoadError(
            f"{source.path}: its weights have {source.bits} bits, and {bits} are asked for: what was lost in packing "
            f"is not in them; {half}"
        )
    if wanted == source.degree and bits in (0, source.bits):
        packed_in = f" of {source.bits} bits" if source.bits else ""
        raise ModelLoadError(f"{source.path}: it has {wanted} shards{packed_in} already; there is nothing to do")
    if source.heads and source.heads % wanted:
        raise ModelLoadError(f"{source.path}: its {source.heads} heads can't be cut into {wanted} equal parts")
    if source.bits and wanted % source.degree:
        raise ModelLoadError(
            f"{source.path}: its {source.degree} shards are packed in {source.bits} bits, each by scales of its own, "
            f"and can only be cut further, into a multiple of {source.degree}, and not be joined into {wanted}; {half}"
        )


def _tensors(shards: Sequence[Weights], rank: int, wanted: int, bits: int) -> Iterator[NewTensor]:
    """Those of one new shard, in the order of the old ones."""
    degree = len(shards)
    for name in shards[0]:
        stored = [shard[name] for shard in shards]
        if scale_of_columns(name):  # those of the shard that its columns were in
            part = Part(stored, [Piece(rank * degree // wanted, 0, stored[0].rows)])
        else:
            try:
                part = Part(stored, pieces(cut_of(name), stored[0].shape, degree, rank, wanted))
            except ValueError as error:
                raise ModelLoadError(f"{stored[0].path}: {name}: {error}") from error
        matrix = name.startswith("transformer.layers.") and name.removesuffix(".weight").endswith(MATRICES)
        if bits and matrix and f"{name}_scale" not in shards[0]:
            yield from packed(name, part, bits)
        else:
            yield copied(name, part)


def _alike(shards: Sequence[Weights]) -> Mapping[str, object]:
    """Whether the tensors that each shard has all of are the same in all of them. The first's are taken, anyway."""
    names = [name for name in shards[0] if cut_of(name) is Cut.SAME and not scale_of_columns(name)]
    apart = []
    for name in names:
        first = shards[0][name].read()
        if not all(np.array_equal(first, shard[name].read()) for shard in shards[1:]):
            apart.append(name)
    return {"uncut": len(names), "of which differ between shards": apart}


def _total(tensors: Iterator[NewTensor] | Sequence[NewTensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
