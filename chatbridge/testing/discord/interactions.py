"""Interactions: what a person's click or command becomes, and how a bot may answer it, once and in time.

Discord's rules: the first answer within 3 s (10062) and only one (40060), more by the token for 15 minutes (10015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chatbridge.testing.discord import messages
from chatbridge.testing.discord.content import check_components, check_length, invalid
from chatbridge.testing.discord.payloads import user_json
from chatbridge.testing.discord.state import EPHEMERAL, LOADING, Bot, Channel, Json, Message, Refusal, User, World
from chatbridge.testing.wire.forms import Upload

COMMAND, COMPONENT, AUTOCOMPLETE, MODAL = 2, 3, 4, 5
PONG, REPLY, DEFER, DEFER_UPDATE, UPDATE, CHOICES, SHOW_MODAL = 1, 4, 5, 6, 7, 8, 9
_ALLOWED = {
    COMMAND: {REPLY, DEFER, SHOW_MODAL},
    COMPONENT: {REPLY, DEFER, DEFER_UPDATE, UPDATE, SHOW_MODAL},
    AUTOCOMPLETE: {CHOICES},
    MODAL: {REPLY, DEFER, DEFER_UPDATE, UPDATE},
}


@dataclass(slots=True, eq=False)
class Interaction:
    """One interaction as its person sees it: `kind` is how it was first answered (None: not yet).

    `message`: what was clicked on. `response`: the message that answers it (its edits included), or the one updated.
    """

    id: int
    token: str
    type: int
    bot: Bot
    user: User
    channel: Channel
    at: float
    data: Json
    message: Message | None = None
    kind: int | None = None
    response: Message | None = None
    followups: list[Message] = field(default_factory=list)
    choices: list[Json] = field(default_factory=list)
    modal: Json | None = None
    answered: float | None = None

    @property
    def deferred(self) -> bool:
        """Whether the bot asked for time before it answered."""
        return self.kind in (DEFER, DEFER_UPDATE)


class Interactions:
    """All interactions of a world, and the two deadlines, in seconds of the world's clock."""

    def __init__(self, world: World, first_answer: float, later_answers: float) -> None:
        self._world = world
        self._first, self._later = first_answer, later_answers
        self._all: dict[int, Interaction] = {}

    def begin(
        self, kind: int, bot: Bot, user: User, channel: Channel, data: Json, message: Message | None
    ) -> Interaction:
        """A new one, not answered yet."""
        number = self._world.new_id()
        new = Interaction(number, f"interaction{number}", kind, bot, user, channel, self._world.clock(), data, message)
        self._all[number] = new
        return new

    def failed(self, interaction: Interaction) -> bool:
        """Whether its person now reads that the application did not respond."""
        return interaction.kind is None and self._world.clock() - interaction.at > self._first

    def to_answer(self, number: str, token: str) -> Interaction:
        """The interaction that a first answer is for, or the refusal."""
        found = self._all.get(int(number))
        if found is None or found.token != token or self.failed(found):
            raise Refusal(404, 10062, "Unknown interaction")
        if found.kind is not None:
            raise Refusal(400, 40060, "Interaction has already been acknowledged.")
        return found

    def of_token(self, application_id: str, token: str) -> Interaction:
        """The answered interaction that a token is for, or the refusal."""
        for found in self._all.values():
            if found.token == token and str(found.bot.application_id) == application_id:
                if self._world.clock() - found.at > self._later:
                    raise Refusal(401, 50027, "Invalid Webhook Token")
                if found.kind is None:
                    break
                return found
        raise Refusal(404, 10015, "Unknown Webhook")

    def answer(self, found: Interaction, body: Json, files: Sequence[Upload]) -> None:
        """The first answer."""
        kind, data = int(body["type"]), body.get("data") or {}
        updates = kind in (UPDATE, DEFER_UPDATE)
        if kind not in _ALLOWED[found.type] or (updates and found.message is None):
            raise invalid("type", "INTERACTION_CALLBACK_INVALID_TYPE", f"{kind} does not answer this interaction")
        if kind == REPLY:
            found.response = self._reply(found, data, files)
        elif kind == DEFER:
            flags = LOADING | int(data.get("flags") or 0) & EPHEMERAL
            found.response = self._reply(found, {"flags": flags}, ())
        elif kind == UPDATE:
            assert found.message is not None
            found.response = messages.edit(self._world, found.message, found.bot.user, data, files)
        elif kind == DEFER_UPDATE:
            found.response = found.message
        elif kind == CHOICES:
            found.choices = _checked_choices(data.get("choices") or [])
        else:
            found.modal = _checked_modal(data)
        found.kind, found.answered = kind, self._world.clock()

    def follow_up(self, found: Interaction, body: Json, files: Sequence[Upload]) -> Message:
        """One message more; the first after a deferral takes the place of `is thinking`."""
        if found.response is not None and found.response.loading:
            self.edit(found, found.response, body, files)
            return found.response
        message = self._reply(found, body, files)
        found.followups.append(message)
        return message

    def edit(self, found: Interaction, message: Message, body: Json, files: Sequence[Upload]) -> Message:
        """Change an answer; one that was loading no longer is."""
        flags = message.flags & ~LOADING | int(body.get("flags") or 0) & ~(EPHEMERAL | LOADING)
        return messages.edit(self._world, message, found.bot.user, {**body, "flags": flags}, files)

    def message(self, found: Interaction, which: str) -> Message:
        """The answer that `@original` or an id names."""
        answers = [*found.followups, *([found.response] if found.response else [])]
        if which == "@original" and found.response is not None and not found.response.deleted:
            return found.response
        for message in answers:
            if str(message.id) == which and not message.deleted:
                return message
        raise Refusal(404, 10008, "Unknown Message")

    def _reply(self, found: Interaction, body: Json, files: Sequence[Upload]) -> Message:
        # A person who uses a command lets the bot answer, whatever its permissions in the channel are.
        message = messages.compose(self._world, found.channel, found.bot.user, body, files)
        message.application_id = found.bot.application_id
        message.kind = 20 if found.type == COMMAND else 0
        owner = "0" if found.channel.guild else "1"
        place = found.channel.guild.id if found.channel.guild else found.user.id
        message.interaction = {
            "id": str(found.id),
            "type": found.type,
            "user": user_json(found.user),
            "authorizing_integration_owners": {owner: str(place)},
        }
        messages.publish(self._world, message, body.get("allowed_mentions"))
        return message


def _checked_choices(choices: list[Json]) -> list[Json]:
    if len(choices) > 25:
        raise invalid("data.choices", "BASE_TYPE_MAX_LENGTH", "Must be 25 or fewer in length.")
    for choice in choices:
        check_length("data.choices.0.name", str(choice["name"]), 100)
        check_length("data.choices.0.value", str(choice["value"]), 100)
    return choices


def _checked_modal(modal: Json) -> Json:
    check_length("data.title", str(modal.get("title") or ""), 45)
    if not modal.get("custom_id") or not modal.get("title"):
        raise invalid("data.title", "BASE_TYPE_REQUIRED", "This field is required")
    check_components(modal.get("components") or [], layout=True)
    return modal
