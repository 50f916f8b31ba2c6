"""A model's tokenizer: the ids of the model's original one, and text never becomes a control token.

Knows one loaded vocabulary and the metadata of its file; knows no template and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatbridge import chat_template_of, is_mark, nfc, tokenizer_rules
from chatbridge_llama_cpp.encoding import CONTROL, UNKNOWN, USER_DEFINED, Encoder
from chatbridge_llama_cpp.greedy import Greedy
from chatbridge_llama_cpp.native import lib
from chatbridge_llama_cpp.native_encoder import NativeEncoder, SentencePiece
from chatbridge_llama_cpp.unigram import Unigram
from chatbridge_llama_cpp.vocabulary import Vocabulary
from chatbridge_llama_cpp.wordpiece import WordPiece

_SPM, _WPM, _UGM, _RWKV = 1, 3, 4, 5
_KINDS = {
    _SPM: "SentencePiece BPE",
    2: "byte-level BPE",
    _WPM: "WordPiece",
    _UGM: "Unigram",
    _RWKV: "RWKV's greedy one",
    6: "PLaMo 2",
}
_UNKNOWN = {_WPM: 100, _UGM: 2}  # where the file doesn't say


class LlamaTokenizer:
    """A `Tokenizer`, safe to call from any thread. `lstrip`, `rstrip`: as in `ModelInfo`.

    `metadata`: of the file. llama.cpp must have loaded the vocabulary with add_space_prefix off, since it would put a
    blank before every text and after every user-defined token; here it comes before a text that starts.
    """

    def __init__(self, vocabulary: Any, metadata: Mapping[str, Any]) -> None:
        self._native = vocabulary
        self._names_begin = "tokenizer.ggml.bos_token_id" in metadata
        self._vocabulary = own = Vocabulary(vocabulary)
        self.size = own.size
        unknown = _unknown(own, metadata)
        # llama.cpp calls some marks of templates user-defined tokens, as it does with gpt-oss's, and converters do.
        source = chat_template_of(metadata).source
        marks = [i for i in own.with_attr(USER_DEFINED) if is_mark(own.text(i).decode("utf-8", "replace"), source)]
        own.hide(marks)
        self._encoder = _encoder(own, metadata, unknown)
        # The token for unknown words is not one of them, even where the file says so.
        control = sorted({i for i in own.with_attr(CONTROL) if i != unknown})
        self.controls = frozenset(control)
        names = {i: own.text(i).decode("utf-8", "replace") for i in control}
        # Of twins the first, which comes last here.
        self.specials: Mapping[str, int] = {name: i for i, name in reversed(names.items()) if name}
        rules = tokenizer_rules(metadata, self.specials)
        self._nfc = rules.nfc
        self.lstrip = frozenset(i for i, name in names.items() if name in rules.lstrip)
        self.rstrip = frozenset(i for i, name in names.items() if name in rules.rstrip)
        kind = _KINDS.get(own.kind, f"of type {own.kind}")
        self.kind = f"{kind}; {rules.words}" if rules.words else kind

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text, never a control token's. Half characters (lone surrogates) become "?"."""
        text = text.encode("utf-8", "replace").decode()
        return self._encoder.encode(nfc(text) if self._nfc else text, start=start)

    def special(self, token: str) -> int | None:
        """The id of a control token by its text."""
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids; control tokens have none."""
        return b"".join([self._vocabulary.piece(token) for token in tokens])

    def ends(self) -> tuple[int, ...]:
        """Every id that ends a reply, the vocabulary's own first."""
        ends = [i for i in range(self.size) if lib.llama_vocab_is_eog(self._native, i)]
        # llama.cpp may know an end of turns that ends no answer, as gpt-oss's `<|end|>`, which closes thoughts as well.
        first = [lib.llama_vocab_eos(self._native)]
        first += [eot for eot in (lib.llama_vocab_eot(self._native),) if eot in ends]
        return tuple(dict.fromkeys(i for i in (*first, *ends) if 0 <= i < self.size))

    def begin(self) -> int | None:
        """The id that stands for the beginning, if this model has one."""
        bos: int = lib.llama_vocab_bos(self._native)
        # Where the file names none, llama.cpp still has a number, which is any token.
        known = self.adds_begin or (self._names_begin and bos in self.controls)
        return bos if known and 0 <= bos < self.size else None

    @property
    def adds_begin(self) -> bool:
        """Whether prompts begin with it."""
        return bool(lib.llama_vocab_get_add_bos(self._native))


def _encoder(vocabulary: Vocabulary, metadata: Mapping[str, Any], unknown: int | None) -> Encoder:
    """llama.cpp's own tokenizer where it gives the reference's ids, else one of ours."""

    def setting(key: str, default: Any) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}", default)

    if vocabulary.kind == _WPM and unknown is not None:
        lowercase = bool(setting("normalizer.lowercase", True))
        strip_accents = bool(setting("normalizer.strip_accents", lowercase))
        return WordPiece(vocabulary.entries(), unknown=unknown, lowercase=lowercase, strip_accents=strip_accents)
    if vocabulary.kind == _UGM and unknown is not None:
        rules = setting("precompiled_charsmap", None)
        return Unigram(
            vocabulary.entries(),
            unknown=unknown,
            dummy_prefix=bool(setting("add_space_prefix", False)),
            merge_blanks=bool(setting("remove_extra_whitespaces", False)),
            charsmap=rules.tobytes() if hasattr(rules, "tobytes") else b"",
        )
    if vocabulary.kind == _RWKV:
        known = (entry.id for entry in vocabulary.entries() if entry.normal or entry.user_defined)
        return Greedy({vocabulary.piece(i): i for i in known}, unknown=unknown)
    if vocabulary.kind == _SPM:
        return SentencePiece(vocabulary, dummy_prefix=bool(setting("add_space_prefix", True)))
    return NativeEncoder(vocabulary)


def _unknown(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> int | None:
    """The token for unknown words: as the file says, or by its kind."""
    if vocabulary.kind in _UNKNOWN:
        token = metadata.get("tokenizer.ggml.unknown_token_id", _UNKNOWN[vocabulary.kind])
        return token if isinstance(token, int) and 0 <= token < vocabulary.size else None
    return next(iter(vocabulary.with_attr(UNKNOWN)), None) if vocabulary.kind == _RWKV else None
