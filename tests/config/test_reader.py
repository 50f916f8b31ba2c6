"""What the reader says about bad files, word for word; `complaints.txt` holds them, each with its complaints."""

from __future__ import annotations

import json
import logging
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import ChannelSettings, ConfigError, Plugins, Sampling, Settings
from chatbridge.config import default_settings, json_schema, load
from chatbridge.config.nodes import DEPTH, NODES, parse
from chatbridge.config.words import plain_value

from .conftest import Complaints, Read
from .samples import ENVIRONMENT, GOOD, Cpu, EngineOptions, Gpu, RoomsOptions, sample_plugins, write_files

MODEL = "models: {m: {backend: simple}}\n"


def cases() -> dict[str, tuple[str, list[str]]]:
    """The bad files by their names, and the complaints about them."""
    found = {}
    text = Path(__file__).with_name("complaints.txt").read_text(encoding="utf-8")
    for part in re.split(r"(?m)^## ", text)[1:]:
        name, _, rest = part.partition("\n")
        lines = rest.rstrip("\n").split("\n")
        file = "".join(f"{line}\n" for line in lines if not line.startswith("=> "))
        found[name] = (file, [line.removeprefix("=> ") for line in lines if line.startswith("=> ")])
    return found


BAD = cases()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_these_complaints(complaints: Complaints, folder: Path, name: str) -> None:
    text, expected = BAD[name]
    found = [line.replace(str(folder), "FOLDER") for line in complaints(text)]
    # Where all templates are listed, two are enough.
    shortened = [re.sub(r"\b(alpaca, alpaca-lora, ).*", r"\1…", line) for line in found]
    assert shortened == expected


def test_every_name_of_a_bad_file_is_its_own() -> None:
    text = Path(__file__).with_name("complaints.txt").read_text(encoding="utf-8")
    assert len(BAD) == len(re.findall(r"(?m)^## ", text))
    assert all(expected for _, expected in BAD.values())


# --- files that can't be kept as text ------------------------------------------------------------------------------

