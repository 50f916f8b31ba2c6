"""The process in which a model's own chat template runs, `python -m chatbridge.prompts.jinja_child`; one for each.

A template is a program that came with a model file. Here it can reach nothing worth having, gets little memory, and is
killed from outside where it takes too long. Reads jobs and writes what came of them, a JSON value a line. Knows no
chat: the contents that templates get are marks. Environment, functions and tags are those that Hugging Face's
documentation for chat templates promises.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_MESSAGE = 300
"""Characters of an error; what a template raises may be of any length."""


class _RefusedError(Exception):
    """The template says that it can't tell this conversation."""


class _Generation(Extension):
    """`{% generation %}` tells trainers what the model itself writes; its body is written as it stands."""

    tags = {"generation"}  # noqa: RUF012 (so it is declared in Jinja)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def main() -> None:
    """Serve jobs until the other side is gone.

    Arguments: mebibytes, characters of output, as many more for each character of the job, seconds for one job.
    """
    mebibytes, characters, more, seconds = *map(int, sys.argv[1:4]), float(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program decides when this ends
    _limit_memory(mebibytes << 20)
    environment = _environment()
    compiled: jinja2.Template | None = None
    source = json.loads(sys.stdin.readline() or '""')
    _tell({})
    for line in sys.stdin:
        _alarm(2 * seconds + 1)  # should nobody be left to kill this
        try:
            job = json.loads(line)
            if "values" not in job:
                answer = {"output": "\n".join(sorted(_variables(environment, source)))}
            else:
                compiled = compiled or environment.from_string(source)
                environment.globals["strftime_now"] = _clock(job["now"])
                answer = {"output": _rendered(compiled, job["values"], characters + more * len(line))}
        except jinja2.TemplateSyntaxError as error:
            answer = {"unreadable": f"line {error.lineno}: {error.message}"}
        except _RefusedError as error:
            answer = {"refused": str(error)}
        except MemoryError:
            answer = {"failed": f"it takes more than {mebibytes} MiB of memory"}
        except jinja2.UndefinedError as error:
            name = re.fullmatch(r"'(\w+)' is undefined", str(error))
            wanted = name is not None and name[1] in _variables(environment, source)
            answer = {"missing": name[1]} if name and wanted else {"failed": f"{type(error).__name__}: {error}"}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        _alarm(0)
        _tell({key: text if key == "output" else text[:_MAX_MESSAGE] for key, text in answer.items()})


def _rendered(template: jinja2.Template, values: dict[str, Any], characters: int) -> str:
    pieces: list[str] = []
    size = 0
    for piece in template.generate(**values):
        size += len(piece)
        if size > characters:
            raise ValueError(f"it writes more than {characters} characters")
        pieces.append(piece)
    return "".join(pieces)


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _clock("")}
    return environment


def _variables(environment: jinja2.Environment, source: str) -> set[str]:
    """The names that a template looks up and does not make itself."""
    return meta.find_undeclared_variables(environment.parse(source))


def _clock(now: str) -> Callable[[str], str]:
    """The function strftime_now of templates. `now`: the time that it stands at, in ISO format; "" for the real one."""
    when = datetime.fromisoformat(now) if now else None
    return lambda form: (when or datetime.now()).astimezone().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> NoReturn:
    raise _RefusedError(str(message))


def _tell(answer: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _limit_memory(size: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit, macOS takes none
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _alarm(seconds: float) -> None:
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
