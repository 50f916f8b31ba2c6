"""Talk to a model from your own asyncio program, without a chat service.

python examples/embed.py "what is a template?"
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from chatbridge import Author, Bridge, Channel, Message, Plugins, ReplyStream, SettingsSource, default_settings


async def main(question: str, store: Path) -> None:
    """Print the answer while it comes. `store` is where the conversation is kept."""
    plugins = Plugins()
    # SettingsSource.of_file(Path("bots.yaml"), plugins) follows a file instead.
    async with Bridge(SettingsSource(default_settings(plugins, store)), plugins) as bridge:
        message = Message(id="1", channel=Channel("home"), author=Author("me", "Me"), text=question)
        turn = await bridge.bot("mine").receive(message)
        assert isinstance(turn, ReplyStream)  # a chat command would give an Answer at once
        async for chunk in turn:
            print(chunk.text, end="", flush=True)
        print()
        if turn.finish is not None:
            print(f"({turn.finish.usage.generated} tokens, {turn.finish.reason})", file=sys.stderr)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(" ".join(sys.argv[1:]) or "hello", Path(folder) / "talk.sqlite3"))
