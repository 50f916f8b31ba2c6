"""Who may do what of a bot: one decision for every way in, be it typed, a slash command, an alias, a button, a menu, an
edit or a suggestion; and what a person's answers may cost.

Knows bots.yaml's rules, pairings and quotas; knows no message's words, no model and no chat service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chatbridge.bots.quotas import QuotaExceeded, Quotas, Reservation
from chatbridge.bots.strangers import StrangerNotices
from chatbridge.config.settings import Admins, BotSettings, Quota
from chatbridge.store import Pairings, Store, UsageLog
from chatbridge.texts import duration, say
from chatbridge.types import Author, Channel, Usage

if TYPE_CHECKING:
    from chatbridge.bots.reply import Notice

CHANGES = frozenset({"stop", "regenerate", "continue", "branch", "edit", "undo"})
"""What is done to an answer that somebody has asked for."""

GROUP_ADMIN_COMMANDS = frozenset({"model", "template", "system", "set"})
"""What changes everybody's conversation in a group: for admins there, where some are named and nothing else is said."""

COMMANDS_OF_BUTTONS = {"answer": "edit"}
"""The commands that buttons do the same as, where they have another name."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants of a bot, by whatever way.

    `action`: the command's name, of which a button has one as well; "" for a message to the model. `admin`: the command
    says itself that it is for admins. `asker`: for whom the answer is that it is about, by id; "" where it is about
    none, or nobody knows. `open_to_all`: answers of that channel may be changed by everyone.
    """

    author: Author
    channel: Channel
    action: str = ""
    admin: bool = False
    asker: str = ""
    open_to_all: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a wish is granted. `reason`: the key of a text that says why not. `pairable`: an admin could let that
    person in by a code."""

    allowed: bool
    reason: str = ""
    action: str = ""
    pairable: bool = False

    def say(self, language: str) -> str:
        """Why it is not granted, in words for the person."""
        return say(language, self.reason, name=self.action)


ALLOWED = Verdict(True)


def decide(rules: BotSettings | None, wish: Wish, *, paired: bool = False) -> Verdict:
    """Whether a bot does what somebody wants. Pure. `rules`: its entry in bots.yaml, if it has one. `paired`: an admin
    has let that person in."""
    author, channel = wish.author, wish.channel
    if rules is not None and not _heard(rules, author, channel, paired=paired):
        pairable = rules.pairing and not paired and not author.is_bot and _heard(rules, author, channel, paired=True)
        return Verdict(False, "not_permitted", wish.action, pairable)
    if channel.kind == "terminal" or (rules is not None and rules.admins.names(author)):
        return ALLOWED
    if wish.admin or is_for_admins(rules, wish.action, channel.kind):
        return Verdict(False, "admins_only", wish.action)
    shared = channel.kind == "group" and not wish.open_to_all
    if shared and wish.action in CHANGES and wish.asker not in ("", author.id):
        return Verdict(False, "not_yours", wish.action)
    return ALLOWED


def is_for_admins(rules: BotSettings | None, command: str, kind: str) -> bool:
    """Whether bots.yaml leaves a command to admins in a channel of that kind."""
    if rules is None:
        return False
    if rules.admin_commands is not None:
        return command in rules.admin_commands
    return kind == "group" and rules.admins != Admins() and command in GROUP_ADMIN_COMMANDS


def _heard(rules: BotSettings, author: Author, channel: Channel, *, paired: bool) -> bool:
    """Whether a bot listens to that person in that place."""
    deny, allow = rules.deny, rules.allow
    if deny.names(author) or deny.covers(channel):
        return False
    # Behind the name of a chat may be anybody, and so whoever is denied.
    hidden = author.anonymous and author.id not in allow.users
    if hidden and (rules.anonymous == "refuse" or (rules.anonymous == "auto" and (deny.users or deny.roles))):
        return False
    anywhere = not allow.channels and not allow.guilds
    anyone = not rules.pairing and not allow.users and not allow.roles
    known = paired or rules.admins.names(author) or allow.names(author)
    return (anywhere or allow.covers(channel)) and (anyone or known)


def payer_of(author: Author, channel: Channel) -> Author:
    """Whose quota an answer counts on: those who write in a chat's name share one in each chat."""
    return replace(author, id=f"{channel.parent or channel.id}/anonymous") if author.anonymous else author


