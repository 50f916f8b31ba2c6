"""What people invoke and click: slash commands, context menus, buttons, suggestions. Answered within three seconds."""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, get_args

import discord

from chatbridge import Action, Author, Bot, Channel, Delivery, Message, MessageContent, Press, report_error
from chatbridge_discord.channels import channel_of
from chatbridge_discord.chat import MAX_TEXT
from chatbridge_discord.commands import MENUS
from chatbridge_discord.failures import TRANSIENT_ERRORS, unanswered, why
from chatbridge_discord.roles import Roles
from chatbridge_discord.texts import say

log = logging.getLogger(__name__)

ACTIONS: dict[str, Action] = {action: action for action in get_args(Action)}
"""What the custom id of a button stands for."""

ANSWERED_ALREADY = 40060
MAX_TRIES = 3
MAX_CHOICES, MAX_CHOICE = 25, 100
NOBODY = discord.AllowedMentions.none()


class Interactions:
    """Answers the interactions of one bot, to the person alone; models' answers come to the channel."""

    def __init__(self, bot: Bot, delivery: Delivery, roles: Roles) -> None:
        self._bot, self._delivery, self._roles = bot, delivery, roles

    async def handle(self, interaction: discord.Interaction) -> None:
        """Do what somebody wants. Failures are told, to them or to the log."""
        if interaction.type is discord.InteractionType.autocomplete:
            await self._suggest(interaction)
            return
        button = interaction.type is discord.InteractionType.component
        if not button and interaction.type is not discord.InteractionType.application_command:
            return
        if not await _acknowledge(lambda: interaction.response.defer(ephemeral=not button, thinking=not button)):
            return
        try:
            parts = await self._done(interaction, button)
        except Exception as failed:
            error = unanswered(failed) if isinstance(failed, TRANSIENT_ERRORS) else failed
            language = self._language(interaction)
            told = report_error(error, language, log, "interaction %s was left out", interaction.id)
            parts = (MessageContent(told),)
        try:
            await (_add(interaction, parts) if button else _reply(interaction, parts))
        except TRANSIENT_ERRORS as error:
            log.warning("interaction %s: what was to be said could not be: %s", interaction.id, why(error))

    async def _done(self, interaction: discord.Interaction, button: bool) -> Sequence[MessageContent]:
        """Carry it out. Returns what to say to the person."""
        data: Any = interaction.data or {}
        if button:
            action = ACTIONS.get(data["custom_id"])
            target = interaction.message.id if interaction.message is not None else None
        elif data.get("target_id"):
            action, target = MENUS.get(data["name"]), int(data["target_id"])
        else:
            return await self._delivery.call(
                await self._message(interaction, f"/{data['name']} {_argument(data)}".strip())
            )
        if action is None or target is None:
            log.warning("interaction %s is none that this bot knows: %s", interaction.id, data)
            return (MessageContent(say("trouble", self._language(interaction))),)
        person, language = await self._person(interaction), interaction.locale.value
        press = Press(action, str(target), _place(interaction), person, language, str(interaction.id))
        line = await self._delivery.press(press)
        return (MessageContent(line),) if line else ()

    async def _suggest(self, interaction: discord.Interaction) -> None:
        data: Any = interaction.data or {}
        try:
            found = await self._bot.completions(data["name"], await self._message(interaction, _argument(data)))
        except Exception:
            log.exception("interaction %s: there are no suggestions", interaction.id)
            found = []
        choices = [
            discord.app_commands.Choice(name=value, value=value) for value in found if 0 < len(value) <= MAX_CHOICE
        ]
        await _acknowledge(lambda: interaction.response.autocomplete(choices[:MAX_CHOICES]))

    async def _person(self, interaction: discord.Interaction) -> Author:
        return await self._roles.author(interaction.client, interaction.user, interaction.guild)

    async def _message(self, interaction: discord.Interaction, text: str) -> Message:
        return Message(
            str(interaction.id),
            _place(interaction),
            await self._person(interaction),
            text,
            sent_at=interaction.created_at.timestamp(),
            mentions_bot=True,
            language=interaction.locale.value,
        )

    def _language(self, interaction: discord.Interaction) -> str:
        return self._bot.language(_place(interaction), interaction.locale.value)


def _place(interaction: discord.Interaction) -> Channel:
    """The channel of an interaction, also one that the library does not know."""
    if interaction.channel is not None:
        return channel_of(interaction.channel, interaction.guild)
    guild = str(interaction.guild_id) if interaction.guild_id else None
    return Channel(str(interaction.channel_id), "", "group" if guild else "private", None, guild)


def _argument(data: Any) -> str:
    """What was typed after the command."""
    return str(next((option.get("value", "") for option in data.get("options") or ()), ""))


async def _acknowledge(answer: Callable[[], Awaitable[object]]) -> bool:
    """Acknowledge an interaction, which has to happen within three seconds. Returns whether it can be answered."""
    for attempt in range(MAX_TRIES):
        try:
            await answer()
            return True
        except discord.HTTPException as error:
            if error.code == ANSWERED_ALREADY:  # the first try's answer got lost
                return True
            log.warning("an interaction could not be answered: %s", why(error))
            return False
        except TRANSIENT_ERRORS as error:
            if attempt + 1 == MAX_TRIES:
                log.warning("an interaction could not be answered: %s", why(error))
    return False


async def _reply(interaction: discord.Interaction, parts: Sequence[MessageContent]) -> None:
    """Replace `is thinking` by the answer, or delete it where there is nothing to say."""
    if not parts:
        await _repeat(interaction.delete_original_response)
        return
    content = _content(parts[0])
    await _repeat(lambda: interaction.edit_original_response(allowed_mentions=NOBODY, **content))
    await _add(interaction, parts[1:])


async def _add(interaction: discord.Interaction, parts: Sequence[MessageContent]) -> None:
    """Say something more that only this person sees."""
    for part in parts:
        content = _content(part)
        if "attachments" in content:
            content["files"] = content.pop("attachments")
        await interaction.followup.send(ephemeral=True, allowed_mentions=NOBODY, **content)


async def _repeat(call: Callable[[], Awaitable[object]]) -> None:
    """Make an idempotent call, again where the connection fails."""
    for _ in range(MAX_TRIES - 1):
        try:
            await call()
            return
        except discord.HTTPException:
            raise
        except TRANSIENT_ERRORS:
            continue
    await call()


def _content(part: MessageContent) -> dict[str, Any]:
    """What a part holds, for the library."""
    if len(part.text) > MAX_TEXT:
        view = discord.ui.LayoutView(timeout=None)
        view.add_item(discord.ui.TextDisplay(part.text))
        return {"view": view}
    content: dict[str, Any] = {"content": part.text}
    if part.file is not None:
        content["attachments"] = [discord.File(io.BytesIO(part.file.data), part.file.name)]
    return content
