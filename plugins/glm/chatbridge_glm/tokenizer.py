"""ChatGLM's tokenizer: a SentencePiece model with tokens of its own for line ends, tabs and runs of blanks.

Knows `ice_text.model`, texts and ids; knows no model. Text never becomes a control token, whatever people type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError

_BLANKS = re.compile(" {2,80}")
_BLANK = re.compile(r"<\|blank_([0-9]{1,2})\|>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_LINE_END, _TAB = "<n>", "<|tab|>"
_SPACE = "▁"
_CONTROLS = (
    "<unk>", "<s>", "</s>", "<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>",
    "<dBLOCK>",
)  # fmt: skip
"""Control tokens of the family, whatever type a file gives them."""

_CONTROL = re.compile("|".join(map(re.escape, _CONTROLS)))
_KEPT, _LONGEST_KEPT = 512, 8192
"""How many texts are remembered with their ids, and their characters at most."""


class GlmTokenizer:
    """`path`: the SentencePiece model. `anchor`: one of its pieces with the id that the model has for it.

    The ids of all others follow: icetk, and the first ChatGLM-6B, have 20,000 of pictures before them. `specials`:
    control tokens by their text where the file does not have them. Raises ModelLoadError for files that don't fit. Safe
    to call from any thread.
    """

    def __init__(self, path: Path, anchor: tuple[str, int], specials: Mapping[str, int] | None = None) -> None:
        import sentencepiece

        _refuse_stand_ins(path)
        try:
            self._pieces: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
            count = self._pieces.vocab_size()
            names = self._pieces.id_to_piece(list(range(count)))
        except (RuntimeError, OSError, ValueError) as error:  # also for names that are no UTF-8
            raise ModelLoadError(f"{path}: this is no SentencePiece model: {error}") from error
        self._offset = offset = anchor[1] - self._pieces.piece_to_id(anchor[0])
        if self._pieces.id_to_piece(anchor[1] - offset) != anchor[0] or offset < 0:
            raise ModelLoadError(
                f"{path}: the model's id for {anchor[0]} is {anchor[1]}, and this vocabulary has none that fits: they "
                "do not belong together"
            )
        kinds = self._pieces
        # The token for unknown words is one of them: with bytes for all characters, nothing that is typed becomes it.
        own = {name: number + offset for number, name in enumerate(names) if kinds.is_control(number)}
        unknown = {name: number + offset for number, name in enumerate(names) if kinds.is_unknown(number)}
        own |= unknown | {name: number + offset for number, name in enumerate(names) if name in _CONTROLS}
        self.specials: Mapping[str, int] = {**own, **(specials or {})}
        if _LINE_END not in names or _TAB not in names:
            raise ModelLoadError(f"{path}: this is no vocabulary of ChatGLM's: it has no token {_LINE_END}")
        controls = {*self.specials.values()}
        self._bytes = [b"" if n + offset in controls else _bytes_of(name) for n, name in enumerate(names)]
        self.size = max([count + offset - 1, *self.specials.values()]) + 1
        self.fingerprint = f"glm-{offset}-{blake2b(path.read_bytes(), digest_size=12).hexdigest()}"
        self._never = frozenset(controls - {*unknown.values()})
        self._line_end = self._pieces.piece_to_id(_LINE_END)
        self._remembered = lru_cache(_KEPT)(self._encode)

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text, never a control token's. Half characters (lone surrogates) become "?"."""
        if len(text) > _LONGEST_KEPT:
            return list(self._encode(text, start))
        return list(self._remembered(text, start))

    def special(self, token: str) -> int | None:
        """The id of a control token by its text."""
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids; control tokens have none, nor ids that stand for nothing."""
        offset, known = self._offset, self._bytes
        return b"".join([known[one - offset] for one in tokens if offset <= one < offset + len(known)])

    def _encode(self, text: str, start: bool) -> tuple[int, ...]:
        text = text.encode("utf-8", "replace").decode()
        text = text.replace("\n", _LINE_END).replace("\t", _TAB)
        text = _BLANKS.sub(lambda run: f"<|blank_{len(run[0])}|>", text)
        ids = self._piecewise(text, start)
        if self._never.isdisjoint(ids):
            return ids
        # A file that calls control tokens user-defined ones finds them in text: there their names are cut in two.
        cuts = [0, *(found.start() + 1 for found in _CONTROL.finditer(text)), len(text)]
        parts = [self._piecewise(text[at:end], start and not at) for at, end in pairwise(cuts)]
        return tuple([one for part in parts for one in part if one not in self._never])

    def _piecewise(self, text: str, start: bool) -> tuple[int, ...]:
        if start:
            ids = self._pieces.encode(text)
        else:
            # A blank is put before every text; one that goes on behind something gets none. No piece crosses a line
            # end, so what comes behind one is what would come behind anything.
            ids = self._pieces.encode(_LINE_END + text)
            ids = ids[ids.index(self._line_end) + 1 :]
        return tuple([one + self._offset for one in ids])


def _bytes_of(piece: str) -> bytes:
    if piece == _LINE_END:
        return b"\n"
    if piece == _TAB:
        return b"\t"
    if blanks := _BLANK.fullmatch(piece):
        return b" " * int(blanks[1])
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace(_SPACE, " ").encode()


def _refuse_stand_ins(path: Path) -> None:
    if not path.exists():
        raise ModelLoadError(
            f"{path}: there is no such file; the tokenizer ice_text.model belongs in the folder of the model"
        )
    with path.open("rb") as file:
        if file.read(8) == b"version ":
            raise ModelLoadError(
                f"{path}: this is a git-lfs pointer and not the file itself; run `git lfs pull` in its folder, or "
                "download the file"
            )