ODD = {
    "a control character": (MODEL + "store: a\x07b\n", ["2:9: the character U+0007 can't stand in YAML; remove it"]),
    "one behind wide characters": ("# é😀 世界 \x00", ["1:9: the character U+0000 can't stand in YAML; remove it"]),
    "a delete": ("\x7f", ["1:1: the character U+007F can't stand in YAML; remove it"]),
    "no character": ("a: \uffff\n", ["1:4: the character U+FFFF can't stand in YAML; remove it"]),
    "no UTF-8": (MODEL.encode() + b"# \xe4\xb8\x96 \xff", ["2:5: this byte is no UTF-8; save the file as UTF-8"]),
    "UTF-16": (MODEL.encode("utf-16"), ["1:1: this byte is no UTF-8; save the file as UTF-8"]),
    "Latin-1": ("# café".encode("latin-1"), ["1:6: this byte is no UTF-8; save the file as UTF-8"]),
    "no UTF-8 behind a BOM": (b"\xef\xbb\xbf\xff", ["1:1: this byte is no UTF-8; save the file as UTF-8"]),
    "half a character": (b"# \xed\xa0\x80", ["1:3: this byte is no UTF-8; save the file as UTF-8"]),
    "a BOM": (
        b"\xef\xbb\xbfstor: 1\n" + MODEL.encode(),
        ["1:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "CRLF": (
        (MODEL + "bots: {}\nstor: 1\n").replace("\n", "\r\n"),
        ["3:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "CR": (
        (MODEL + "bots: {}\nstor: 1\n").replace("\n", "\r"),
        ["3:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "line ends that editors don't count": (
        MODEL + "defaults: {system: 'a\u2028b\x85c'}\nstor: 1\n",
        ["3:1: there is no key 'stor' at the top of the file; did you mean 'store'?"],
    ),
    "a list": ("- models\n", ["1:1: the file has to be keys with values, as `key: value`"]),
    "text": ("models", ["1:1: the file has to be keys with values, as `key: value`"]),
    "deep": (MODEL + "x: " + "[" * 99 + "]" * 99, [f"2:{DEPTH + 3}: nested more than {DEPTH} deep"]),
    "deep, and never closed": ("[" * 100_000, [f"1:{DEPTH + 1}: nested more than {DEPTH} deep"]),
    "deep blocks": (
        "".join(" " * depth + "a:\n" for depth in range(60)),
        [f"{DEPTH + 1}:{DEPTH + 1}: nested more than {DEPTH} deep"],
    ),
    "a bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{n}: &{n} [{', '.join(['*' + m] * 9)}]\n" for m, n in pairwise("abcdefghi")),
        [f"1:1: there are more than {NODES} values, those of aliases counted; make do with less"],
    ),
    "a bomb of merges": (
        "a: &a {x: 1}\n"
        + "".join(f"{n}: &{n} {{<<: [{', '.join(['*' + m] * 9)}]}}\n" for m, n in pairwise("abcdefghi")),
        [f"{n}:1: there is no key {k!r} at the top of the file (known: models, templates, defaults, bots, store)"
         for n, k in enumerate("abcdefghi", 1)],
    ),
    "a very long key": (
        MODEL + "k" * 999 + ": 1\n",
        [f"2:1: there is no key '{'k' * 39}…' at the top of the file "
         "(known: models, templates, defaults, bots, store)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ODD.values(), ids=ODD.keys())
def test_an_odd_file_gets_these_complaints(complaints: Complaints, text: str | bytes, expected: list[str]) -> None:
    assert complaints(text) == expected


def test_the_reader_tells_which_files_count(folder: Path, plugins: Plugins) -> None:
    path, files = folder / "bots.yaml", set[Path]()
    path.write_bytes(GOOD.read_bytes())
    load(path, plugins, ENVIRONMENT, looked_at=files)
    assert files == {path, folder / "key.txt", folder / "persona.txt"}
    path.write_text("bots: {b: {frontend: rooms, token_file: nowhere.txt}}", encoding="utf-8")
    with pytest.raises(ConfigError):
        load(path, plugins, ENVIRONMENT, looked_at=(missing := set[Path]()))
    assert missing == {path, folder / "nowhere.txt"}


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, plugins: Plugins, name: str) -> None:
    with pytest.raises(ConfigError, match=r":1:1: this file can't be read: .*; name another one$"):
        load(tmp_path / name, plugins)


def test_a_broken_core_backend_is_told_of_where_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "bots.yaml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"1:1: there are no models, and there is no backend 'numpy' \(inst"):
        load(path, Plugins(discover=False))


# --- the good file -------------------------------------------------------------------------------------------------


@pytest.fixture
def good(read: Read) -> Settings:
    return read(GOOD.read_bytes())


def test_the_sample_means_what_it_says(good: Settings, folder: Path) -> None:
    assert list(good.models) == ["big", "careful", "plain"]
    assert list(good.bots) == ["guild", "club"]
    assert good.store == folder / "data/talks.sqlite3"
    assert good.defaults == ChannelSettings(model="big", reply_to="mentions", sampling=Sampling(top_k=20, top_p=0.9))


def test_options_become_the_plugins_own_type(good: Settings, folder: Path) -> None:
    options: Any = good.models["big"].options
    assert isinstance(options, EngineOptions)
    assert options.path == folder / "models/big.bin"
    assert options.api_key is not None
    assert options.api_key.get_secret_value() == "k3y-of-the-engine"
    assert (options.precision, options.threads, options.share, options.verbose) == ("half", 4, 0.5, True)
    assert options.device == Gpu(kind="gpu", layers="all")
    assert [adapter.path for adapter in options.adapters] == [folder / "adapters/one.bin", Path("/opt/two.bin")]
    assert options.headers == {"X-Name": "chatbridge", "X-Literal": "${not a variable}"}
    assert options.login is not None
    assert (options.login.user, options.login.password.get_secret_value()) == ("guest", "xR7-rooms-token")
    assert options.note == "Two lines,\nboth of them text.\n"
    assert options.model == "a key of the plugin's own"


def test_a_merge_gives_what_the_mapping_lacks(good: Settings) -> None:
    big, careful = good.models["big"], good.models["careful"]
    options: Any = careful.options
    assert isinstance(options, EngineOptions)
    assert options.device == Cpu(kind="cpu", threads=4)
    assert options.precision == "full"
    assert options.path == big.options.path  # type: ignore[attr-defined]
    assert (careful.template, careful.max_batch) == ("chatml", 8)
    assert careful.sampling == Sampling(temperature=0, seed=11, logit_bias={5: -100, 7: 10})
    assert careful.sampling.model_fields_set == {"temperature", "seed", "logit_bias"}


def test_bots_have_their_channels_and_people(good: Settings) -> None:
    guild = good.bots["guild"]
    options: Any = guild.options
    assert isinstance(options, RoomsOptions)
    assert options.token.get_secret_value() == "xR7-rooms-token"
    assert options.retries == [0, 1, 5]
    assert list(guild.channels) == ["1122334455", "-100200", "7"]
    assert guild.channels["-100200"].system == "You are kind.\nYou are brief."
    assert guild.channels["-100200"].history is False
    assert guild.allow.users == {"12345", "-67"}
    assert guild.allow.channels == {"1122334455", "-100200"}
    assert guild.deny.users == {"666"}
    assert good.bots["club"].channels["lobby"].system == ""


def test_templates_extend_each_other(good: Settings) -> None:
    alpaca, librarian, quiet = (good.templates[name] for name in ("alpaca", "librarian", "quiet-librarian"))
    assert alpaca.name_format == librarian.name_format == "<{name}> {text}", "one's own alpaca, not the preset"
    assert quiet.system == librarian.system == "You are the librarian of {channel}."
    assert quiet.stop == ("!",)
    assert quiet.name == "quiet-librarian"
    assert good.templates["theirs"].jinja == "model"
    assert "letter" in good.templates, "a plugin's"


def test_merges_of_merges_and_lists_of_them(read: Read) -> None:
    text = """
        models: {m: {backend: simple}}
        bots:
          b:
            frontend: open
            channels:
              one: &one {language: en, thinking: show}
              two: &two {<<: *one, language: zh}
              three: {<<: *two, reply_to: never}
              four: {<<: [*two, {language: en, reply_to: always}]}
    """
    channels = read(text).bots["b"].channels
    assert channels["three"] == ChannelSettings(language="zh", thinking="show", reply_to="never")
    assert channels["four"] == ChannelSettings(language="zh", thinking="show", reply_to="always")


def test_words_in_quotes_are_no_traps(complaints: Complaints) -> None:
    text = (
        MODEL + 'defaults: {system: "on", model: \'m\', sampling: {stop: ["0123", "12:30", "1_000", ".nan", "null"]}}\n'
    )
    assert complaints(text) == []


def test_keys_are_text_whatever_they_look_like(read: Read) -> None:
    ids = ["on", "0123", "1_000", "12:30", ".nan", "null", "0x1F", "1e3", "~", "true"]
    text = MODEL + "bots: {b: {frontend: open, channels: {" + ", ".join(f"{id}: {{}}" for id in ids) + "}}}"
    assert list(read(text).bots["b"].channels) == ids


def test_empty_files_and_sections_are_good(read: Read, plugins: Plugins) -> None:
    for text in (
        "",
        "# nothing\n",
        "---\n",
        "models:\nbots:\ntemplates:\ndefaults:\n",
        "bots: {b: {frontend: open, allow: }}",
    ):
        settings = read(text)
        assert list(settings.models) == ["guide"]
        assert settings.models["guide"] == default_settings(plugins, Path("x")).models["guide"]


def test_a_variable_or_a_file_may_be_the_users_own_folder(
    read: Read, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    settings = read(MODEL + "store: ~/talks.sqlite3\nbots: {b: {frontend: rooms, token_file: ~/key.txt}}\n")
    assert settings.store == folder / "talks.sqlite3"
    options: Any = settings.bots["b"].options
    assert options.token.get_secret_value() == "k3y-of-the-engine"


def test_files_stand_beside_bots_yaml_wherever_the_program_runs(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    write_files(folder)
    (folder / "bots.yaml").write_bytes(GOOD.read_bytes())
    monkeypatch.chdir(tmp_path)
    settings = load(Path("etc/bots.yaml"), plugins, ENVIRONMENT)
    assert settings.store == folder / "data/talks.sqlite3"
    assert settings.bots["guild"].defaults.system == "You are kind.\nYou are brief."


def test_a_text_from_a_file_may_have_a_bom_and_line_ends(folder: Path, read: Read) -> None:
    (folder / "windows.txt").write_bytes(b"\xef\xbb\xbft0ken\r\n")
    options: Any = read(MODEL + "bots: {b: {frontend: rooms, token_file: windows.txt}}\n").bots["b"].options
    assert options.token.get_secret_value() == "t0ken"


# --- recommendations -----------------------------------------------------------------------------------------------

FIELDS = {
    "history": "defaults: {history: VALUE}",
    "system": "defaults: {system: VALUE}",
    "a choice": "defaults: {language: VALUE}",
    "a number": "defaults: {sampling: {temperature: VALUE}}",
    "a whole number": "defaults: {sampling: {top_k: VALUE}}",
    "stop": "defaults: {sampling: {stop: [VALUE]}}",
    "an id": "bots: {b: {frontend: open, allow: {users: [VALUE]}}}",
    "a union": "models: {m: {backend: engine, path: x, threads: VALUE}}",
    "a secret": "bots: {b: {frontend: rooms, token: VALUE}}",
    "nested": "models: {m: {backend: engine, path: x, login: {user: VALUE, password: x}}}",
    "headers": "models: {m: {backend: engine, path: x, headers: {a: VALUE}}}",
    "a path": "store: VALUE",
}
WORDS = [
    *(
        "on",
        "Yes",
        "off",
        "NO",
        "true",
        "~",
        "0123",
        "-007",
        "00",
        "09",
        "1_000",
        "0_8",
        "1_0.5",
        "1_0e2",
        "1_",
        "1__0",
    ),
    *("12:30", "1:2:3.5", ".inf", "-.INF", ".nan", "1e999", "0o17", "0b1_0", "0b11", "0x1F", "+5", "1e2", ".5", "5."),
]


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_recommended_in_place_of_a_trap_is_accepted(complaints: Complaints, field: str) -> None:
    followed = 0
    for complaint in [one for word in WORDS for one in complaints(FIELDS[field].replace("VALUE", word))]:
        if recommended := re.search(r"; write (.*)$", complaint):
            for instead in recommended[1].split(" or "):
                assert complaints(FIELDS[field].replace("VALUE", instead)) == [], (complaint, instead)
                followed += 1
    assert followed >= (0 if field == "a choice" else 4)


def test_every_hint_of_the_bad_files_leads_further(complaints: Complaints) -> None:
    """Whoever follows a "did you mean" does not hear of the same mistake again."""
    followed = 0
    for text, _ in BAD.values():
        for complaint in complaints(text):
            match = re.match(r"(\d+):(\d+): .*; did you mean '(.*?)'\?$", complaint)
            lines = text.splitlines()
            line, column = (int(match[1]) - 1, int(match[2]) - 1) if match else (0, 0)
            there = re.match(r"['\"]?([\w-]+)", lines[line][column:])
            if match is None or there is None:
                continue
            lines[line] = lines[line][:column] + lines[line][column:].replace(there[1], match[3], 1)
            again = complaints("\n".join(lines))
            assert not [other for other in again if other.startswith(f"{match[1]}:{match[2]}: ")], (complaint, again)
            followed += 1
    assert followed > 20


@given(st.text(max_size=8) | st.from_regex(r"[-+]?[0-9_.:eExob]{0,8}", fullmatch=True))
def test_plain_words_never_fail_and_readings_are_no_traps(text: str) -> None:
    _, trap = plain_value(text)
    if trap is not None:
        written = trap.complaint(trap.readings).rpartition("; write ")[2].split(" or ")
        for reading, instead in zip(trap.readings, written, strict=True):
            if not isinstance(reading, str):
                assert plain_value(instead) == (reading, None)


# --- secrets -------------------------------------------------------------------------------------------------------

# Places where a secret may end up, by the right way or by mistake. @ stands for it.
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
SECRETS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters="'{}$\\"), min_size=12
)


def spoken_of(secret: str, text: str) -> bool:
    return secret in text or repr(secret)[1:-1] in text or json.dumps(secret)[1:-1] in text


@settings(max_examples=25)
@given(secret=SECRETS)
def test_no_complaint_tells_what_a_variable_holds(complaints: Complaints, secret: str) -> None:
    for place in PLACES:
        text = place.replace("bad@", "'bad${SECRET}'").replace("@", "'${SECRET}'")
        for complaint in complaints(text, {"SECRET": secret}):
            assert not spoken_of(secret, complaint)


@settings(max_examples=25)
@given(secret=SECRETS)
def test_no_complaint_tells_what_a_file_holds(complaints: Complaints, folder: Path, secret: str) -> None:
    for content in (secret, f"bad{secret}"):
        (folder / "secret.txt").write_text(content + "\n", encoding="utf-8")
        for mistake in ("tokn: 1", "greeting: leak", "region: 5", "defaults: {system_file: secret.txt, modle: x}"):
            text = MODEL + f"bots: {{b: {{frontend: rooms, token_file: secret.txt, {mistake}}}}}"
            found = complaints(text)
            assert found
            assert not any(spoken_of(secret, complaint) for complaint in found)


@settings(max_examples=25)
@given(secret=SECRETS)
def test_no_complaint_tells_a_secret_that_is_written_out(complaints: Complaints, secret: str) -> None:
    for place in (
        "bots: {b: {frontend: rooms, token: '@', tokn: 1}}",
        "bots: {b: {frontend: rooms, token: '@', greeting: leak}}",
        "bots: {b: {frontend: rooms, token: 'bad@'}}",
        "bots: {b: {frontend: rooms, token: ['@']}}",
        "bots: {b: {frontend: rooms, token_file: '@'}}",
        "models: {m: {backend: engine, path: x, login: {user: '', password: '@'}}}",
    ):
        found = complaints(place.replace("@", secret))
        assert found
        assert not any(spoken_of(secret, complaint) for complaint in found), found


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


# --- the pieces ----------------------------------------------------------------------------------------------------


def test_complaints_come_sorted_and_once(complaints: Complaints) -> None:
    found = complaints(BAD["many mistakes at once"][0])
    places = [tuple(map(int, line.split(":")[:2])) for line in found]
    assert places == sorted(places)
    assert len(set(found)) == len(found) > 5


def test_an_alias_is_read_where_it_is_used() -> None:
    document = parse(b"a: &a [1, {b: 2}]\nc: *a\n", {})
    assert document.value == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}
    assert document.value["a"] is not document.value["c"]
    assert document.values["c", 1, "b"] == document.values["a", 1, "b"]


def test_sample_plugins_are_sound_but_for_the_broken_one() -> None:
    assert [record.name for record in sample_plugins().records() if record.reason] == ["walkie"]
