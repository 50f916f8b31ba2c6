"""The process in which a model's own chat template runs, `python -m chatbridge.prompts.jinja_child`; one for each.

A template is a program that came with a model file. Here it can reach nothing worth having, gets little memory, and is
killed from outside where it takes too long. Reads jobs and writes what came of them, a JSON value a line. Knows no
chat: the contents that templates get are marks. Environment and functions are those that Hugging Face's
documentation for chat templates promises.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_MESSAGE = 300
"""Characters of an error; what a template raises may be of any length."""


class _RefusedError(Exception):
    """The template says that it can't tell this conversation."""


def main() -> None:
    """Serve jobs until the other side is gone.

    Arguments: mebibytes, characters of output, as many more for each character of the job, seconds for one job.
    """
    mebibytes, characters, more, seconds = *map(int, sys.argv[1:4]), float(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program decides when this ends
    _limit_memory(mebibytes << 20)
    compiled: jinja2.Template | None = None
    source = json.loads(sys.stdin.readline() or '""')
    _tell({})
    for line in sys.stdin:
        _alarm(2 * seconds + 1)  # should nobody be left to kill this
        try:
            compiled = compiled or _compile(source)
            answer = {"output": _rendered(compiled, json.loads(line), characters + more * len(line))}
        except jinja2.TemplateSyntaxError as error:
            answer = {"unreadable": f"line {error.lineno}: {error.message}"}
        except _RefusedError as error:
            answer = {"refused": str(error)}
        except MemoryError:
            answer = {"failed": f"it takes more than {mebibytes} MiB of memory"}
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


def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


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
