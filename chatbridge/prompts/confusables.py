"""How text looks to a reader: characters that pass for one another, or that nobody sees, folded to one form.

What Unicode knows comes from libraries: compatibility forms and names from `unicodedata`, characters that are not
shown (Default_Ignorable_Code_Point) from `regex`, look-alikes (Unicode Technical Standard 39) from
`confusable_homoglyphs`, a table of 900 kB that is read when the first character beyond ASCII comes. A table here adds
what role headers need besides. Knows no template.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files

LINE_END = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Everything that begins a new line for some reader: what `str.splitlines` takes for one."""

_LINE_ENDS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_EACH_LINE_END = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_REPEATED = re.compile(r"([^\w\n]|_)\1+")

# What UTS 39 leaves out: it asks for one glyph in the place of another, we for what reads as a header.
_PAIRS = """
:∶꞉ː˸։׃܃܄᛬⁚⁝︰︓∷⸬𝄈፡፥᠄৹꛴ /⁄∕⧸╱ |│ǀ∣❘ǁ‖ #♯⋕⌗ [【〔❲〚⟦〖「『 ]】〕❳〛⟧〗」』 <‹〈⟨❮«《 >›〉⟩❯»》
aаαɑΑᎪꓮᴀ bʙЬƄВΒвᏴꓐ cᴄсϲСᏟꓚ dᴅԁᎠꓓ eᴇеεΕЕЁёҽᎬꓰ fꜰϝꓝ gɢɡԍᏀꓖ hʜһНΗнհᎻꓧ iɪʟіıІΙιlӀӏ|1Ꭵꓲ jᴊјЈᎫꓙ kᴋкКΚκᏦꓗ mᴍмМΜᎷꓟ
nɴпηΝոꓠ oᴏоОοΟօσ0ꓳ pᴘрРρΡᏢꓑ qԛզ rʀгЯгᎡꓣ sꜱѕЅᏚꓢ tᴛтТτΤᎢꓔ uᴜυսꓴ vᴠνѵᏙꓦ wᴡѡԝᎳꓪ xхХχΧꓫ yʏуУүγΥꓬ zᴢᏃΖꓜ
"""
_OURS = {char: pair[0] for pair in _PAIRS.split() for char in pair[1:]} | {"\u2800": ""}
_UNSEEN = frozenset(("Cc", "Cf", "Mn", "Me", "Co", "Cn"))
"""General categories of characters that nothing need show for: controls, formats and marks, and what no standard gives
a shape, for private use or not assigned (yet)."""
_STAND_INS = frozenset("\ufffc\ufffd\U0001d159")
"""What stands where something else should, or where nothing does: an object, a broken character, no note."""
_COMBINED = {"m": "rn"}
"""UTS 39 reads an m as r and n: "Hurnan" is "Human"."""
_NAMED_LETTER = re.compile(
    r"(?:.*\bLATIN (?:CAPITAL |SMALL )?|.*\bREGIONAL INDICATOR SYMBOL )?LETTER (?:SMALL CAPITAL )?([A-Z])(?: WITH .*)?"
    r"|.*\bLATIN (?:CAPITAL|SMALL) LETTER ([A-Z])(?: WITH .*)?|(?!.*SEMI).*\b(COLON)"
)


_DROPPED = "\0-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f"
"""Characters that SentencePiece's usual normalisation (nmt_nfkc), among others, takes out of a text."""
_WRITTEN_LINE_END = re.compile(f"[<\uff1c\ufe64][{_DROPPED}]*([^<{_DROPPED}])[{_DROPPED}]*[>\uff1e\ufe65]", re.DOTALL)


def with_line_ends(text: str) -> str:
    """`text`, as long as it was, with a line end where a model may read one though nobody sees it.

    GLM's vocabulary has a piece "<n>" for line ends, also where somebody writes that, in any compatible form.
    """
    return _WRITTEN_LINE_END.sub(_as_line_end, text)


def _as_line_end(written: re.Match[str]) -> str:
    is_one = unicodedata.normalize("NFKC", written[1]) == "n"
    return "\n".ljust(len(written[0]), "\0") if is_one else written[0]


_UNSEEN_LINE_END = re.compile("[\v\x1c-\x1e]")
_ACCENTS = str.maketrans(dict.fromkeys("´¸˛˜˝ͺ΄᾽᾿῀\u1ffd῾", "\0"))
"""Accents that stand by themselves, as far as they look like another sign: "´" like an apostrophe."""


def readings_of(text: str) -> list[str]:
    """`text`, and the same of the same length as others may read it, in every combination.

    Accents that stand by themselves look like signs and letters, and are a blank with a mark for who normalises, which
    is no sign before a header. Capital letters may look like others than small ones: "Υ" like Y, and "υ" like u. Some
    controls end a line for Python, and are nothing for SentencePiece and on a screen.
    """
    readings = [text]
    if _UNSEEN_LINE_END.search(text):
        readings += [_UNSEEN_LINE_END.sub("\0", one) for one in readings]
    if not text.isascii():
        readings += [one.translate(_ACCENTS) for one in readings]
        readings += [one.translate(_SMALL) for one in readings]
    return list(dict.fromkeys(readings))


