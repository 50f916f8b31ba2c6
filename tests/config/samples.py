"""Plugins with options of every sort, and a bots.yaml that uses all of them. Nothing here runs a model or a chat."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from chatbridge import BackendType, ConfigPath, FrontendType, Options, Plugins, Secret, Template, hookimpl


class Inside(BaseModel):
    """What is nested in options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Adapter(Inside):
    path: ConfigPath
    scale: Annotated[float, Field(ge=0, le=2)] = 1.0


class Cpu(Inside):
    kind: Literal["cpu"]
    threads: Annotated[int, Field(ge=1)]


class Gpu(Inside):
    kind: Literal["gpu"]
    layers: Annotated[int, Field(ge=0)] | Literal["all"] = "all"


class Login(Inside):
    user: Annotated[str, Field(min_length=1, description="The name at the server.")]
    password: Secret


class EngineOptions(Options):
    path: Annotated[ConfigPath, Field(description="The model's file.")]
    api_key: Secret | None = None
    precision: Literal["auto", "half", "full"] = "auto"
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    device: Annotated[Cpu | Gpu, Field(discriminator="kind")] | None = None
    adapters: tuple[Adapter, ...] = ()
    headers: Annotated[dict[str, str], Field(default_factory=dict)]
    login: Login | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    verbose: bool = False
    note: str = ""
    model: str = ""


class RoomsOptions(Options):
    token: Annotated[Secret, Field(description="What the service gave you.")]
    greeting: Annotated[str | None, Field(max_length=60)] = None
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    intents: tuple[Literal["read", "write"], ...] = ("read",)
    retries: Annotated[list[Annotated[int, Field(ge=0)]], Field(default_factory=list)]
    region: Annotated[str, Field(pattern="^[a-z]{2}$")] = "eu"

    @field_validator("token", mode="before")
    @classmethod
    def _is_token(cls, value: Any, info: ValidationInfo) -> Any:
        """A validator that says too much, as a careless author writes it."""
        if isinstance(value, str) and value.startswith("bad"):
            raise ValueError(f"{value!r} is no token of Rooms")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.greeting == "leak":
            raise ValueError(f"nobody greets with {self.token.get_secret_value()}")
        if self.greeting == "twice" and self.region != "eu":
            raise ValueError("greeting `twice` is for region `eu` alone")
        return self


async def nothing(*arguments: object) -> None: ...


class SamplePlugin:
    @hookimpl
    def register_backends(self) -> Iterable[BackendType]:
        return [
            BackendType("engine", EngineOptions, "runs models of a sort", connect=nothing),
            BackendType("simple", Options, "needs nothing", connect=nothing),
        ]

    @hookimpl
    def register_frontends(self) -> Iterable[FrontendType]:
        return [
            FrontendType("rooms", RoomsOptions, "chat rooms", nothing, ids=r"-?\d+", ids_hint="ids are numbers"),
            FrontendType("open", Options, "takes anything", nothing),
        ]

    @hookimpl
    def register_templates(self) -> Iterable[Template]:
        return [Template(name="letter", user="Dear model, {text}\n", assistant="Yours,{text}\n")]


class walkie:  # noqa: N801  (named as plugins are)
    """A broken plugin."""

    @hookimpl
    def register_frontends(self) -> Iterable[FrontendType]:
        raise OSError("no antenna")


def sample_plugins() -> Plugins:
    """The plugins above and the core's own backend, which runs the bundled model."""
    import chatbridge_numpy

    return Plugins([chatbridge_numpy, SamplePlugin(), walkie()], discover=False)


MODEL = "models: {m: {backend: simple}}\n"
"""The shortest file that says something."""

GOOD = Path(__file__).with_name("good.yaml")
ENVIRONMENT = {
    "ROOMS_TOKEN": "xR7-rooms-token",
    "THREADS": "4",
    "SHARE": "0.5",
    "VERBOSE": "true",
    "SEED": "11",
    "EMPTY": "",
    "BAD_TOKEN": "bad-xR7-token",
}
FILES = {"key.txt": "k3y-of-the-engine\n", "persona.txt": "You are kind.\nYou are brief.\n", "empty.txt": "\n"}


def write_files(folder: Path) -> None:
    """What the samples name by `<key>_file`."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
