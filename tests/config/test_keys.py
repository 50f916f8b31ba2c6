"""Sizes and addresses in bots.yaml: what people may write, and what is none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from chatbridge.config.keys import ModelKeys, TopKeys


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("8 GiB", 8 << 30),
        ("8g", 8 << 30),
        (" 1.5 GB ", 3 << 29),
        ("500 MiB", 500 << 20),
        ("2 TiB", 2 << 40),
        ("65536K", 1 << 26),
        (1 << 26, 1 << 26),
        (None, None),
    ],
)
def test_a_size_is_written_with_its_unit_or_in_bytes(written: object, size: int | None) -> None:
    assert ModelKeys(backend="toy", memory_limit=written).memory_limit == size  # type: ignore[arg-type]


@pytest.mark.parametrize("written", ["8", "8 XB", "GiB", "-1 GiB", "8 GiB more", True, False, 1e9, [1]])
def test_what_is_no_size_is_told_so(written: object) -> None:
    for key in ("memory_limit", "kept_states"):
        with pytest.raises(ValidationError, match="this is no size, such as 8 GiB"):
            ModelKeys(backend="toy", **{key: written})  # type: ignore[arg-type]


def test_a_size_can_be_too_small() -> None:
    with pytest.raises(ValidationError, match="memory_limit"):
        ModelKeys(backend="toy", memory_limit=(1 << 26) - 1)
    assert ModelKeys(backend="toy", kept_states=0).kept_states == 0


@pytest.mark.parametrize("address", ["", "127.0.0.1:9464", ":0", "localhost:65535", "[::1]:80"])
def test_a_host_and_a_port_are_an_address(address: str) -> None:
    assert TopKeys(monitor=address).monitor == address


@pytest.mark.parametrize("address", ["9464", "localhost:", "localhost:65536", "::1:80", "a b:80", "host:80/x"])
def test_what_is_no_address_is_told_so(address: str) -> None:
    with pytest.raises(ValidationError, match="no address and port"):
        TopKeys(monitor=address)
