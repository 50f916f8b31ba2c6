"""What this frontend itself says in chats, in English and Chinese. Knows no chat."""

from __future__ import annotations

_TEXTS: dict[str, tuple[str, str]] = {
    "thread": ("Talk with {name}", "与 {name} 的对话"),
    "trouble": ("Sorry, something went wrong in here; the log says more.", "抱歉，程序内部出错了，详情见日志。"),
    "menu_regenerate": ("Regenerate", "重新回答"),
    "menu_continue": ("Continue", "继续"),
    "menu_branch": ("Branch from here", "从这里分支"),
}


def say(key: str, language: str, **values: object) -> str:
    """A sentence in a language, "zh" or else English."""
    return _TEXTS[key][language == "zh"].format(**values)
