"""Close names: what somebody may have meant. Knows no list of names by itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def folded(name: str) -> str:
    """A name without what people write in many ways: case, blanks, dashes and underscores."""
    return "".join(character for character in name.casefold() if not (character.isspace() or character in "-_‐–—"))


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that this is, however it is written; None where none is, or several are and none to the letter."""
    names = list(known)
    if name in names:
        return name
    same = [one for one in names if folded(one) == folded(name)]
    return same[0] if len(same) == 1 else None


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, if one is like it."""
    names = {folded(one): one for one in known}
    close = difflib.get_close_matches(name, list(names.values()), n=1)
    return next(iter(close), None) or next(
        (names[n] for n in difflib.get_close_matches(folded(name), names, n=1)), None
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is close, else nothing."""
    close = closest(name, known)
    return f"; did you mean {close!r}?" if close else ""
