"""Which chat template a model is used with where its files hold several by name. Reads no template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_KEY = "tokenizer.chat_template"
_OTHER_TASKS = ("tool_use", "rag")
"""Names of Hugging Face's for what chats have no use for; such a template may want tools or documents."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The `source` of the template that is used, "" for none; its `name`, and those of the `others`."""

    source: str = ""
    name: str = ""
    others: tuple[str, ...] = ()

    @property
    def details(self) -> dict[str, str]:
        """For `ModelInfo.details`: something to say where there are several."""
        if not self.others:
            return {}
        return {"chat templates": f"{self.name} is used, and not {', '.join(self.others)}"}


def chat_template_from(value: Any) -> ChatTemplate:
    """From `chat_template` of tokenizer_config.json: a text, or a list of `name` and `template`."""
    if isinstance(value, str):
        return _chosen({"default": value})
    entries = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    named = {name: one.get("template") for one in entries if isinstance(name := one.get("name"), str)}
    return _chosen(named)


def chat_template_of(metadata: Mapping[str, Any]) -> ChatTemplate:
    """From the metadata of a GGUF file: `tokenizer.chat_template`, and `tokenizer.chat_template.NAME` of others."""
    names = (key.removeprefix(f"{_KEY}.") for key in metadata if key.startswith(f"{_KEY}."))
    return _chosen({"default": metadata.get(_KEY), **{name: metadata[f"{_KEY}.{name}"] for name in names}})


def _chosen(named: Mapping[str, Any]) -> ChatTemplate:
    """The default one; where there is none, the first that is not for another task, and then the first."""
    sources = {name: source for name, source in named.items() if isinstance(source, str) and source}
    order = sorted(sources, key=lambda name: (name != "default", name in _OTHER_TASKS))
    return ChatTemplate(sources[order[0]], order[0], tuple(order[1:])) if order else ChatTemplate()
