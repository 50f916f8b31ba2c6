"""What this frontend itself says in chats, in English and Chinese. Knows no chat."""

from __future__ import annotations

_WORDS: dict[str, tuple[str, str]] = {
    "picture_unread": ("I can't look at pictures yet; please say it in words.", "我还看不了图片，请用文字告诉我。"),
    "sound_unread": ("I can't listen to sound yet; please write instead.", "我还听不了语音，请打字告诉我。"),
    "file_unread": ("I can read text files only.", "我只能读文本文件。"),
    "file_too_big": ("That file is too big for me: {most} KiB at most.", "文件太大了，最多 {most} KiB。"),
    "file_lost": (
        "I could not fetch that file from Discord; please send it again.",
        "没能从 Discord 取到文件，请再发一次。",
    ),
    "thread": ("Talk with {name}", "与 {name} 的对话"),
    "trouble": ("Sorry, something went wrong in here; the log says more.", "抱歉，程序内部出错了，详情见日志。"),
    "menu_regenerate": ("Regenerate", "重新回答"),
    "menu_continue": ("Continue", "继续"),
    "menu_branch": ("Branch from here", "从这里分支"),
}


def word(key: str, language: str, **values: object) -> str:
    """A sentence in a language, "zh" or else English."""
    return _WORDS[key][language == "zh"].format(**values)
