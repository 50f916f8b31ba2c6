"""How text looks to a reader: characters that pass for one another, or that nobody sees, folded to one form.

Unicode's compatibility forms come from the standard library; the table below adds letters and signs that merely
look alike (the subject of Unicode Technical Standard 39), as far as role headers need them. Knows no template.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LINE_END = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Everything that begins a new line for some reader: what `str.splitlines` takes for one."""

_PAIRS = """
:∶꞉ː˸։׃܃܄᛬⁚⁝︰︓ /⁄∕⧸╱ |│ǀ∣❘ǁ‖ #♯⋕⌗ [【〔❲〚⟦〖「『 ]】〕❳〛⟧〗」』 <‹〈⟨❮«《 >›〉⟩❯»》
aаαɑΑᎪꓮᴀ bʙЬƄВВΒвᏴꓐ cᴄсϲСᏟꓚ dᴅԁᎠꓓ eᴇеεΕЕЁёҽᎬꓰ fꜰϝꓝ gɢɡԍᏀꓖ hʜһНΗнհᎻꓧ iɪʟіıІΙιlӀӏ|1Ꭵꓲ! jᴊјЈᎫꓙ kᴋкКΚκᏦꓗ mᴍмМΜᎷꓟ
nɴпηΝոꓠ oᴏоОοΟօσ0ꓳ pᴘрРρΡᏢꓑ qԛզ rʀгЯгᎡꓣ sꜱѕЅᏚꓢ tᴛтТτΤᎢꓔ uᴜυսꓴ vᴠνѵᏙꓦ wᴡѡԝᎳꓪ xхХχΧꓫ yʏуУүγΥꓬ zᴢᏃΖꓜ
"""
_UNSEEN = "\u2800\u3164\u115f\u1160\uffa0"  # blank letters of Braille and Hangul
_CONFUSABLES = {char: pair[0] for pair in _PAIRS.split() if len(pair) > 1 for char in pair[1:] if char not in "|!"}


@lru_cache(maxsize=4096)
def fold(char: str) -> str:
    """What a reader sees in a character: "\\n" for a line end, nothing for a blank, else the form of all alike."""
    if LINE_END.fullmatch(char):
        return "\n"
    if char in _UNSEEN:
        return ""
    plain = unicodedata.normalize("NFKD", _CONFUSABLES.get(char, char)).casefold()
    return "".join(_CONFUSABLES.get(part, part) for part in plain if not _invisible(part))


def _invisible(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in ("Cf", "Cc", "Mn", "Me")


def skeleton(text: str, start: int = 0, *, limit: int | None = None, line: bool = False) -> tuple[str, list[int]]:
    """The skeleton of `text` from `start` on, and the index in `text` that each of its characters comes from.

    Blanks and unseen characters are left out, and a sign that is repeated stands there once ("###" is "#").
    `limit`: enough after so many characters. `line`: only to the end of the line.
    """
    seen: list[str] = []
    origins: list[int] = []
    for at in range(start, len(text)):
        folded = fold(text[at])
        if line and folded == "\n":
            break
        for char in folded:
            if seen and seen[-1] == char and not char.isalnum():
                continue
            seen.append(char)
            origins.append(at)
        if limit is not None and len(seen) > limit:
            break
    return "".join(seen), origins
