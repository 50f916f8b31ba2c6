"""What a bot with `frontend: telegram` accepts in bots.yaml. Knows no library."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from chatbridge import Options, Secret


def _token(secret: Secret) -> Secret:
    if not re.fullmatch(r"\d+:[\w-]+", secret.get_secret_value()):
        raise ValueError("this is no token of a Telegram bot; @BotFather gives one that looks like 123456789:AAE-x2_y")
    return secret


def _base(url: str) -> str:
    if not re.match(r"https?://[^/\s]+/", url):
        raise ValueError("this should be an address that ends where the token follows, as http://127.0.0.1:8081/bot")
    return url


def _webhook(url: str) -> str:
    if not re.match(r"https://[^/\s]+|http://(127\.0\.0\.1|localhost)[:/]", url):
        raise ValueError("Telegram posts to https:// only, except that a Bot API server of your own takes 127.0.0.1")
    return url


def _header(secret: Secret) -> Secret:
    if not re.fullmatch(r"[\w-]{1,256}", secret.get_secret_value(), re.ASCII):
        raise ValueError("a secret token has 1 to 256 letters, digits, _ and -")
    return secret


class Webhook(Options, defer_build=True):
    """Let Telegram post updates, instead of asking for them."""

    url: Annotated[str, AfterValidator(_webhook), Field(description="Where Telegram posts to; a proxy brings it here.")]
    host: Annotated[str, Field(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="The port to listen on.")] = 8443
    secret: Annotated[
        Secret | None, AfterValidator(lambda given: given and _header(given)), Field(description="Made up unless set.")
    ] = None


class TelegramOptions(Options, defer_build=True):
    """The keys of a Telegram bot."""

    token: Annotated[Secret, AfterValidator(_token), Field(description="From @BotFather.")]
    api_url: Annotated[
        str, AfterValidator(_base), Field(description="What comes before the token; for a Bot API server of your own.")
    ] = "https://api.telegram.org/bot"
    file_url: Annotated[str, AfterValidator(_base), Field(description="The same for files.")] = (
        "https://api.telegram.org/file/bot"
    )
    proxy: Annotated[
        Secret | None, Field(description="http:// or socks5:// address, where Telegram can't be reached directly.")
    ] = None
    webhook: Annotated[
        Webhook | None, Field(description="Let Telegram post updates here; without it they are asked for.")
    ] = None
    drafts: Annotated[
        bool, Field(description="In private chats, show an answer being written as a draft; else by editing it.")
    ] = True
    menu: Annotated[bool, Field(description="Put up the menu of commands.")] = True
    link_previews: Annotated[bool, Field(description="Let Telegram show a preview of the links in answers.")] = False
    max_parts: Annotated[int, Field(ge=1, le=100, description="Messages for one answer; the rest comes as a file.")] = (
        10
    )
    max_file_kib: Annotated[
        int, Field(ge=0, le=20 * 1024, description="Text files up to this size are read; 0 for none.")
    ] = 256
    max_file_seconds: Annotated[
        float, Field(gt=0, le=600, description="Seconds that fetching the files of one message may take.")
    ] = 30.0