def fold(char: str) -> str:
    """What a reader sees in a character: "\\n" for a line end, nothing for a blank, else the form of all alike."""
    return _FOLDS[ord(char)]


def looks_of(text: str) -> str:
    """The skeleton of a whole text, a line each, with signs as often as they are there."""
    return text.translate(_FOLDS)


def skeleton(text: str) -> str:
    """The skeleton of `text`: two texts with equal ones look alike. Line ends of every kind are "\\n".

    Blanks and unseen characters are left out, and a sign that is repeated stands there once ("###" is "#").
    """
    return _REPEATED.sub(r"\1", text.translate(_FOLDS))


def line_starts(text: str) -> list[int]:
    """Where each line of `text` begins; line n is that of line n of its skeleton."""
    return [0, *(match.end() for match in _EACH_LINE_END.finditer(text))]


def origins(text: str, start: int = 0, *, once: bool) -> Iterator[int]:
    """The index in `text` that each character of its skeleton from `start` on comes from.

    `once`: repeated signs stand there once.
    """
    last = ""
    for at in range(start, len(text)):
        for seen in _FOLDS[ord(text[at])]:
            if once and seen == last and not seen.isalnum() and seen != "\n":
                continue
            last = seen
            yield at


class _Table(dict[int, str]):
    """What is made of each character, for `str.translate`. Computed when met, and bounded: Unicode has a million."""

    _MAX_ENTRIES = 1 << 16

    def __init__(self, make: Callable[[str], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, code: int) -> str:
        if len(self) >= self._MAX_ENTRIES:
            self.clear()
        self[code] = made = self._make(chr(code))
        return made


def _wholly_folded(char: str) -> str:
    folded = _folded(char)
    while (again := "".join(map(_folded, folded))) != folded and len(again) <= len(folded):
        folded = again
    return folded


def _small(char: str) -> str:
    """The small letter of a capital one that looks otherwise; all else is itself."""
    plain = _plain(char)
    small = plain.lower()
    other = len(plain) == len(small) == 1 and small != plain and fold(small) != fold(char)
    return small if other else char


_FOLDS, _SMALL = _Table(_wholly_folded), _Table(_small)


def _plain(text: str) -> str:
    """What is seen of Unicode's own other form of a text, without blanks and marks."""
    return "".join(part for part in unicodedata.normalize("NFKD", text) if not _is_unseen(part))


def _folded(char: str) -> str:
    if char in _LINE_ENDS:
        return "\n"
    if char.isascii():
        return "" if char <= " " or char == "\x7f" else _ascii(char)
    name = unicodedata.name(char, "")
    if (named := _NAMED_LETTER.fullmatch(name)) and name.startswith("PARENTHESIZED"):
        return _ascii(named[1])
    # Unicode's own other form of a character goes first: for UTS 39 a wide bracket is a round one.
    plain = _plain(char)
    if plain.isascii() and char not in _OURS and plain:
        return "".join(map(_ascii, plain))
    small = char.casefold()
    # Where small letters are more than one, as of "ᾳ", the other is a mark that is written below.
    for seen in (char, plain, small) if len(small) > len(plain) > 0 else (char, small, plain):
        if (alike := "".join(map(_alike, seen))).isascii():
            return "".join(map(_ascii, alike))
    if named:
        return _ascii(":" if named[3] else named[1] or named[2])
    return "".join(_ascii(part) for seen in plain.casefold() for part in _alike(seen))


def _ascii(char: str) -> str:
    """A character as we write what looks like it; one beyond ASCII stays as it is."""
    if char in _LINE_ENDS or char.isspace():
        return ""
    plain = _OURS.get(char) or char.lower()
    plain = _OURS.get(plain, plain)
    return _COMBINED.get(plain, plain)


def _alike(char: str) -> str:
    """The character, or characters, that a character looks like."""
    if char.isascii():
        return char
    if char in _OURS:
        return _OURS[char]
    if (found := _by_standard().get(char)) is not None:
        return _plain(found)
    return "" if _is_unseen(char) else char


def _is_unseen(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in _UNSEEN or char in _STAND_INS or _is_ignorable(char)


def _is_ignorable(char: str) -> bool:
    return bool(_ignorable().match(char))


@cache
def _ignorable() -> re.Pattern[str]:
    import regex

    pattern: re.Pattern[str] = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    return pattern


@cache
def _by_standard() -> dict[str, str]:
    """UTS 39's prototype of each character that has one.

    The library gives the look-alikes of each character. What has many is the prototype of its class, and a row of
    several always is one.
    """
    # Its Python part reads a second table, which we have no use for.
    raw = files("confusable_homoglyphs").joinpath("confusables.json").read_bytes()
    table = {_bare(one): [_bare(other["c"]) for other in others] for one, others in json.loads(raw).items()}
    found: dict[str, str] = {}
    for one, others in table.items():
        if len(one) == 1 and len(others) == 1:
            (other,) = others
            if len(other) > 1 or len(table.get(other, ())) > 1 or other.isascii() or other < one:
                found[one] = other
    return {one: found.get(other, other) for one, other in found.items()}


def _bare(text: str) -> str:
    return text.replace("\u200e", "")  # put around what is written from right to left
