"""What people in a chat are told of an error: a sentence of ours and a reference; the log has the rest under it.

The one place where an exception becomes words in a chat: paths, SQL and what libraries print stay in the log. Knows no
chat; a terminal, which only its owner reads, shows errors as they are.
"""

from __future__ import annotations

import logging
import secrets

from chatbridge.errors import ChatbridgeError, CommandError, ModelUnavailable
from chatbridge.texts import duration, say

_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""Without vowels, so that they make no words, and without what looks like a digit."""


def new_reference() -> str:
    """Six letters by which a line of the log is found; a person can read them out."""
    return "".join(secrets.choice(_LETTERS) for _ in range(6))


def report_error(error: BaseException, language: str, log: logging.Logger, about: str, *arguments: object) -> str:
    """Log an error whole, under a new reference, and return what people in a chat are told of it.

    The text of a CommandError is for the person, and returned as it is. `about` says what went wrong, with
    `arguments` for its `%s`; the error's own text is added. An error that is none of ours is logged with its traceback.
    """
    if isinstance(error, CommandError):
        return str(error)
    reference = new_reference()
    ours = isinstance(error, ChatbridgeError)
    why = str(error) if ours else f"{type(error).__name__}: {error}"
    log.log(
        logging.WARNING if ours else logging.ERROR,
        f"[%s] {about}: %s",
        reference,
        *arguments,
        why,
        exc_info=None if ours else error,
    )
    return public_notice(error, language, reference)


def public_notice(error: BaseException, language: str, reference: str) -> str:
    """What people are told of an error that is in the log under `reference`."""
    key = error.public if isinstance(error, ChatbridgeError) else "trouble_inside"
    values = {"wait": duration(error.seconds, language)} if isinstance(error, ModelUnavailable) else {}
    try:
        told = say(language, key, **values)
    except KeyError:  # a plugin's own error may name a text that there is not
        told = say(language, "trouble")
    return f"{told} {say(language, 'reference', reference=reference)}"
