"""The vocabulary of a GGUF file, made from the tokenizer files beside a model's weights. Encodes nothing.

SentencePiece models keep their scores and kinds; byte-level ones their merges; rows of the embedding that no token has
are filled up with unused ones. Where sources disagree the tokenizer is believed, and not config.json, whose ids have
been wrong in many published folders. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.description import disagreement
from chatbridge.model_files.kinds import kind_of
from chatbridge.model_files.reading import read_json_object
from chatbridge.model_files.sentencepiece_files import BPE, CONTROL, NORMAL, UNUSED, USER_DEFINED, read_sentencepiece
from chatbridge.model_files.tokenizer_files import chat_template_in
from chatbridge.model_files.tokenizer_rules import LSTRIP, NFC, RSTRIP
from chatbridge.model_tools.gguf import byte_pairs
from chatbridge.model_tools.gguf.added_tokens import Beside

if TYPE_CHECKING:
    import gguf

Piece = tuple[str, float, int]
"""Text, score and kind of a token."""

PADDING = -10000.0
"""The score of rows that no token has, and of tokens that no merge makes, as llama.cpp's converter has it."""

ADDED = -1000.0
"""The score of tokens that were added to a SentencePiece model, likewise."""

TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""What is read of a tokenizer, as far as it is there."""

UPSTREAM = "llama.cpp's convert_hf_to_gguf.py"
"""What converts the models that are not converted here."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`kind`: "llama" for SentencePiece's, "gpt2" for byte-level ones. `pre`: how words are cut. `tokens`, `kinds`,
    `scores`: by id; `ids`: of "bos", "eos" and others; `adds`: which of them a text gets. `space_prefix`: whether it
    gets a blank. `nfc`, `lstrip`, `rstrip`: as in `TokenizerRules`. `notes`: what people should know of all this."""

    kind: str
    pre: str
    tokens: tuple[bytes, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    ids: Mapping[str, int] = field(default_factory=dict)
    adds: Mapping[str, bool] = field(default_factory=dict)
    space_prefix: bool | None = None
    template: str = ""
    nfc: bool | None = None
    lstrip: tuple[str, ...] = ()
    rstrip: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add `tokenizer.*` to the header of a file."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        writer.add_token_types(list(self.kinds))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        for name, wanted in self.adds.items():
            getattr(writer, f"add_add_{name}_token")(wanted)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        if self.template:
            writer.add_chat_template(self.template)
        if self.nfc is not None:
            writer.add_bool(NFC, self.nfc)
        for key, texts in ((LSTRIP, self.lstrip), (RSTRIP, self.rstrip)):
            if texts:
                writer.add_array(key, list(texts))

    @property
    def unused(self) -> int:
        """How many rows no token has."""
        return self.kinds.count(UNUSED)


def read_vocabulary(folders: Sequence[Path], rows: int, config: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in the first of the folders that has one. `rows`: of the embedding; `config`: of config.json.

    Raises ModelLoadError where there is none, or none that llama.cpp would read as it was meant.
    """
    for folder in folders:
        model, fast = folder / "tokenizer.model", folder / "tokenizer.json"
        if model.is_file() and kind_of(model) == "sentencepiece":
            return _of_sentencepiece(model, Beside.read(folder), rows, config)
        if fast.is_file():
            return _of_json(fast, Beside.read(folder), rows, config)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _of_words(folder / "vocab.json", Beside.read(folder), rows, config)
        if model.is_file():
            return _of_sentencepiece(model, Beside.read(folder), rows, config)  # which says what it is
    raise ModelLoadError(
        f"{folders[0]}: there is no tokenizer here (tokenizer.model or tokenizer.json), and a GGUF file needs one; "
        f"download it into this folder"
    )


def _of_sentencepiece(path: Path, beside: Beside, rows: int, config: Mapping[str, Any]) -> Vocabulary:
    found = read_sentencepiece(path)
    if found.method != BPE:
        raise ModelLoadError(
            f"{path}: this tokenizer is no BPE, as llama.cpp takes LLaMA's to be, but of SentencePiece's kind "
            f"{found.method} (1 is Unigram), and would cut texts in other ways; {UPSTREAM} converts it all the same"
        )
    pieces = dict(enumerate(found.pieces))
    notes = ["it replaces characters before it cuts text, which llama.cpp does not"] if found.normalizes else []
    prefix = beside.config.get("add_prefix_space")
    return _whole(
        path, "llama", "default", pieces, beside, rows, config,
        known=found.ids, notes=notes,
        adds={"bos": True, "eos": False, **beside.adds},
        space_prefix=prefix if isinstance(prefix, bool) else found.space_prefix,
    )  # fmt: skip


