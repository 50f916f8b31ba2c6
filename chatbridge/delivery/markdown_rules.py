"""What people and models write beyond CommonMark, as rules of markdown-it: formulas, bare addresses, spoilers, marks
beside Chinese and Japanese. Knows how they are told from other text; makes tokens, and shows nothing.

Each rule looks at a stretch of text once, or remembers that it has: all of them together take linear time.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline, link_pairs
from markdown_it.rules_inline.state_inline import Delimiter, Scanned
from markdown_it.token import Token
from markdown_it.utils import EnvType

_EAST_ASIAN = re.compile(
    "[\u1100-\u11ff\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
)
"""Letters and punctuation of Chinese, Japanese and Korean, which are written without blanks between words."""

_MARKS = r"[*_~]"
_END_OF_ADDRESS = r"\s<>`\"|\\\[\]“”‘’「」『』（）【】《》〈〉、。，：；！？…"
_ADDRESS_START = (
    r"(?<![A-Za-z0-9])(?:(?:https?|ftp|tg|steam)://|mailto:)"
    r"|(?<![\w.@/-])(?:www\.|[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)*?\.[A-Za-z]{2,}+(?=[/]))"
)
_ADDRESS = re.compile(
    rf"(?:{_ADDRESS_START})"
    rf"(?:[^{_END_OF_ADDRESS}*_~]|{_MARKS}++(?=[A-Za-z0-9/%=&?#+(-]|[.,:;!'](?=[A-Za-z0-9/])))+",
    re.IGNORECASE,
)
"""Up to a blank, a bracket or a sign that ends sentences. Marks belong to it where it goes on behind them."""
_MANY_MARKS = re.compile(rf"{_MARKS}+")
_NOT_PLAIN = re.compile(rf"[\n!$&*<\[\]\\_`|~]|{_ADDRESS_START}", re.IGNORECASE)
_BREAK_TAG = re.compile(r"<br[ \t]*/?>", re.IGNORECASE)
_DOLLARS = re.compile(r"(?<![A-Za-z0-9$\\])\$(?=[^\s$])(?:[^$\n`\\]|\\.)+(?<!\s)\$(?![A-Za-z0-9$])")
_FORMULAS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}


def add_rules(parser: MarkdownIt) -> None:
    """Teach a parser all of it."""
    parser.inline = _Inline()
    rules = parser.inline.ruler
    rules.at("text", _plain_text)
    rules.before("escape", "formula", _formula)
    rules.before("escape", "address", _address)
    rules.before("escape", "break_tag", _break_tag)
    rules.before("emphasis", "spoiler", _spoiler)
    parser.inline.ruler2.after("balance_pairs", "spoiler", _pair_spoilers)
    interrupted = ["paragraph", "reference", "blockquote", "list"]
    parser.block.ruler.before("fence", "formula_block", _formula_block, {"alt": interrupted})


class _State(StateInline):
    """A paragraph being read."""

    def __init__(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> None:
        super().__init__(src, md, env, tokens)
        self.unclosed: set[str] = set()
        """Signs that end a formula and are not found in what is left of the paragraph."""

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803 - markdown-it's names
        """Whether the marks at `start` may open or close an emphasis.

        CommonMark takes "**" behind punctuation and before a letter for no end, which no Chinese sentence keeps to:
        there, "**重点：**后面" is what everybody writes. So punctuation of these languages counts as a letter, and
        beside one of their letters other punctuation counts as beside a blank (as in "markdown-cjk-friendly").
        """
        end = start
        while end < self.posMax and self.src[end] == self.src[start]:
            end += 1
        before = self.src[start - 1] if start else " "
        after = self.src[end] if end < self.posMax else " "
        blank_before, blank_after = isWhiteSpace(ord(before)), isWhiteSpace(ord(after))
        east_before, east_after = bool(_EAST_ASIAN.match(before)), bool(_EAST_ASIAN.match(after))
        sign_before, sign_after = _is_sign(before), _is_sign(after)
        opens = not blank_after and (not sign_after or east_after or blank_before or sign_before or east_before)
        closes = not blank_before and (not sign_before or east_before or blank_after or sign_after or east_after)
        may_open = opens and (canSplitWord or not closes or sign_before)
        may_close = closes and (canSplitWord or not opens or sign_after)
        return Scanned(may_open, may_close, end - start)


def _is_sign(char: str) -> bool:
    return isMdAsciiPunct(ord(char)) or isPunctChar(char)


class _Inline(ParserInline):
    """markdown-it's own, but for the state."""

    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


def _plain_text(state: StateInline, silent: bool) -> bool:
    """Text up to what another rule may want."""
    found = _NOT_PLAIN.search(state.src, state.pos, state.posMax)
    end = state.posMax if found is None else found.start()
    if end == state.pos:
        return False
    if not silent:
        state.append_pending(state.src[state.pos : end])
    state.pos = end
    return True


def _leaf(state: StateInline, kind: str, end: int, silent: bool) -> bool:
    """A token of its own for all up to `end`, as it is written."""
    if not silent:
        state.push(kind, "", 0).content = state.src[state.pos : end]
    state.pos = end
    return True


