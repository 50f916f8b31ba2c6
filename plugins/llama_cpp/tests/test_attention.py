"""Which way to compute attention is measured once, kept, and told."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatbridge_llama_cpp import attention
from chatbridge_llama_cpp.attention import LENGTHS, Comparison, Kept, key_of

from chatbridge import cache_folder

from .conftest import Load


def comparison(*ratios: float) -> Comparison:
    return Comparison(ratios[0], dict(zip(LENGTHS, ratios[1:], strict=False)))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small models are measured as well, and what is found is kept in this folder."""
    monkeypatch.setattr(attention, "MIN_WEIGHTS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    folder = cache_folder()
    assert folder is not None
    return folder


@pytest.mark.parametrize(
    ("ratios", "flash"),
    [((1.0, 1.8, 1.4, 1.0, 0.75), True), ((1.0, 0.9, 0.6, 0.5, 0.5), False), ((1.2,), True), ((2.0, 0.5, 0.5), False)],
)
def test_what_is_faster_at_most_lengths_is_taken(ratios: tuple[float, ...], flash: bool) -> None:
    assert comparison(*ratios).flash is flash


def test_what_was_measured_is_found_again_and_only_under_its_key(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "new")
    assert kept.find("one") is None
    kept.put("one", comparison(1.5, 2.0, 0.5))
    kept.put("other", comparison(0.5))
    assert Kept(tmp_path / "new").find("one") == comparison(1.5, 2.0, 0.5)
    assert kept.find("none") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "[" * 100_000, '{"one": 5}'),
        *(f'{{"one": {{"reading": {ratio}, "answering": {{"64": 2}}}}}}' for ratio in ('"x"', -1, 0, "NaN", "9" * 400)),
    ],
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, text: str) -> None:
    kept = Kept(tmp_path)
    kept.path.write_text(text)
    assert kept.find("one") is None
    kept.put("one", comparison(2.0))
    assert kept.find("one") == comparison(2.0)


def test_only_so_many_are_kept_and_what_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for number in range(attention._MAX_KEPT + 5):
        kept.put(str(number), comparison(1.0))
    assert kept.find("4") is None
    assert kept.find("5") is not None
    (tmp_path / "file").touch()
    Kept(tmp_path / "file").put("one", comparison(1.0))


def test_a_user_without_a_home_has_it_measured_each_time(
    measured: Path, random_path: Path, model_of: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number which no user has."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(Path, "home", no_home)
    assert "(measured: " in model_of(random_path).info.details["flash attention"]
    assert not measured.exists()


def test_a_model_is_measured_once_and_says_what_was_found(measured: Path, random_path: Path, model_of: Load) -> None:
    told = model_of(random_path).info.details["flash attention"]
    assert "(measured: " in told
    assert "times as fast with it at reading" in told
    file = measured / "attention.json"
    first = file.read_text()
    assert model_of(random_path).info.details["flash attention"] == told
    assert file.read_text() == first
    # What is kept decides, whatever would be found now.
    for ratio, word in ((9.0, "on"), (0.1, "off")):
        key = next(iter(Kept(measured)._all()))
        Kept(measured).put(key, comparison(ratio))
        assert model_of(random_path).info.details["flash attention"].startswith(f"{word} (measured: {ratio:.2f}")
    assert file.stat().st_mode & 0o077 == 0 or file.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("asked", [True, False])
def test_who_asks_for_one_way_gets_it_unmeasured(
    measured: Path, random_path: Path, model_of: Load, asked: bool
) -> None:
    model = model_of(random_path, flash_attention=asked)
    assert model.info.details["flash attention"] == ("on" if asked else "off")
    assert not measured.exists()


def test_small_models_are_not_measured(random_path: Path, model_of: Load) -> None:
    assert model_of(random_path).info.details["flash attention"] == "off"


def test_what_decides_it_is_in_the_key() -> None:
    assert key_of("file", 1, "f16") != key_of("file", 2, "f16")
    assert key_of("file", 1) == key_of("file", 1)
