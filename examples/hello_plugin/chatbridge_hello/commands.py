"""The chat command /hello."""

from __future__ import annotations

from chatbridge import ChatCommand, CommandContext


async def _hello(context: CommandContext, argument: str) -> str:
    name = argument or context.message.author.name
    return f"你好，{name}！" if context.language == "zh" else f"Hello, {name}!"


hello = ChatCommand("hello", "say hello", "打个招呼", _hello, argument="[NAME]")
