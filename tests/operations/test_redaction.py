"""A secret that libraries log: taken out of their records while a frontend runs, and whom it silences."""

from __future__ import annotations

import logging

import pytest

from chatbridge import redacted

SECRET = "123456:s3cret"


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_a_secret_is_hidden_in_messages_and_in_arguments(caplog: pytest.LogCaptureFixture) -> None:
    with redacted(SECRET, ("library", "library.http")):
        logging.getLogger("library").info("asks /%s/getMe and %s again", SECRET, SECRET)
        logging.getLogger("library.http").debug(f"POST /{SECRET}/getMe")
    assert caplog.messages == ["asks /[hidden]/getMe and [hidden] again", "POST /[hidden]/getMe"]
    assert SECRET not in str([vars(record) for record in caplog.records])


def test_other_records_say_what_they_said(caplog: pytest.LogCaptureFixture) -> None:
    with redacted(SECRET, ["library"]):
        logging.getLogger("library").warning("took %d%% of %s", 3, {"a": 1})
        logging.getLogger("library").warning("100% sure")
        logging.getLogger("library.unnamed").warning("%s", SECRET)
    assert caplog.messages == ["took 3% of {'a': 1}", "100% sure", SECRET]


def test_what_is_changed_after_it_was_logged_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    answer = {"path": "photos/1"}
    with redacted(SECRET, ["library"]):
        logging.getLogger("library").debug("answered %s", answer)
        answer["path"] = f"https://api.example.org/{SECRET}/photos/1"
    assert caplog.messages == ["answered {'path': 'photos/1'}"]


def test_talkative_loggers_are_silent_below_their_level(caplog: pytest.LogCaptureFixture) -> None:
    with redacted(SECRET, ["library"], {"talkative": logging.WARNING}):
        for name in ("library", "talkative"):
            logging.getLogger(name).debug("%s: all that comes and goes", name)
            logging.getLogger(name).info("%s: a line for each call", name)
            logging.getLogger(name).warning("%s: no answer from /%s/", name, SECRET)
    assert caplog.messages == [
        "library: all that comes and goes",
        "library: a line for each call",
        "library: no answer from /[hidden]/",
        "talkative: no answer from /[hidden]/",
    ]


def test_afterwards_everything_is_logged_as_before(caplog: pytest.LogCaptureFixture) -> None:
    def stop() -> None:
        with redacted(SECRET, ["library"], {"talkative": logging.WARNING}):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop()
    for name in ("library", "talkative"):
        assert logging.getLogger(name).filters == []
        logging.getLogger(name).debug("%s", SECRET)
    assert caplog.messages == [SECRET, SECRET]


def test_two_bots_hide_a_secret_each(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("library")
    with redacted("first-secret", ["library"]):
        with redacted("second-secret", ["library"]):
            log.info("first-secret second-secret")
        log.info("first-secret second-secret")
    assert caplog.messages == ["[hidden] [hidden]", "[hidden] second-secret"]
