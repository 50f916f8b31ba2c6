"""What a message may hold: the limits of its text, embeds, components and files, and whom it pings. Knows no route."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatbridge.testing.discord.permissions import can
from chatbridge.testing.discord.state import COMPONENTS_V2, Attachment, Json, Message, Refusal, shown_text, walk

MAX_CONTENT, MAX_EMBEDS, MAX_SHOWN, MAX_COMPONENTS = 2000, 6000, 4000, 40
MAX_FILES, MAX_FILE_BYTES = 10, 10 * 2**20
ROW, BUTTON, SECTION, TEXT_DISPLAY, GALLERY, FILE = 1, 2, 9, 10, 12, 13
SELECTS = frozenset({3, 5, 6, 7, 8})
_LAYOUT = frozenset({9, 10, 11, 12, 13, 14, 17})


def invalid(field: str, code: str, message: str) -> Refusal:
    """Refusal 50035, with the field at fault named in `errors` (`a.0.b`: nested)."""
    errors: Json = {"_errors": [{"code": code, "message": message}]}
    for name in reversed(field.split(".")):
        errors = {name: errors}
    return Refusal(400, 50035, "Invalid Form Body", errors)


def check_length(field: str, text: str, most: int) -> None:
    """Refuse a text that is longer than `most` characters."""
    if len(text) > most:
        raise invalid(field, "BASE_TYPE_MAX_LENGTH", f"Must be {most} or fewer in length.")


def check_message(message: Message) -> None:
    """Refuse what Discord would not take: nothing at all, or too much of anything."""
    check_length("content", message.content, MAX_CONTENT)
    if len(message.embeds) > 10:
        raise invalid("embeds", "BASE_TYPE_MAX_LENGTH", "Must be 10 or fewer in length.")
    if sum(map(_embed_length, message.embeds)) > MAX_EMBEDS:
        raise invalid("embeds", "MAX_EMBED_SIZE_EXCEEDED", f"Embed size exceeds maximum size of {MAX_EMBEDS}")
    check_files(message.attachments)
    check_components(message.components, layout=bool(message.flags & COMPONENTS_V2))
    _check_named_files(message)
    if message.flags & COMPONENTS_V2 and (message.content or message.embeds):
        field = "content" if message.content else "embeds"
        text = "The 'content' and 'embeds' fields cannot be used when using MessageFlags.IS_COMPONENTS_V2"
        raise invalid(field, "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2", text)
    if not (message.content.strip() or message.embeds or message.attachments or message.components):
        raise Refusal(400, 50006, "Cannot send an empty message")


def _check_named_files(message: Message) -> None:
    there = {f"attachment://{file.filename}" for file in message.attachments}
    for component in walk(message.components):
        url = str((component.get("file") or {}).get("url", "")) if component.get("type") == FILE else ""
        if url and url not in there:
            text = f"The referenced attachment {url!r} was not found"
            raise invalid("components.file", "UNFURLED_MEDIA_ITEM_REFERENCED_ATTACHMENT_NOT_FOUND", text)


def check_files(files: Sequence[Attachment]) -> None:
    """Refuse more files than ten, or one of more than 10 MiB."""
    if len(files) > MAX_FILES:
        raise invalid("attachments", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_FILES} or fewer in length.")
    if any(len(file.content) > MAX_FILE_BYTES for file in files):
        raise Refusal(413, 40005, "Request entity too large")


def _embed_length(embed: Json) -> int:
    texts = [embed.get("title"), embed.get("description"), embed.get("footer", {}).get("text")]
    texts += [embed.get("author", {}).get("name")]
    for field in embed.get("fields", []):
        texts += [field.get("name"), field.get("value")]
    check_length("embeds.0.description", embed.get("description") or "", 4096)
    return sum(len(text or "") for text in texts)


def check_components(components: list[Json], *, layout: bool) -> None:
    """Refuse trees that Discord can't draw; `layout`: components of version 2, which show text of their own."""
    everything = walk(components)
    if not layout:
        if len(components) > 5:
            raise invalid("components", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 5 in length.")
        for index, component in enumerate(components):
            if component.get("type") != ROW:
                raise invalid(f"components.{index}.type", "BASE_TYPE_CHOICES", "Value must be one of {1}.")
    if len(everything) > MAX_COMPONENTS:
        text = f"The total number of components must not exceed {MAX_COMPONENTS}"
        raise invalid("components", "COMPONENT_MAX_TOTAL_COMPONENTS_EXCEEDED", text)
    if len("".join(shown_text(components))) > MAX_SHOWN:
        text = f"The displayable text size must not exceed {MAX_SHOWN} characters"
        raise invalid("components", "COMPONENT_DISPLAYABLE_TEXT_SIZE_EXCEEDED", text)
    seen: set[str] = set()
    for component in everything:
        _check_component(component, seen)


def _check_component(component: Json, seen: set[str]) -> None:
    kind = component.get("type")
    if kind not in {ROW, BUTTON, 4, *SELECTS, *_LAYOUT, 18, 19}:
        raise invalid("components", "BASE_TYPE_CHOICES", f"There is no component of type {kind!r}.")
    if kind == ROW:
        row = component.get("components", [])
        if not 1 <= len(row) <= (1 if any(inner.get("type") in SELECTS for inner in row) else 5):
            raise invalid("components", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 5 in length.")
    if kind == TEXT_DISPLAY and not component.get("content"):
        raise invalid("components", "BASE_TYPE_REQUIRED", "This field is required")
    if kind == SECTION:
        texts = component.get("components") or []
        if not 1 <= len(texts) <= 3 or any(inner.get("type") != TEXT_DISPLAY for inner in texts):
            raise invalid("components", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 3 in length.")
        if not component.get("accessory"):
            raise invalid("components.accessory", "BASE_TYPE_REQUIRED", "This field is required")
    if kind == GALLERY and not 1 <= len(component.get("items") or []) <= 10:
        raise invalid("components.items", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 10 in length.")
    if kind == BUTTON:
        check_length("components.label", component.get("label") or "", 80)
        if not component.get("label") and not component.get("emoji"):
            raise invalid("components", "BUTTON_COMPONENT_EMPTY", "A button must have a label or an emoji")
    if kind in SELECTS and len(component.get("options", [])) > 25:
        raise invalid("components.options", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 25 in length.")
    custom_id = component.get("custom_id")
    if kind in SELECTS or (kind == BUTTON and component.get("style") not in (5, 6)):
        if not custom_id:
            raise invalid("components.custom_id", "BASE_TYPE_REQUIRED", "This field is required")
        check_length("components.custom_id", custom_id, 100)
        if custom_id in seen:
            raise invalid("components", "COMPONENT_CUSTOM_ID_DUPLICATED", "Component custom id cannot be duplicated")
        seen.add(custom_id)


def resolve_mentions(message: Message, allowed: Json | None) -> None:
    """Fill in whom the message pings: what its text mentions, as far as `allowed_mentions` and permissions let it."""
    text, guild = message.text, message.channel.guild
    everything: Json = {"parse": ["users", "roles", "everyone"], "replied_user": True}
    allow = everything if allowed is None else allow_lists(allowed)
    parse: list[str] = allow["parse"]

    def lets(kind: str, number: int) -> bool:
        return kind in parse or str(number) in {str(item) for item in allow.get(kind, [])}

    people = [member.user for member in guild.members.values()] if guild else message.channel.recipients
    named = {int(found) for found in re.findall(r"<@!?(\d+)>", text)}
    message.mentions = [user for user in people if user.id in named and lets("users", user.id)]
    old = message.reply_to
    if old is not None and allow.get("replied_user") and old.author is not message.author:
        message.mentions = [*(user for user in message.mentions if user is not old.author), old.author]
    roles = {int(found) for found in re.findall(r"<@&(\d+)>", text)}
    everyone = can(message.author, message.channel, "mention_everyone")
    message.mention_roles = [
        role
        for role in (guild.roles.values() if guild else ())
        if role.id in roles and lets("roles", role.id) and (role.mentionable or everyone)
    ]
    message.mention_everyone = everyone and "everyone" in parse and bool(re.search("@(everyone|here)", text))


def allow_lists(allowed: Json) -> Json:
    """`allowed_mentions` with its `parse` filled in; refused where it says a thing twice."""
    parse = list(allowed.get("parse", []))
    for kind in ("users", "roles"):
        if kind in parse and allowed.get(kind):
            text = f'parse:["{kind}"] and {kind}: [ids...] are mutually exclusive.'
            raise invalid("allowed_mentions", "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE", text)
    return {**allowed, "parse": parse}