def _of_json(path: Path, beside: Beside, rows: int, config: Mapping[str, Any]) -> Vocabulary:
    """tokenizer.json: byte-level, or what was a SentencePiece model before."""
    try:
        found = byte_pairs.from_json(beside.fast)
    except ValueError as error:
        raise ModelLoadError(f"{path}: this tokenizer can't be converted here: {error}; try {UPSTREAM}") from None
    adds = {"bos": not found.pre, "eos": False, **beside.adds, **found.adds}  # LLaMA's gets one unless it is said
    beside = replace(beside, texts={**beside.texts, **found.ends})
    if found.pre:
        pieces = {number: (text, 0.0, NORMAL) for text, number in found.ids.items()}
        return _whole(
            path, "gpt2", found.pre, pieces, beside, rows, config,
            merges=found.merges, adds=adds, notes=found.notes, nfc=found.nfc,
        )  # fmt: skip
    pieces, notes = byte_pairs.scored(found, PADDING)
    return _whole(
        path, "llama", "default", pieces, beside, rows, config,
        notes=[*found.notes, *notes], adds=adds, space_prefix=found.space_prefix, nfc=found.nfc,
    )  # fmt: skip


def _of_words(path: Path, beside: Beside, rows: int, config: Mapping[str, Any]) -> Vocabulary:
    """vocab.json and merges.txt, as tokenizers written in Python have them."""
    try:
        found = byte_pairs.from_words(
            read_json_object(path), path.with_name("merges.txt"), str(beside.config.get("tokenizer_class", ""))
        )
    except ValueError as error:
        raise ModelLoadError(f"{path}: this tokenizer can't be converted here: {error}; try {UPSTREAM}") from None
    pieces = {number: (text, 0.0, NORMAL) for text, number in found.ids.items()}
    return _whole(
        path, "gpt2", found.pre, pieces, beside, rows, config,
        merges=found.merges, adds={"bos": False, "eos": False, **beside.adds},
    )  # fmt: skip


def _whole(
    path: Path, kind: str, pre: str, pieces: dict[int, Piece], beside: Beside, rows: int, config: Mapping[str, Any],
    *, known: Mapping[str, int] | None = None, merges: Sequence[str] = (), notes: Sequence[str] = (),
    adds: Mapping[str, bool], space_prefix: bool | None = None, nfc: bool | None = None,
) -> Vocabulary:  # fmt: skip
    """With added tokens, filled up to `rows`. `known`: special ids that the tokenizer itself tells."""
    _add(pieces, beside)
    if (size := 1 + max(pieces, default=-1)) > rows:
        told = disagreement("vocabulary", (f"the tokenizer ({path.name})", size), ("the weights", rows))
        raise ModelLoadError(f"{path}: {told}; take the tokenizer that was published with these weights")
    texts, doubled = _filled(pieces, rows)
    if doubled:
        notes = [*notes, f"{len(doubled)} tokens have the text of another, as {doubled[0]}: they are marked as unused"]
    try:
        tokens = tuple(text.encode() for text, _, _ in texts)
        "".join(merges).encode()
    except UnicodeEncodeError as error:
        raise ModelLoadError(f"{path}: a token or merge is no text ({error}); download the tokenizer again") from None
    by_text = {text: number for number, (text, _, kind) in enumerate(texts) if kind != UNUSED}
    ids, more = beside.special_ids(by_text, known or {}, config, rows)
    return Vocabulary(
        kind,
        pre,
        tokens,
        tuple(kind for _, _, kind in texts),
        tuple(score for _, score, _ in texts) if kind == "llama" else (),
        tuple(merges),
        ids,
        dict(adds),
        space_prefix,
        chat_template_in(path.parent),
        nfc,
        tuple(token.text for token in beside.added.values() if token.special and token.lstrip),
        tuple(token.text for token in beside.added.values() if token.special and token.rstrip),
        (*notes, *more),
    )


def _add(pieces: dict[int, Piece], beside: Beside) -> None:
    """Tokens that files beside the tokenizer add, and the kinds that they give to its own."""
    for number, added in beside.added.items():
        old = pieces.get(number)
        if old is not None and old[0] == added.text and old[2] not in (NORMAL, CONTROL, USER_DEFINED):
            continue  # it stays what its own model says: unknown, a byte, unused
        text = added.text if added.special else added.text.replace("\u2581", " ")
        score = old[1] if old is not None and old[0] == added.text else ADDED
        pieces[number] = (text, score, CONTROL if added.special else USER_DEFINED)


def _filled(pieces: Mapping[int, Piece], rows: int) -> tuple[list[Piece], list[str]]:
    """A token for each row, and the texts of those that were there twice: llama.cpp takes no text for two ids."""
    first: dict[str, int] = {}
    for number, (text, _, kind) in sorted(pieces.items()):
        if text and (text not in first or (pieces[first[text]][2] == NORMAL and kind != NORMAL)):
            first[text] = number
    found: list[Piece] = []
    doubled: list[str] = []
    for number in range(rows):
        piece = pieces.get(number)
        if piece is not None and first.get(piece[0], number) == number:
            found.append(piece)
            continue
        if piece is not None:
            doubled.append(repr(piece[0][:50]))
        name = f"[PAD{number}]"
        while name in first:
            name = f"{name[:-1]}_]"
        found.append((name, PADDING, UNUSED))
    return found, doubled
