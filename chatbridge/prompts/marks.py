"""Which tokens of a vocabulary are marks that a template writes, whatever their type says. Knows no tokenizer.

Converters, and llama.cpp as it loads a file, call some of them user-defined tokens, which the tokenizers of these
models find in plain text. Then a person who writes `<|start|>` would begin a turn.
"""

from __future__ import annotations

import re

_MARK = re.compile(
    r"<\|[^\s|<>]{1,64}\|>|<｜[^\s｜<>]{1,64}｜>|<\|[a-z_]+>|<[a-z_]+\|>"  # <|im_start|>, DeepSeek's, Gemma 4's
    r"|</?s>|</?(?:bos|eos|pad|unk|cls|sep|sop|eop|sys|role|system|user|assistant|human|bot)>|<<\/?SYS>>"
    r"|<(?:start|end|beginning)_of_[a-z]+>|<[A-Z]+_[A-Z_]+>|\[/?[A-Z][A-Z_]+\]|\[[gs]MASK\]"
    r"|\]~!?b[\[\]]|\[e~\["
    # Gemma's, Mistral's, GLM's, MiniMax's
)
_IN_BRACKETS = re.compile(r"[<\[〈][^\s<>\[\]]{1,64}[>\]〉]")
_IN_LINE = re.compile(f"{_MARK.pattern}|{_IN_BRACKETS.pattern}")
_CONTENT = re.compile(r"<\|(?:blank_\d+|tab)\|>|<n>")
"""What ChatGLM's family writes for blanks: honest text, however it looks."""
_SPOKEN = re.compile(r"think|thought|reason|tool|func|image|audio|video|code|answer", re.IGNORECASE)
"""What answers and contents hold: `<think>` marks no turn, and reads as the reference reads it."""


def is_mark(text: str, template: str = "") -> bool:
    """Whether the token of that text begins or ends turns, by its form or because a chat template writes it.

    `template`: the model's own, its source. Runs of blanks, emoji, `<think>`, HTML and words are no marks.
    """
    if _CONTENT.fullmatch(text):
        return False
    if _MARK.fullmatch(text):
        return True
    return bool(_IN_BRACKETS.fullmatch(text)) and text in template and not _SPOKEN.search(text)


def marks_in(line: str) -> list[str]:
    """The marks in a line that a chat template writes, in their order."""
    found = [match[0] for match in _IN_LINE.finditer(line)]
    return [mark for mark in found if not _CONTENT.fullmatch(mark) and not _SPOKEN.search(mark)]


def without_marks(line: str) -> str:
    """What else stands in such a line, without tags of thoughts and contents."""
    return _IN_LINE.sub("", line).strip()
