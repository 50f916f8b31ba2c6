"""The keys of a Telegram bot in bots.yaml: what is taken, and what is said of what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from chatbridge_telegram.options import TelegramOptions
from pydantic import ValidationError

from chatbridge import Plugins

GOOD = {"token": "123456789:AAE-x2_y"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"token": "hello"}, "@BotFather gives one"),
        ({"api_url": "127.0.0.1:8081"}, "ends where the token follows"),
        ({"file_url": "http://127.0.0.1"}, "ends where the token follows"),
        ({"webhook": {"url": "http://example.org/"}}, "posts to https"),
        ({"webhook": {"url": "https://example.org/", "secret": "é"}}, "letters, digits"),
        ({"webhook": {}}, "Field required"),
        ({"max_parts": 0}, "greater than or equal to 1"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_what_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TelegramOptions.model_validate(GOOD | given)


def test_what_is_taken() -> None:
    options = TelegramOptions.model_validate(
        GOOD | {"webhook": {"url": "https://example.org/x", "secret": "s3cret"}, "proxy": "socks5://127.0.0.1:1080"}
    )
    assert options.token.get_secret_value() == GOOD["token"]
    assert "AAE" not in repr(options)
    assert "s3cret" not in repr(options)


@pytest.mark.parametrize(
    ("id", "good"),
    [("123456789", True), ("-1001234567890", True), ("-1001234567890:5", True), ("@alice", False), ("12 34", False)],
)
def test_ids(id: str, good: bool) -> None:
    import chatbridge_telegram

    plugins = Plugins([chatbridge_telegram], discover=False)
    wrong = plugins.require_frontend("telegram").check_id(id)
    assert (wrong == "") is good
    assert good or "it should be a number" in wrong


def test_naming_the_frontend_imports_no_library() -> None:
    code = "import sys, chatbridge_telegram; chatbridge_telegram.register_frontends(); print('telegram' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
