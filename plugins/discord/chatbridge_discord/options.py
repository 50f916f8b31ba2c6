"""What a bot with `frontend: discord` accepts in bots.yaml. Knows no library."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from chatbridge import Options, Secret


def _token(secret: Secret) -> Secret:
    token = secret.get_secret_value()
    if not token or re.search(r"\s", token) or token.lower().startswith("bot"):
        raise ValueError(
            "this is no token of a Discord bot: the developer portal shows it at Bot > Token; without 'Bot ' before it"
        )
    return secret


def _api(url: str) -> str:
    if not re.match(r"https?://[^/\s]+/\S*v\d+$", url):
        raise ValueError("this should be an address with its version, as http://127.0.0.1:8080/api/v10")
    return url


def _gateway(url: str) -> str:
    if not re.match(r"wss?://[^/\s]+", url):
        raise ValueError("this should be an address of a WebSocket, as ws://127.0.0.1:8080/gateway/")
    return url


class DiscordOptions(Options, defer_build=True):
    """The keys of a Discord bot."""

    token: Annotated[Secret, AfterValidator(_token), Field(description="From the developer portal, Bot > Token.")]
    message_content: Annotated[
        bool,
        Field(
            description="Read all messages, which the portal's switch Message Content Intent has to allow; without it, "
            "those that mention the bot and private ones."
        ),
    ] = True
    auto_thread: Annotated[
        bool, Field(description="Answer in a thread of its own, which each message to the bot in a channel opens.")
    ] = False
    commands: Annotated[
        Literal["global", "guilds", "none"],
        Field(description="Where slash commands are put up: everywhere, in each server by itself, or not at all."),
    ] = "global"
    embeds: Annotated[bool, Field(description="Let Discord show previews of the links in answers.")] = False
    allowed_mentions: Annotated[
        frozenset[Literal["users", "roles", "everyone"]], Field(description="Whom answers may notify.")
    ] = frozenset()
    long_messages: Annotated[
        bool, Field(description="Text components, which have room for 4,000 characters, where 2,000 are not enough.")
    ] = True
    max_parts: Annotated[int, Field(ge=1, le=100, description="Messages for one answer; the rest comes as a file.")] = (
        10
    )
    max_file_kib: Annotated[
        int, Field(ge=0, le=10 * 1024, description="Text files up to this size are read; 0 for none.")
    ] = 256
    max_file_seconds: Annotated[
        float, Field(gt=0, le=600, description="Seconds that fetching the files of one message may take.")
    ] = 30.0
    catch_up_hours: Annotated[
        float, Field(ge=0, le=14 * 24, description="Messages that came while the bot was away are answered, if newer.")
    ] = 12.0
    shards: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(description="Connections to share the servers among; auto: as many as Discord recommends."),
    ] = 1
    proxy: Annotated[Secret | None, Field(description="http:// address, where Discord can't be reached directly.")] = (
        None
    )
    api_url: Annotated[
        str, AfterValidator(_api), Field(description="REST base with its version; for a proxy or a compatible server.")
    ] = "https://discord.com/api/v10"
    gateway_url: Annotated[str, AfterValidator(_gateway), Field(description="The same for the gateway.")] = (
        "wss://gateway.discord.gg/"
    )
