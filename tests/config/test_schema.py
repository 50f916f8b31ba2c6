"""The JSON Schema against the reader: what one takes, the other takes, as far as a schema can know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema
import pytest
from pydantic import ConfigDict

from chatbridge import BackendType, Options, Plugins, hookimpl
from chatbridge.config import json_schema
from chatbridge.config.nodes import parse

from .bad_files import BAD
from .conftest import Diagnostics
from .samples import ENVIRONMENT, GOOD, nothing

Validator = jsonschema.Draft202012Validator


@pytest.fixture(scope="module")
def schema(plugins: Plugins) -> dict[str, Any]:
    return json_schema(plugins)


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Any:
    return Validator(schema)


class Verbatim(Mapping[str, str]):
    """An environment that leaves variables as they are written, as an editor sees them."""

    def __getitem__(self, name: str) -> str:
        return f"${{{name}}}"

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0

    def get(self, name: str, default: object = None) -> str:  # type: ignore[override]
        return self[name]


def seen(text: str | bytes) -> Any:
    """A file as an editor hands it to the schema: plain values, aliases followed, variables as they are."""
    return parse(text if isinstance(text, bytes) else text.encode(), Verbatim()).value


def test_it_is_a_schema_and_json(schema: dict[str, Any]) -> None:
    Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


def test_it_accepts_the_good_sample(validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(seen(GOOD.read_bytes()))] == []


GOOD_ONES = [
    "models:\nbots:\ntemplates:\ndefaults:\n",
    "models: {m: {backend: engine, path: x, threads: auto}}",
    "models: {m: {backend: engine, path: x, threads: '${THREADS}', precision: '${P:-half}', verbose: '${VERBOSE}'}}",
    "models: {m: {backend: engine, path: x, device: {kind: cpu, threads: '${THREADS}'}}}",
    "models: {m: {backend: engine, path: x, api_key_file: key.txt, note_file: key.txt}}",
    "models: {m: {backend: simple, max_batch: '${THREADS}', sampling: {seed: '${SEED}', top_p: '${SHARE}'}}}",
    "bots: {b: {frontend: rooms, token_file: key.txt}}",
    "bots: {b: {frontend: rooms, token: x, defaults: {system_file: key.txt}, channels: {5: , 6: {}}}}",
    "bots: {b: {frontend: rooms, token: x, allow: {users: [5, '6']}, deny: , defaults: , channels: }}",
    "bots: {b: {frontend: rooms, token: x, region: '${REGION:-us}', retries: [1, '${THREADS}']}}",
    "defaults: {history: '${VERBOSE}', language: '${LANGUAGE:-zh}', template: , system: }",
    "templates: {t: {extends: alpaca, stop: [a]}}",
    "store: a.sqlite3",
]


@pytest.mark.parametrize("text", GOOD_ONES)
def test_it_accepts_what_the_reader_accepts(diagnostics: Diagnostics, validator: Any, text: str) -> None:
    assert diagnostics(text, {**ENVIRONMENT, "P": "full"}) == []
    assert [error.message for error in validator.iter_errors(seen(text))] == []


BAD_ONES = [
    "5",
    "modles: {}",
    "models: 5",
    "models: {m: }",
    "models: {m: {}}",
    "models: {m: {backend: engin, path: x}}",
    "models: {m: {backend: engine}}",
    "models: {m: {backend: engine, path: x, token: y}}",
    "models: {m: {backend: simple, path: x}}",
    "models: {m: {backend: engine, path: x, precision: third}}",
    "models: {m: {backend: engine, path: x, threads: 0}}",
    "models: {m: {backend: engine, path: x, threads: some}}",
    "models: {m: {backend: engine, path: x, device: {kind: tpu}}}",
    "models: {m: {backend: engine, path: x, device: {kind: cpu, layers: 5}}}",
    "models: {m: {backend: engine, path: x, adapters: [{scale: 1}]}}",
    "models: {m: {backend: engine, path: x, login: {user: '', password: x}}}",
    "models: {m: {backend: engine, path: x, api_key: y, api_key_file: z}}",
    "models: {m: {backend: engine, path: x, threads_file: z}}",
    "models: {m: {backend: simple, template_file: z}}",
    "bots: {b: {frontend: rooms}}",
    "bots: {b: {frontend: rooms, token: x, token_file: y}}",
    "bots: {b: {frontend: rooms, token: x, channels: {5: {modle: y}}}}",
    "bots: {b: {frontend: rooms, token: x, region: EU}}",
    "bots: {b: {frontend: open, token: x}}",
    "bots: {b: {frontend: open, allow: {users: 5}}}",
    "bots: {b: {frontend: open, allow: {users: [1.5]}}}",
    "bots: {b: {frontend: open, defaults: {system: x, system_file: y}}}",
    "defaults: {reply_to: sometimes}",
    "defaults: {history: 5}",
    "defaults: {sampling: {temperature: 11}}",
    "templates: {t: {name: u, user: '{text}', assistant: '{text}'}}",
    "templates: {t: {blanks: trim}}",
    "templates: {t: }",
    "store: [x]",
]


@pytest.mark.parametrize("text", BAD_ONES)
def test_it_rejects_what_the_reader_rejects(diagnostics: Diagnostics, validator: Any, text: str) -> None:
    assert diagnostics(text)
    assert not validator.is_valid(seen(text))


# What a schema can't know: which names there are, what is in files and variables, how a word was written.
BEYOND = (
    "a key twice",
    "a trap",
    "YAML",
    "a variable",
    "names",
    "ids",
    "a text from a file",
    "codes",
    "a template",
    "mistyped",
    "one token",
)
BEYOND_ONE_BY_ONE = {
    "values: validators",
    "people: nobody could let anybody in",
    "values: store of nobody",
    "values: store",
    "an empty file",
    "values: store with a zero",
    "sampling: logit_bias {five: 1}",
}


@pytest.mark.parametrize("name", [name for name in BAD if not name.startswith(BEYOND)])
def test_it_rejects_the_bad_files_that_are_not_beyond_it(validator: Any, name: str) -> None:
    text, _ = BAD[name]
    assert validator.is_valid(seen(text)) == (name in BEYOND_ONE_BY_ONE)


def test_plugins_keys_are_described(schema: dict[str, Any]) -> None:
    entries = {
        entry["properties"]["backend"]["const"]: entry
        for entry in schema["properties"]["models"]["anyOf"][0]["additionalProperties"]["anyOf"]
    }
    assert set(entries) == {"engine", "simple", "numpy"}
    assert entries["engine"]["description"] == "runs models of a sort"
    assert entries["engine"]["properties"]["path"]["description"] == "The model's file."
    assert (
        entries["engine"]["properties"]["api_key_file"]["description"] == "A file that holds `api_key`, in its place."
    )
    assert "path" not in entries["simple"]["properties"]


def test_a_plugin_whose_options_no_schema_can_say_spoils_nothing() -> None:
    class Odd(Options):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        handle: memoryview | None = None
        size: int = 1

    class Plugin:
        @hookimpl
        def register_backends(self) -> Iterable[BackendType]:
            return [BackendType("odd", Odd, "", connect=nothing)]

    validator = Validator(json_schema(Plugins([Plugin()], discover=False)))
    assert validator.is_valid({"models": {"m": {"backend": "odd", "handle": "anything"}}})
    assert not validator.is_valid({"models": {"m": {"backend": "odd", "size": "much"}}})
    assert not validator.is_valid({"bots": {"b": {}}}), "without a frontend there can be no bot"