def _address(state: StateInline, silent: bool) -> bool:
    found = _ADDRESS.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    address = found[0].rstrip("?!.,:;'")
    # A bracket that was opened before the address is none of it.
    too_many = address.count(")") - address.count("(")
    while too_many > 0 and address.endswith(")"):
        address = address[:-1].rstrip("?!.,:;'")
        too_many -= 1
    # Marks behind it are the end of one that begins in it, or of one that began before it.
    behind = _MANY_MARKS.match(state.src, state.pos + len(address), state.posMax)
    if behind is not None and address.count(behind[0]) % 2:
        address += behind[0]
    return _leaf(state, "address", state.pos + len(address), silent)


def _break_tag(state: StateInline, silent: bool) -> bool:
    found = _BREAK_TAG.match(state.src, state.pos, state.posMax)
    return found is not None and _leaf(state, "break_tag", found.end(), silent)


def _formula(state: StateInline, silent: bool) -> bool:
    """`\\(…\\)`, `\\[…\\]`, `$$…$$`, and `$…$` where that is no price: not beside blanks, nor beside digits outside."""
    source, start = state.src, state.pos
    closing = _FORMULAS.get(source[start : start + 2])
    if closing is None:
        found = _DOLLARS.match(source, start, state.posMax) if source[start] == "$" else None
        return found is not None and _leaf(state, "formula", found.end(), silent)
    assert isinstance(state, _State)
    if closing in state.unclosed or (start and source[start - 1].isalnum() and source[start - 1].isascii()):
        return False
    end = source.find(closing, start + 2, state.posMax)
    if end < 0:
        state.unclosed.add(closing)
        return False
    # Brackets that are escaped because they are none of a link's.
    escaped = closing == "\\]" and source[end + 2 : end + 3] in ("(", "[", ":")
    if escaped or not source[start + 2 : end].strip():
        return False
    return _leaf(state, "formula", end + 2, silent)


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Lines from one that begins with `$$` or `\\[` to one that ends with `$$` or `\\]`, or to a blank one."""
    if state.is_code_block(start):
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]].rstrip()
    closing = _FORMULAS.get(first[:2]) if first[:2] != "\\(" else None
    rest = first[2:].strip()
    if closing is None or (closing in rest and (rest.find(closing) < len(rest) - 2 or rest == closing)):
        return False  # it ends within its line, which goes on
    after = start + 1
    if not rest.endswith(closing):
        if rest and not rest.startswith("\\"):
            return False
        while after < end and not state.isEmpty(after) and state.sCount[after] >= state.blkIndent:
            line = state.src[state.bMarks[after] : state.eMarks[after]].rstrip()
            after += 1
            if line.endswith(closing):
                break
    if not silent:
        token = state.push("formula_block", "", 0)
        token.content = state.getLines(start, after, state.sCount[start], False)
        token.map = [start, after]
        state.line = after
    return True


def _spoiler(state: StateInline, silent: bool) -> bool:
    """`||`, where it is no operator: not within a word, nor between blanks."""
    source, start = state.src, state.pos
    if silent or source[start] != "|":
        return False
    end = start
    while end < state.posMax and source[end] == "|":
        end += 1
    scanned = state.scanDelims(start, True)
    state.push("text", "", 0).content = source[start:end]
    if end - start == 2:
        in_word_before = start > 0 and source[start - 1].isascii() and source[start - 1].isalnum()
        in_word_after = end < state.posMax and source[end].isascii() and source[end].isalnum()
        opens, closes = scanned.can_open and not in_word_before, scanned.can_close and not in_word_after
        at = len(state.tokens) - 1
        state.delimiters.append(Delimiter(ord("|"), 0, at, -1, opens, closes))
    state.pos = end
    return True


def _pair_spoilers(state: StateInline) -> None:
    within = [meta["delimiters"] for meta in state.tokens_meta if meta and "delimiters" in meta]
    for delimiters in (state.delimiters, *within):
        for delimiter in delimiters:
            if delimiter.marker == ord("|") and delimiter.end >= 0:
                for at, nesting in ((delimiter.token, 1), (delimiters[delimiter.end].token, -1)):
                    token = state.tokens[at]
                    token.type = "spoiler_open" if nesting == 1 else "spoiler_close"
                    token.nesting = 1 if nesting == 1 else -1
                    token.content, token.markup = "", "||"


def open_marks(source: str, parser: MarkdownIt) -> str:
    """What would close the formats that a paragraph opens and does not close, the inner ones first."""
    state = _State(source, parser, {}, [])
    parser.inline.tokenize(state)
    link_pairs(state)
    closed = {one.end for one in state.delimiters}
    # One within a word, as in 2*x, is as likely to be none.
    still_open = [
        one
        for at, one in enumerate(state.delimiters)
        if one.open and not one.close and one.end < 0 and at not in closed
    ]
    # Emphasis has one delimiter for each sign, the others one for two.
    return "".join(chr(one.marker) * (1 if chr(one.marker) in "*_" else 2) for one in reversed(still_open))
