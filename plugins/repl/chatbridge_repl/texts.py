"""What the terminal itself says, in English and Chinese; what bots say comes from the core."""

from __future__ import annotations

import locale
from collections.abc import Mapping

_TEXTS: dict[str, tuple[str, str]] = {
    "welcome": (
        "You are talking to {model}. /help lists the commands, Alt-Enter breaks a line, /exit or Ctrl-D leaves.",
        "正在与 {model} 对话。输入 /help 查看命令，Alt-Enter 换行，/exit 或 Ctrl-D 退出。",
    ),
    "resumed": ("Going on with conversation {id}: {title}", "继续对话 {id}：{title}"),
    "not_here": (
        "conversation {id} was not held here; /branch lists those that were",
        "对话 {id} 不属于这里，可用 /branch 查看已有的对话",
    ),
    "no_id": ("{id!r} is no conversation; /branch lists them with their ids", "{id!r} 不是对话编号，可用 /branch 查看"),
    "piped_long": (
        "the pipe gives more than {limit} MiB, which is more than a question's text; give the part that matters",
        "管道内容超过 {limit} MiB，作为提问的文本太长；请只给出需要的部分",
    ),
    "leave": ("Ctrl-D leaves.", "按 Ctrl-D 退出。"),
    "silent": (
        "This bot answers nothing here; see reply_to, allow and deny in bots.yaml.",
        "此机器人在这里不回答；请查看 bots.yaml 中的 reply_to、allow 和 deny。",
    ),
    "yes_or_no": ("[y/N]", "[y/N]"),
    "stopping": ("Stopping; Ctrl-C once more gives this answer up.", "正在停止；再按一次 Ctrl-C 放弃这个回答。"),
    "given_up": ("Given up.", "已放弃。"),
    "unanswered": ("{failed} of {count} messages failed", "{count} 条消息中有 {failed} 条失败"),
    "loading": ("Loading {model}: {doing}", "正在载入 {model}：{doing}"),
    "status": (
        "{generated} tokens · {speed} tokens/s · prompt {cached} cached + {read} new · first token after {first:.2f} s",
        "{generated} 个 token · 每秒 {speed} 个 · 提示：缓存 {cached} + 新读 {read} · 首个 token {first:.2f} 秒",
    ),
    "cancelled": ("stopped", "已停止"),
    "length": ("length limit; /continue goes on", "已达长度上限，/continue 可继续"),
}  # fmt: skip

_LANGUAGES = ("en", "zh")


def say(language: str, key: str, /, **values: object) -> str:
    """The text called `key` in "en" or "zh", with its values filled in."""
    return _TEXTS[key][_LANGUAGES.index(language)].format(**values)


def terminal_language(environment: Mapping[str, str]) -> str:
    """The language of the terminal's locale: zh where it is Chinese, else en."""
    # The variables first: where a locale is asked for but not installed, as in containers, Python reports none.
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].startswith("zh") else "en"
    # Windows sets none of them; its locales have names such as Chinese (Simplified)_China.
    return "zh" if (locale.getlocale()[0] or "").startswith(("zh", "Chinese")) else "en"
