"""Links in a model's answer notify nobody on Telegram, however the address is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import as_entities

PERSON = [
    "tg://user?id=1",
    "TG://USER?ID=1",
    "tg://user/?id=1",
    "tg://user?x=1&id=1",
    "tg://user#a?id=1",
    "tg:user?id=1",
]


def links(source: str, *, mentions: bool = False) -> list[str]:
    return [span.data for span in as_entities(source, mentions=mentions).spans if span.kind == "text_link"]


@pytest.mark.parametrize("address", PERSON)
@pytest.mark.parametrize("form", ["[her]({})", "![her]({})", "**[her]({})**", "[*her*](<{}>)", "[her][1]\n\n[1]: {}"])
def test_a_link_to_a_person_is_text(form: str, address: str) -> None:
    shown = as_entities(form.format(address))
    assert links(form.format(address)) == []
    assert "her" in shown.text


def test_other_links_stay_links() -> None:
    kept = ["https://example.org/", "tg://resolve?domain=alice", "https://t.me/alice", "https://t.me/user?id=1"]
    assert links(" ".join(f"[x]({address})" for address in kept)) == kept


def test_where_mentions_are_wanted_they_stay() -> None:
    assert links("[her](tg://user?id=1)", mentions=True) == ["tg://user?id=1"]


@given(st.text("tTgG:/uUsSeErR?#&=idID1 %\\\n\t<>[]()", max_size=40))
def test_no_address_is_one_of_a_person(address: str) -> None:
    for link in links(f"[x]({address}) [x](<{address}>)"):
        bare = link.lower().removeprefix("tg:").removeprefix("//")
        assert not (link.lower().startswith("tg:") and bare.startswith("user") and (bare[4:5] in ("", *"/?#")))