def asker_of(author: Author | None) -> str:
    """Whose an answer is, by id; "" where nobody can tell."""
    return "" if author is None or author.anonymous else author.id


class Permissions:
    """One bot's. `pairings`: who was let in by an admin. `usage`: what each person's answers have cost.

    `find_settings`: the bot's entry in bots.yaml as it is now, if it has one. `is_admin_command`: whether the command
    of a name says itself that it is for admins. `open_to_all`: whether everyone may change the answers of a channel.
    `clock` gives seconds since the epoch, `monotonic` seconds that never go back.
    """

    def __init__(
        self,
        bot: str,
        find_settings: Callable[[], BotSettings | None],
        is_admin_command: Callable[[str], bool],
        open_to_all: Callable[[Channel], bool],
        store: Store,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.pairings = Pairings(store)
        self.usage = UsageLog(store)
        self.quotas = Quotas(bot, self.usage, clock, monotonic)
        self.strangers = StrangerNotices(bot, self.pairings, clock, monotonic)
        self._bot = bot
        self._find_settings = find_settings
        self._is_admin_command = is_admin_command
        self._open_to_all = open_to_all

    async def may(self, author: Author, channel: Channel, action: str = "", *, asker: str = "") -> Verdict:
        """Whether the bot does for that person what they want there. For `asker` see `Wish`.

        `action`: a command's name, a button's, or "" for a message to the model.
        """
        name = COMMANDS_OF_BUTTONS.get(action, action)
        wish = Wish(author, channel, name, self._is_admin_command(name), asker, self._open_to_all(channel))
        verdict = decide(self._find_settings(), wish)
        if verdict.pairable and await self.pairings.paired(self._bot, author.id):
            return decide(self._find_settings(), wish, paired=True)
        return verdict

    async def stoppable(self, author: Author, channel: Channel, askers: Iterable[str]) -> frozenset[str]:
        """Whose answers that person may stop there, and so may end by writing on: of `askers`, by id, and of their own,
        since there may be one in a moment."""
        known = {*askers, asker_of(author)}
        return frozenset([one for one in known if (await self.may(author, channel, "stop", asker=one)).allowed])

    def listens(self, author: Author, channel: Channel) -> bool:
        """Whether the bot may listen to that person there, if an admin has let them in where that is needed."""
        verdict = decide(self._find_settings(), Wish(author, channel))
        return verdict.allowed or verdict.pairable

    def is_admin(self, author: Author) -> bool:
        """Whether that person is named as an admin."""
        own = self._find_settings()
        return own is not None and own.admins.names(author)

    def for_admins(self, command: str, kind: str) -> bool:
        """Whether a command is for admins alone, in channels of that kind."""
        return self._is_admin_command(command) or is_for_admins(self._find_settings(), command, kind)

    async def pairing_notice(self, author: Author, language: str) -> Notice | None:
        """The code by which an admin can let in somebody whose verdict is `pairable`; None where they know it."""
        own = self._find_settings()
        return await self.strangers.notice(author, language, own.strangers) if own is not None else None

    async def reserve(
        self, author: Author, channel: Channel, tokens: int, language: str, *, repeat: bool = False
    ) -> Reservation | str:
        """Count one more message of that person and reserve tokens for its answer, or give the notice of the quota
        that it would exceed: "" if it was shown already (unless `repeat`)."""
        own = self._find_settings()
        quota = own.limits if own is not None else Quota()
        if quota == Quota() or self.is_admin(author):
            return Reservation(0)
        exceeded = await self.quotas.reserve(payer_of(author, channel), quota, tokens)
        if not isinstance(exceeded, QuotaExceeded):
            return exceeded
        if exceeded.told and not repeat:
            return ""
        return say(language, exceeded.kind, limit=exceeded.limit, wait=duration(exceeded.seconds, language))

    def take(self, author: Author, channel: Channel, tokens: int) -> Reservation:
        """Reserve tokens for an answer that was admitted before the program ended."""
        return self.quotas.take(payer_of(author, channel), tokens)

    async def settle(self, author: Author, channel: Channel, usage: Usage, reservation: Reservation | None) -> None:
        """Count what an answer has cost, in place of what was reserved for it."""
        await self.quotas.settle(payer_of(author, channel), usage, reservation)
