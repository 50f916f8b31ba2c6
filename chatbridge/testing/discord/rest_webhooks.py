"""The routes of webhooks: those that answer interactions, and the ordinary ones of channels. Takes calls apart."""

from __future__ import annotations

from chatbridge.testing.discord import messages
from chatbridge.testing.discord.content import check_length, invalid
from chatbridge.testing.discord.events import told_message
from chatbridge.testing.discord.interactions import Interaction
from chatbridge.testing.discord.payloads import message_json, webhook_json
from chatbridge.testing.discord.permissions import demand
from chatbridge.testing.discord.routes import Asked, Route, RouteResult
from chatbridge.testing.discord.state import Json, Message, Refusal, User, Webhook


def answer_interaction(asked: Asked) -> RouteResult:
    found = asked.interactions.to_answer(asked.ids["interaction"], asked.ids["token"])
    asked.interactions.answer(found, asked.body, asked.files)
    if asked.query.get("with_response") not in ("true", "1"):
        return RouteResult(204, None)
    interaction: Json = {"id": str(found.id), "type": found.type}
    resource: Json = {"type": found.kind}
    if found.response is not None:
        interaction |= {
            "response_message_id": str(found.response.id),
            "response_message_loading": found.response.loading,
            "response_message_ephemeral": found.response.ephemeral,
        }
        resource["message"] = _told(asked, found, found.response)
    return RouteResult(200, {"interaction": interaction, "resource": resource})


def _told(asked: Asked, found: Interaction, message: Message) -> Json:
    return told_message(asked.world, message, found.bot, True)


def _ordinary(asked: Asked) -> Webhook | None:
    """The webhook of a channel that is meant; None where it is an interaction's."""
    number = int(asked.ids["webhook"]) if asked.ids["webhook"].isdecimal() else 0
    found = asked.world.webhooks.get(number)
    if found is not None and "token" in asked.ids and found.token != asked.ids["token"]:
        raise Refusal(401, 50027, "Invalid Webhook Token")
    return found


def _interaction(asked: Asked) -> Interaction:
    return asked.interactions.of_token(asked.ids["webhook"], asked.ids["token"])


def execute(asked: Asked) -> RouteResult:
    webhook = _ordinary(asked)
    if webhook is None:
        found = _interaction(asked)
        return RouteResult(200, _told(asked, found, asked.interactions.follow_up(found, asked.body, asked.files)))
    message = _written(asked, webhook)
    return (
        RouteResult(200, message_json(asked.world, message))
        if asked.query.get("wait") in ("true", "1")
        else RouteResult(204, None)
    )


def _written(asked: Asked, webhook: Webhook) -> Message:
    channel = webhook.channel
    if "thread_id" in asked.query:
        channel = asked.world.channel(asked.query["thread_id"])
        if channel.parent is not webhook.channel:
            raise Refusal(404, 10003, "Unknown Channel")
    name = str(asked.body.get("username") or webhook.name)
    check_length("username", name, 80)
    author = User(webhook.id, name, bot=True)
    message = messages.compose(asked.world, channel, author, asked.body, asked.files)
    message.webhook_id = webhook.id
    messages.publish(asked.world, message, asked.body.get("allowed_mentions"))
    return message


def get_answer(asked: Asked) -> Json:
    webhook = _ordinary(asked)
    if webhook is not None:
        return message_json(asked.world, _own(asked, webhook))
    found = _interaction(asked)
    return _told(asked, found, asked.interactions.message(found, asked.ids["message"]))


def edit_answer(asked: Asked) -> Json:
    webhook = _ordinary(asked)
    if webhook is not None:
        message = _own(asked, webhook)
        return message_json(asked.world, messages.edit(asked.world, message, message.author, asked.body, asked.files))
    found = _interaction(asked)
    message = asked.interactions.message(found, asked.ids["message"])
    return _told(asked, found, asked.interactions.edit(found, message, asked.body, asked.files))


def delete_answer(asked: Asked) -> None:
    webhook = _ordinary(asked)
    if webhook is not None:
        message = _own(asked, webhook)
        messages.delete(asked.world, [message], message.author)
        return
    found = _interaction(asked)
    messages.delete(asked.world, [asked.interactions.message(found, asked.ids["message"])], found.bot.user)


def _own(asked: Asked, webhook: Webhook) -> Message:
    place = asked.world.channel(asked.query["thread_id"]) if "thread_id" in asked.query else webhook.channel
    message = asked.world.message(place, asked.ids["message"])
    if message.webhook_id != webhook.id:
        raise Refusal(404, 10008, "Unknown Message")
    return message


def create(asked: Asked) -> Json:
    channel = asked.world.channel(asked.ids["channel"])
    demand(asked.bot.user, channel, "manage_webhooks")
    name = str(asked.body.get("name") or "")
    if not name or len(name) > 80:
        raise invalid("name", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 80 in length.")
    number = asked.world.new_id()
    webhook = Webhook(number, f"webhook{number}".ljust(68, "x"), channel, name, asked.bot.user)
    asked.world.webhooks[number] = webhook
    return webhook_json(webhook)


def list_webhooks(asked: Asked) -> list[Json]:
    channel = asked.world.channel(asked.ids["channel"])
    demand(asked.bot.user, channel, "manage_webhooks")
    return [webhook_json(webhook) for webhook in asked.world.webhooks.values() if webhook.channel is channel]


def _known(asked: Asked) -> Webhook:
    webhook = _ordinary(asked)
    if webhook is None:
        raise Refusal(404, 10015, "Unknown Webhook")
    if "token" not in asked.ids:
        demand(asked.bot.user, webhook.channel, "manage_webhooks")
    return webhook


def get_webhook(asked: Asked) -> Json:
    return webhook_json(_known(asked))


def delete_webhook(asked: Asked) -> None:
    del asked.world.webhooks[_known(asked).id]


_TOKEN = "/webhooks/{webhook}/{token}"

ROUTES = (
    Route("POST", "/interactions/{interaction}/{token}/callback", answer_interaction, of_messages=True, exempt=True),
    Route("POST", _TOKEN, execute, of_messages=True),
    Route("GET", _TOKEN + "/messages/{message}", get_answer),
    Route("PATCH", _TOKEN + "/messages/{message}", edit_answer, of_messages=True),
    Route("DELETE", _TOKEN + "/messages/{message}", delete_answer),
    Route("POST", "/channels/{channel}/webhooks", create),
    Route("GET", "/channels/{channel}/webhooks", list_webhooks),
    Route("GET", "/webhooks/{webhook}", get_webhook),
    Route("DELETE", "/webhooks/{webhook}", delete_webhook),
    Route("GET", _TOKEN, get_webhook),
    Route("DELETE", _TOKEN, delete_webhook),
)
