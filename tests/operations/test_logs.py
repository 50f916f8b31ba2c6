"""The log: JSON lines that programs can read, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from chatbridge import Options, Secret, Settings
from chatbridge.config import BotSettings, ModelSettings
from chatbridge.operations.logs import HIDDEN, JsonFormatter, Redactor, TextFormatter, secrets_of, set_up

TELEGRAM = "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw_"
DISCORD = "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs"


class Account(Options):
    password: Secret


class Tokens(Options):
    token: Secret
    plain: str = "plain words"
    accounts: tuple[Account, ...] = ()


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str, *arguments: object, error: Exception | None = None, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("chatbridge.x", logging.INFO, __file__, 1, message, arguments, None)
    if error is not None:
        made.exc_info = (type(error), error, error.__traceback__)
    vars(made).update(extra)
    return made


def test_a_json_line_says_what_happened() -> None:
    line = JsonFormatter(Redactor()).format(record("bot %s: “hi”\nline", "a", bot="a", count=3))
    fields = json.loads(line)
    assert "\n" not in line
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "INFO",
        "logger": "chatbridge.x",
        "message": "bot a: “hi”\nline",
        "bot": "a",
        "count": 3,
    }


@pytest.mark.parametrize("formatter", [JsonFormatter, TextFormatter])
@pytest.mark.parametrize("secret", [TELEGRAM, DISCORD, 'a pass"word\\ with 漢字'])
def test_no_secret_is_in_a_message_an_error_or_an_extra(formatter: type[logging.Formatter], secret: str) -> None:
    redactor = Redactor()
    redactor.learn(['a pass"word\\ with 漢字', "abc"])
    try:
        raise ConnectionError(f"POST https://api.example.org/bot{secret}/getMe")
    except ConnectionError as error:
        line = formatter(redactor).format(record("told %s", secret, error=error, url=f"/{secret}/"))  # type: ignore[call-arg]
    assert secret not in line
    assert json.dumps(secret, ensure_ascii=False)[1:-1] not in line
    assert line.count(HIDDEN) >= 2
    assert "getMe" in line
    assert "ConnectionError" in line


def test_words_and_numbers_are_no_secrets() -> None:
    for text in (
        "channel 1122334455667788990: message 998877 is given up",
        "12:34:56 chatbridge.delivery.dispatch.Dispatch",
        "https://example.org/a/long/path/with.many.dots.in.it?and=arguments",
        "Bot name: started",
    ):
        assert Redactor()(text) == text


def test_every_secret_of_a_bots_yaml_is_known() -> None:
    options = Tokens(token=SecretStr("one-token"), accounts=(Account(password=SecretStr("two-word")),))
    bot = BotSettings("b", "x", options)
    model = ModelSettings("m", "y", Account(password=SecretStr("three-word")))
    settings = Settings({"m": model}, {}, store=None, bots={"b": bot})  # type: ignore[arg-type]
    assert set(secrets_of(settings)) == {"one-token", "two-word", "three-word"}


@given(st.text(min_size=4), st.text(), st.text())
def test_whatever_the_secret_is_it_is_hidden(secret: str, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.learn([secret])
    assert secret in HIDDEN or secret not in redactor(before + secret + after).replace(HIDDEN, "\0")


def test_setting_up_sends_everything_one_way() -> None:
    stream, redactor = io.StringIO(), Redactor()
    set_up("json", logging.INFO, redactor, stream)
    redactor.learn(["later-learnt"])
    logging.getLogger("discord").info("POST later-learnt")
    logging.getLogger("httpx").info("nor each request")
    logging.getLogger("chatbridge").debug("not this")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == f"POST {HIDDEN}"


def lines_of(kind: str, level: int, name: str) -> list[str]:
    """What an error of a logger comes to."""
    stream = io.StringIO()
    set_up(kind, level, Redactor(), stream)  # type: ignore[arg-type]
    try:
        raise ConnectionError("gone\nfor good")
    except ConnectionError as error:
        logging.getLogger(name).error("polling of %s failed", "b", exc_info=error)
    return stream.getvalue().splitlines()


def test_a_librarys_trouble_is_one_line_unless_everything_is_asked_for() -> None:
    (line,) = lines_of("text", logging.INFO, "telegram.ext.Updater")
    assert line.endswith(" ERROR telegram.ext.Updater: polling of b failed: ConnectionError: gone for good")
    assert len(lines_of("text", logging.DEBUG, "telegram.ext.Updater")) > 3
    assert len(lines_of("text", logging.INFO, "telegrams")) > 3
    ours = lines_of("text", logging.INFO, "chatbridge.x")
    assert "Traceback" in ours[1]
    assert all(line.startswith("    ") for line in ours[1:]), "only a record begins at the edge"
    (line,) = lines_of("json", logging.INFO, "chatbridge.x")
    assert json.loads(line)["error"].startswith("Traceback")


def test_where_everything_is_asked_for_each_request_is_told_of() -> None:
    stream = io.StringIO()
    set_up("text", logging.DEBUG, Redactor(), stream)
    logging.getLogger("httpx").info("a request")
    logging.getLogger("httpcore").debug("its bytes")
    set_up("text", logging.INFO, Redactor(), stream)
    logging.getLogger("httpx").info("none")
    logging.getLogger("httpx").warning("trouble")
    assert [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()] == [
        "a request",
        "its bytes",
        "trouble",
    ]


def test_what_is_told_besides_keeps_its_kind() -> None:
    told = record("x", count=3, share=0.5, good=True, who=["a"], nobody=None)
    fields = json.loads(JsonFormatter(Redactor()).format(told))
    found = [fields[key] for key in ("count", "share", "good", "who", "nobody")]
    assert found == [3, 0.5, True, "['a']", "None"]


def test_a_secret_has_four_characters_at_least_and_is_found_wherever_it_is() -> None:
    redactor = Redactor()
    redactor.learn(["abc", "wxyz", "wxyz12"])
    assert redactor("abc wxyz wxyz12") == f"abc {HIDDEN} {HIDDEN}"

    class Many(Options):
        by_name: dict[str, SecretStr]
        some: list[SecretStr]
        inside: Account

    hidden = [SecretStr(word) for word in ("dict-word", "list-word")]
    options = Many(by_name={"a": hidden[0]}, some=[hidden[1]], inside=Account(password=SecretStr("in-word")))
    settings = Settings({}, {}, store=None, bots={"b": BotSettings("b", "x", options)})  # type: ignore[arg-type]
    assert set(secrets_of(settings)) == {"dict-word", "list-word", "in-word"}
