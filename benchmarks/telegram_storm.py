"""Many Telegram chats at once on the bundled model: chatbridge's frontend beside a plain bot, in the same run.

    python benchmarks/telegram_storm.py [CHATS [MESSAGES]]

A stand-in Telegram with the service's limits, in real time; CHATS people write MESSAGES messages each, all at once.
The bot runs in a process of its own, where the lag of its event loop and its memory are measured. The plain bot is
python-telegram-bot as its examples use it: a handler that edits its message once a second while the same model
answers, and sends again after a RetryAfter.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

from chatbridge import Author, Bot, Bridge, Channel, ChannelSettings, LiveTurn, Message, Plugins, Sampling
from chatbridge import SettingsSource as Source
from chatbridge.config import Settings, default_settings
from chatbridge.testing import TelegramServer

ASKED = ("How do I add a Telegram bot?", "What is a prompt template?", "How do I run the tests?", "Who are you?")
BEAT = 0.01
LONGEST = 60.0
"""Seconds to wait for all answers: a bot that ran into ever longer penalties would take hours."""


def settings(store: Path) -> Settings:
    plain = default_settings(Plugins(), store)
    defaults = ChannelSettings(sampling=Sampling(temperature=0.0, max_tokens=80), language="en", buttons=False)
    return Settings(plain.models, plain.templates, store, defaults)


# --- the process of the bot ------------------------------------------------------------------------------------------


async def be_a_bot(kind: str, token: str, api_url: str, file_url: str, store: str) -> None:
    """Serve until standard input ends; then tell of lag and memory."""
    lags: list[float] = []
    sizes: list[int] = []
    async with Bridge(Source(settings(Path(store))), Plugins()) as bridge:
        serve = {"chatbridge": serve_by_chatbridge, "plain": serve_plainly}[kind]
        serving = asyncio.create_task(serve(bridge.bot("bot"), token, api_url, file_url))
        serving.add_done_callback(lambda task: task.result())
        measuring = asyncio.create_task(measure(lags, sizes))
        measuring.add_done_callback(lambda task: task.result())
        await asyncio.to_thread(sys.stdin.read)
        lags.sort()
        at = int(len(lags) * 0.99)
        found = {"lag_p99": lags[at], "lag_max": lags[-1], "memory": [sizes[0], max(sizes), sizes[-1]]}
        print(json.dumps(found), flush=True)
        os._exit(0)  # a plain bot waits for its penalties to be over, which may be tomorrow


async def measure(lags: list[float], sizes: list[int]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(BEAT)
        lags.append(time.perf_counter() - before - BEAT)
        if len(lags) % 100 == 0:
            sizes.append(resident())


def resident() -> int:
    """Memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


async def serve_by_chatbridge(bot: Bot, token: str, api_url: str, file_url: str) -> None:
    from chatbridge_telegram.bot import run
    from chatbridge_telegram.options import TelegramOptions

    await run(TelegramOptions(token=token, api_url=api_url, file_url=file_url, menu=False), bot)


async def serve_plainly(bot: Bot, token: str, api_url: str, file_url: str) -> None:
    import telegram
    from telegram import ext

    async def patiently(call: object) -> object:
        while True:
            try:
                return await call()  # type: ignore[operator]
            except telegram.error.RetryAfter as error:
                await asyncio.sleep(error.retry_after)  # type: ignore[arg-type]
            except telegram.error.BadRequest:
                return None

    async def answer(update: telegram.Update, context: object) -> None:
        asked = update.message
        assert asked is not None
        message = Message(str(asked.message_id), Channel(str(asked.chat_id)), Author("a", "A"), asked.text or "")
        turn = await bot.receive(message)
        assert isinstance(turn, LiveTurn)
        shown = await patiently(lambda: asked.reply_text("…"))
        text, edited = "", time.monotonic()
        async for chunk in turn:
            text += chunk.text
            if text.strip() and time.monotonic() - edited > 1:
                await patiently(lambda text=text: shown.edit_text(text))  # type: ignore[attr-defined, misc]
                edited = time.monotonic()
        await patiently(lambda: shown.edit_text(text))  # type: ignore[attr-defined]

    builder = ext.Application.builder().token(token).base_url(api_url).base_file_url(file_url)
    app = builder.concurrent_updates(True).build()
    app.add_handler(ext.MessageHandler(ext.filters.TEXT, answer))
    async with app:
        await app.start()
        assert app.updater is not None
        await app.updater.start_polling()
        try:
            await asyncio.Event().wait()
        finally:
            await app.updater.stop()
            await app.stop()


# --- the service and the people --------------------------------------------------------------------------------------


async def storm(kind: str, count: int, messages: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        async with TelegramServer() as server:
            people = [server.add_person(f"Person{number}") for number in range(count)]
            chats = [server.private(person) for person in people]
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "--bot", kind, server.bot.token, server.api_url, server.file_url),
                f"{folder}/store",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            await server.say(chats[0], ASKED[0], author=people[0])  # the model is loaded by now
            await server.next_message(chats[0], within=120)
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
            calls = [call for call in server.calls if call.name not in ("getUpdates", "getMe", "deleteWebhook")]
            return json.loads(output.decode().splitlines()[-1]) | {
                "seconds": seconds,
                "answers": max(0, whole() - 1),
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
