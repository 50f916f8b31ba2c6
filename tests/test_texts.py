"""What chatbridge says in chats: in English and in Chinese, with the same values in both, and nothing unused."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from chatbridge.texts import _TEXTS, LANGUAGES, duration, pick_language, say

CORE = Path(__file__).parents[1] / "chatbridge"


def fields(text: str) -> list[str]:
    return sorted({name for _, name, _, _ in Formatter().parse(text) if name})


@pytest.mark.parametrize("key", _TEXTS)
def test_both_languages_say_the_same(key: str) -> None:
    english, chinese = _TEXTS[key]
    assert fields(english) == fields(chinese)
    assert english.strip()
    assert re.search(r"[\u3400-\u9fff]|\{|。", chinese)
    assert not re.search(r"[\u3400-\u9fff]", english)


def test_every_text_is_used_and_every_one_that_is_used_is_there() -> None:
    sources = [path.read_text(encoding="utf-8") for path in CORE.rglob("*.py") if path.name != "texts.py"]
    everything = "\n".join(sources)
    buttons = {f"button_{action}" for action in ("stop", "regenerate", "continue", "branch", "answer")}
    inside = {"hint", "no_hint", "seconds", "minutes", "hours", "messages_per_minute", "tokens_per_day"}
    for key in _TEXTS.keys() - buttons - inside:
        assert f'"{key}"' in everything or f"'{key}'" in everything, key
    for key in re.findall(r"""\bsay\((?:\w+\.)*language, ["'](\w+)["']""", everything):
        assert key in _TEXTS, key


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (0.0, "1 s", "1 秒"),
        (1.2, "2 s", "2 秒"),
        (99.4, "100 s", "100 秒"),
        (100, "2 min", "2 分钟"),
        (5_940, "99 min", "99 分钟"),
        (5_941, "2 h", "2 小时"),
        (86_400, "24 h", "24 小时"),
    ],
)
def test_waits_are_rounded_up(seconds: float, english: str, chinese: str) -> None:
    assert [duration(seconds, language) for language in LANGUAGES] == [english, chinese]


@pytest.mark.parametrize(
    ("setting", "client", "text", "language"),
    [
        ("zh", "en", "hello", "zh"),
        ("en", "zh-CN", "你好", "en"),
        ("auto", "zh-TW", "hello", "zh"),
        ("auto", "de", "你好", "en"),
        ("auto", "", "你好", "zh"),
        ("auto", "", "hello", "en"),
    ],
)
def test_the_language_is_the_channels_the_clients_or_the_scripts(
    setting: str, client: str, text: str, language: str
) -> None:
    assert pick_language(setting, client, text) == language


def test_values_are_filled_in() -> None:
    assert say("en", "pairing", code="AB") == "I don't know you yet. Ask an admin of this bot to say: /pair AB"
