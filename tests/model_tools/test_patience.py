"""Failures are borne so many times in a row, with pauses that grow; and how long a server asks to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.fetching.http import retry_after
from chatbridge.model_tools.fetching.patience import Patience


def test_pauses_grow_to_half_a_minute() -> None:
    waited: list[float] = []
    told: list[str] = []
    patience = Patience(8, 120, waited.append, told.append)
    for failures in range(1, 8):
        patience.bear("x fails", failures)
    assert waited == [1, 2, 4, 8, 16, 30, 30]
    assert told[0] == "x fails; trying again in 1 s"
    with pytest.raises(ModelLoadError, match="x fails, 8 times in a row; the same command goes on where it was"):
        patience.bear("x fails", 8)
    assert len(waited) == len(told) == 7


def test_a_server_may_ask_for_so_long_and_no_longer() -> None:
    waited: list[float] = []
    patience = Patience(2, 60, waited.append)
    patience.bear("x", 1, 60)
    patience.bear("x", 1, 0)
    assert waited == [60, 0]
    with pytest.raises(ModelLoadError, match="x, and asks to wait 61 seconds; after that the same command"):
        patience.bear("x", 1, 61)
    with pytest.raises(ModelLoadError, match=r"^x; the same command"):
        Patience(1).bear("x", 1)
    Patience(6, 1, waited.append).bear("x", 5)
    assert waited[2:] == [16]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("5", 5), (" 7 ", 7), ("1" * 9, 111_111_111), ("soon", None), ("1" * 10, None), ("-1", None)],
)
def test_seconds_are_read_from_a_number(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_seconds_are_read_from_a_date() -> None:
    later = retry_after(format_datetime(datetime.now(UTC) + timedelta(hours=2)))
    assert later is not None
    assert 3600 < later <= 7200
    assert retry_after(format_datetime(datetime.now(UTC) - timedelta(hours=2))) == 0
    naive = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=2)
    later = retry_after(format_datetime(naive))  # written as -0000: nobody knows whose time
    assert later is not None
    assert 3600 < later <= 7200
