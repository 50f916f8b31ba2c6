"""Many Discord chats at once on the bundled model: chatbridge's frontend beside a plain bot, in the same run.

    python benchmarks/discord_storm.py [CHATS [MESSAGES]]

A stand-in Discord with the service's limits, in real time; CHATS people write MESSAGES messages each, all at once.
The bot runs in a process of its own, where the lag of its event loop and its memory are measured. The plain bot is
discord.py as its examples use it: an `on_message` that edits its message once a second while the same model answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

from telegram_storm import ASKED, LONGEST, measure, settings

from chatbridge import Author, Bot, Bridge, Channel, LiveTurn, Message, Plugins
from chatbridge import SettingsSource as Source
from chatbridge.testing import DiscordServer

# --- the process of the bot ------------------------------------------------------------------------------------------


async def be_a_bot(kind: str, token: str, api_url: str, gateway_url: str, store: str) -> None:
    """Serve until standard input ends; then tell of lag and memory."""
    lags: list[float] = []
    sizes: list[int] = []
    async with Bridge(Source(settings(Path(store))), Plugins()) as bridge:
        serve = {"chatbridge": serve_by_chatbridge, "plain": serve_plainly}[kind]
        tasks = [
            asyncio.create_task(serve(bridge.bot("bot"), token, api_url, gateway_url)),
            asyncio.create_task(measure(lags, sizes)),
        ]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    lags.sort()
    found = {"lag_p99": lags[int(len(lags) * 0.99)], "lag_max": lags[-1], "memory": [sizes[0], max(sizes), sizes[-1]]}
    print(json.dumps(found), flush=True)


async def serve_by_chatbridge(bot: Bot, token: str, api_url: str, gateway_url: str) -> None:
    from chatbridge_discord.bot import run
    from chatbridge_discord.options import DiscordOptions

    await run(DiscordOptions(token=token, api_url=api_url, gateway_url=gateway_url, commands="none"), bot)  # type: ignore[arg-type]


async def serve_plainly(bot: Bot, token: str, api_url: str, gateway_url: str) -> None:
    import discord
    from chatbridge_discord.elsewhere import Connector

    connector = Connector(api_url, gateway_url)
    client = discord.Client(intents=discord.Intents(guilds=True, dm_messages=True), connector=connector)

    async def on_message(asked: discord.Message) -> None:
        if asked.author == client.user:
            return
        message = Message(str(asked.id), Channel(str(asked.channel.id)), Author("a", "A"), asked.content)
        turn = await bot.receive(message)
        assert isinstance(turn, LiveTurn)
        shown = await asked.reply("…")
        text, edited = "", time.monotonic()
        async for chunk in turn:
            text += chunk.text
            if text.strip() and time.monotonic() - edited > 1:
                await shown.edit(content=text)
                edited = time.monotonic()
        await shown.edit(content=text)

    client.event(on_message)
    async with client:
        await client.start(token)


# --- the service and the people --------------------------------------------------------------------------------------


async def storm(kind: str, count: int, messages: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        async with DiscordServer() as server:
            people = [server.add_person(f"person{number}") for number in range(count)]
            chats = [server.dm(person) for person in people]
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "--bot", kind, server.bot.token, server.api_url, server.gateway_url),
                f"{folder}/store",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            await server.gateway.until_connected(within=60)
            await server.say(chats[0], ASKED[0], author=people[0])  # the model is loaded by now
            first = await server.next_message(chats[0], within=120)
            await server.until(lambda: first.text != "…" or None, within=60)
            begin = time.perf_counter()
            for number in range(messages):
                for chat, person in zip(chats, people, strict=True):
                    await server.say(chat, ASKED[number % len(ASKED)], author=person)
            wanted = messages * count + 1

            def whole() -> int:
                return sum(message.text != "…" for chat in chats for message in server.messages(chat))

            with suppress(TimeoutError):
                await server.until(lambda: whole() >= wanted or None, within=LONGEST)
            seconds = time.perf_counter() - begin
            output, _ = await program.communicate(b"\n")  # the end of its standard input ends it
            calls = [call for call in server.calls if call.name.startswith(("POST", "PATCH"))]
            return json.loads(output.decode().splitlines()[-1]) | {
                "seconds": seconds,
                "answers": whole() - 1,
                "wanted": wanted - 1,
                "calls": len(calls),
                "refused": sum(call.status == 429 for call in calls),
                "early": len(server.calls.early),
            }


async def main(count: int = 50, messages: int = 3) -> None:
    for kind in ("chatbridge", "plain"):
        found = await storm(kind, count, messages)
        first, most, last = found["memory"]  # type: ignore[misc]
        print(
            f"{kind}: {found['answers']} of {found['wanted']} answers in {found['seconds']:.1f} s, "
            f"{found['calls']} calls, {found['refused']} refused (429), {found['early']} of them inside a penalty; "
            f"event-loop lag p99 {found['lag_p99'] * 1000:.1f} ms, longest {found['lag_max'] * 1000:.0f} ms; "  # type: ignore[operator]
            f"memory {first} MiB at first, {most} at most, {last} at last",
            flush=True,
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    if sys.argv[1:2] == ["--bot"]:
        asyncio.run(be_a_bot(*sys.argv[2:]))
    else:
        asyncio.run(main(*map(int, sys.argv[1:])))
