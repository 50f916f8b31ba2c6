"""Every error that chatbridge raises on purpose; each says what is wrong, where, and what to do.

The command line prints these without a traceback and exits 1; anything else is a bug and shows one. In chats strangers
read along: there people are told a sentence of ours in the error's place, the text of `chatbridge.texts` that the class
names as `public`, and the log has the rest (see `chatbridge.delivery.trouble`).

    ChatbridgeError
    ├── ConfigError          bots.yaml: one or many errors, each file:line:column
    ├── PluginError          a plugin that is broken, missing or clashes with another
    ├── TemplateError        a template that can't be rendered, or doesn't fit the model
    ├── StoreError           the database can't be opened, read or written
    │   ├── StoreInUse       another program has it
    │   └── StoreFull        the disk is full
    ├── CommandError         a chat command or its argument is wrong; shown to the person
    └── BackendError         anything about running a model
        ├── ModelLoadError   the model can't be loaded; says why and what would work
        ├── PromptTooLong    the prompt can't fit the context even after trimming
        ├── InvalidRequest   a request that the backend can't serve; other requests go on
        ├── ModelUnavailable the model crashed or failed to load, and is tried again later; says when
        └── WorkerDied       the worker process ended twice under one request
"""

from __future__ import annotations

from typing import ClassVar


class ChatbridgeError(Exception):
    """The root of the tree above; its text is meant for whoever runs the program.

    `public`: the key of what people in chats are told instead, without paths and without what libraries say.
    """

    public: ClassVar[str] = "trouble"


class ConfigError(ChatbridgeError):
    """One or more errors in a configuration file, one a line."""

    public = "trouble_config"


class PluginError(ChatbridgeError):
    """A plugin is broken, missing, or clashes with another by name."""

    public = "trouble_config"


class TemplateError(ChatbridgeError):
    """A template can't be rendered, or does not fit the model it is used with."""

    public = "trouble_template"


class StoreError(ChatbridgeError):
    """The database can't be opened, read or written."""

    public = "trouble_store"


class StoreInUse(StoreError):
    """Another program uses the database; the text says which, and what to do."""


class StoreFull(StoreError):
    """The disk that the database is on is full; what was to be written is not, and nothing that was is lost."""

    public = "trouble_full"


class CommandError(ChatbridgeError):
    """A chat command can't be carried out; the text is shown to the person who typed it."""


class BackendError(ChatbridgeError):
    """A model can't be loaded or a request can't be served."""

    public = "trouble_model"


class ModelLoadError(BackendError):
    """The model can't be loaded; the text says why and what would work."""

    public = "trouble_load"


class PromptTooLong(BackendError):
    """The prompt does not fit the model's context, even with all history left out."""

    public = "trouble_too_long"


class InvalidRequest(BackendError):
    """This one request can't be served (an id outside the vocabulary, an impossible option)."""

    public = "trouble_request"


class WorkerDied(BackendError):
    """The process that runs the model ended under a request, and again under its one retry."""

    public = "trouble_crash"


class ModelUnavailable(BackendError):
    """The model has failed several times and is tried again in `seconds`; requests are refused until shortly before."""

    public = "model_unavailable"

    def __init__(self, message: str, *, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds
