"""Close names: a name is read however it is written, and what may have been meant is told."""

from __future__ import annotations

import pytest

from chatbridge.model_tools.fetching.catalogue import catalogue, named
from chatbridge.suggest import did_you_mean, meant

KNOWN = ["llama-7b", "chatglm-6b", "rwkv-4-14b", "x_1", "x-1"]


@pytest.mark.parametrize("written", ["LLaMA 7B", "llama_7b", "llama7b", " Llama – 7B "])
def test_case_blanks_dashes_and_underscores_do_not_matter(written: str) -> None:
    assert meant(written, KNOWN) == "llama-7b"


def test_a_name_to_the_letter_goes_before_its_likes() -> None:
    assert (meant("x_1", KNOWN), meant("x 1", KNOWN), meant("llama-13b", KNOWN)) == ("x_1", None, None)


def test_what_is_close_is_told_whatever_its_form() -> None:
    assert did_you_mean("CHATGLM 6", KNOWN) == "; did you mean 'chatglm-6b'?"


def test_names_of_the_catalogue_differ_in_more_than_form() -> None:
    for name in catalogue():
        assert named(name.upper().replace("-", " ")) is catalogue()[name]
