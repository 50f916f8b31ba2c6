"""Normal forms are Python's own, of long texts too, and cost what the text is long."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbridge import nfc, nfd
from chatbridge.testing import LONG_RUNS, growth

MARKS = st.text(st.sampled_from("aeo각한\u1100\u1161\u11a8\u0301\u0323\u0308\u0344\u0327\u0345\u212b\u0958 \u3099か"))


@given(text=st.one_of(st.text(), MARKS))
@settings(deadline=None)
@example(text="a\u0301\u0323\u0301\u0323")
@example(text="\u0344\u0323")
def test_the_forms_are_pythons(text: str) -> None:
    for long in (text, text * 30, "x" * 70 + text, text + "\u0301" * 70):
        assert nfd(long) == unicodedata.normalize("NFD", long)
        assert nfc(long) == unicodedata.normalize("NFC", long)


@pytest.mark.parametrize("run", LONG_RUNS)
def test_a_longer_text_takes_no_more_for_each_character(run: str) -> None:
    assert growth(nfc, LONG_RUNS[run]) < 2.7
