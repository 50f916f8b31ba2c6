"""How people know the answer from its previews."""

from __future__ import annotations

import pytest

from chatbridge.testing.wire.progress import first_answer, progress_of


@pytest.mark.parametrize(
    ("text", "actions", "progress"),
    [
        ("…", ["stop"], "preview"),
        ("…", [], "preview"),
        ("One", ["stop"], "preview"),
        ("One.", ["regenerate", "branch"], "last"),
        ("Commands:", [], "last"),
        ("x" * 950, [], "part"),
        ("x" * 950, ["regenerate"], "last"),
    ],
)
def test_what_a_message_is_is_known_by_its_buttons(text: str, actions: list[str], progress: str) -> None:
    assert progress_of(text, actions, 2000) == progress


@pytest.mark.parametrize(
    ("shown", "answer"),
    [
        ([], None),
        (["preview"], None),
        (["part"], None),
        (["part", "preview"], None),
        (["preview", "last"], None),
        (["last", "preview"], ["last"]),
        (["part", "last", "last"], ["part", "last"]),
    ],
)
def test_an_answer_is_read_once_it_has_ended_and_in_its_turn(shown: list[str], answer: list[str] | None) -> None:
    assert first_answer(shown, lambda one: one) == answer  # type: ignore[arg-type,return-value]
