"""What a variable, a file or a secret field holds is told nowhere."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chatbridge import Plugins
from chatbridge.cli import main
from chatbridge.config import json_schema

from .conftest import Diagnostics, Read
from .samples import GOOD, MODEL

# Places where a secret may end up, rightly or by mistake, as @.
PLACES = [
    "models: {m: {backend: @}}",
    "models: {m: {backend: engine, path: x, api_key: @, thread: 1}}",
    "models: {m: {backend: engine, path: x, threads: @, share: @, verbose: @, precision: @}}",
    "models: {m: {backend: engine, path: x, login: {user: x, password: @, pin: 1}, device: {kind: @}}}",
    "models: {m: {backend: engine, path: x, adapters: [{path: x, scale: @}], headers: [@]}}",
    "models: {m: {backend: simple, template: @, max_batch: @}}",
    "templates: {t: {extends: @}, u: {extends: t}}",
    "templates: {t: {user: @, assistant: @, blanks: @, stop: @}}",
    "defaults: {model: @, template: @, language: @, history: @, sampling: @}",
    "defaults: {sampling: {temperature: @, top_k: @, seed: @, stop: @, logit_bias: @}}",
    "bots: {b: {frontend: @}}",
    "bots: {b: {frontend: rooms, token: @, tokn: 1}}",
    "bots: {b: {frontend: rooms, token: @, greeting: leak}}",
    "bots: {b: {frontend: rooms, token: @, region: @, poll_seconds: @, intents: [@], retries: @}}",
    "bots: {b: {frontend: rooms, token: bad@}}",
    "bots: {b: {frontend: rooms, token_file: @}}",
    "bots: {b: {frontend: rooms, token: x, allow: {users: [@]}, deny: @, channels: @, defaults: @}}",
    "bots: @",
    "models: @",
]

# Places where a secret is known to be one, even where it is written out.
KNOWN = [
    "bots: {b: {frontend: rooms, token: @, tokn: 1}}",
    "bots: {b: {frontend: rooms, token: @, greeting: leak}}",
    "bots: {b: {frontend: rooms, token: bad@}}",
    "bots: {b: {frontend: rooms, token: [@]}}",
    "bots: {b: {frontend: rooms, token_file: @}}",
    "models: {m: {backend: engine, path: x, login: {user: '', password: @}}}",
]

LETTERS = st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters="${}")
# Hypothesis also draws words that stand in our code; a secret that is the name of a key can't be kept out of a list.
SECRETS = st.text(LETTERS, min_size=12).filter(lambda text: not re.fullmatch("[a-z_]+", text))


def filled(place: str, value: str) -> str:
    """The file with `value` in the place."""
    bad, good = (json.dumps(text, ensure_ascii=False) for text in (f"bad{value}", value))
    return place.replace("bad@", bad).replace("@", good)


def spoken_of(secret: str, text: str) -> bool:
    return secret in text or repr(secret)[1:-1] in text or json.dumps(secret)[1:-1] in text


@settings(max_examples=25, deadline=None)
@given(secret=SECRETS)
def test_no_error_tells_what_a_variable_holds(diagnostics: Diagnostics, secret: str) -> None:
    for place in PLACES:
        for diagnostic in diagnostics(filled(place, "${SECRET}"), {"SECRET": secret}):
            assert not spoken_of(secret, diagnostic)


@settings(max_examples=25, deadline=None)
@given(secret=SECRETS)
def test_no_error_tells_what_a_file_holds(diagnostics: Diagnostics, folder: Path, secret: str) -> None:
    for content in (secret, f"bad{secret}"):
        (folder / "secret.txt").write_text(content + "\n", encoding="utf-8")
        for mistake in ("tokn: 1", "greeting: leak", "region: 5", "defaults: {system_file: secret.txt, modle: x}"):
            text = MODEL + f"bots: {{b: {{frontend: rooms, token_file: secret.txt, {mistake}}}}}"
            found = diagnostics(text)
            assert found
            assert not any(spoken_of(secret, diagnostic) for diagnostic in found)


@settings(max_examples=25, deadline=None)
@given(secret=SECRETS)
def test_no_error_tells_a_secret_that_is_written_out(diagnostics: Diagnostics, secret: str) -> None:
    assume(not Path(secret).exists())  # the name of a file that is there, such as /proc/cpuinfo, is no mistake
    for place in KNOWN:
        found = diagnostics(filled(place, secret))
        assert found
        assert not any(spoken_of(secret, diagnostic) for diagnostic in found)


def test_no_secret_is_in_the_repr_of_settings_nor_in_the_log(
    read: Read, plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = read(GOOD.read_bytes())
    told = [repr(settings), str(settings), caplog.text, json.dumps(json_schema(plugins))]
    told += [repr(part) for part in (*settings.models.values(), *settings.bots.values())]
    for text in told:
        assert not any(secret in text for secret in ("xR7", "k3y"))
    for kept in (*settings.models.values(), *settings.bots.values()):
        assert not any(secret in repr(kept.options) for secret in ("xR7-rooms", "k3y"))


def test_a_variable_is_not_repeated_wherever_it_is_kept(read: Read) -> None:
    text = (
        "models: {m: {backend: engine, path: '${S}', note: '${S}', sampling: {stop: ['${S}']}}}\n"
        "templates: {t: {extends: alpaca, system: '${S}', stop: ['${S}']}}\nstore: ${S}\n"
        "defaults: {system: '${S}', sampling: {stop: ['${S}']}}\n"
        "bots: {b: {frontend: open, defaults: {system: '${S}'}, channels: {c: {system: '${S}'}}, "
        "deny: {users: ['${S}']}}}\n"
    )
    assert "hush-hush" not in repr(read(text, {"S": "hush-hush"}))


# --- the command line ----------------------------------------------------------------------------------------------

AS_A_PACKAGE = """
plugin = SamplePlugin()
register_backends, register_frontends = plugin.register_backends, plugin.register_frontends
register_templates = plugin.register_templates
"""
SECRET = "S3cr€t-'\"-τoken"


@pytest.mark.parametrize(
    "text", [*(filled(place, "${SECRET}") for place in PLACES), *(filled(place, SECRET) for place in KNOWN)]
)
def test_no_command_tells_a_secret(
    install: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    install(
        "sample",
        Path(__file__).with_name("samples.py").read_text(encoding="utf-8").rpartition("\n\nBAD")[0] + AS_A_PACKAGE,
    )
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    told = ""
    for command in (["check"], ["doctor"], ["doctor", "--json"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 1
        told += "".join(capsys.readouterr())
    assert "bots.yaml:1:" in told
    assert not spoken_of(SECRET, told + caplog.text)
