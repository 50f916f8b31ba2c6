"""A Discord on loopback that discord.py talks to unmodified: one guild to begin with, one person, one bot."""

from __future__ import annotations

from types import TracebackType

from chatbridge.testing.discord import channels
from chatbridge.testing.discord.api import PREFIX, Api
from chatbridge.testing.discord.events import tell_channel, tell_guild, tell_member, tell_role
from chatbridge.testing.discord.gateway import Gateway
from chatbridge.testing.discord.interactions import Interactions
from chatbridge.testing.discord.limits import Limiter, Limits
from chatbridge.testing.discord.people import People
from chatbridge.testing.discord.permissions import EVERYONE, PERMISSIONS
from chatbridge.testing.discord.state import TEXT, Bot, Channel, Guild, Member, Role, User, World
from chatbridge.testing.wire.calls import Calls
from chatbridge.testing.wire.changes import Changes
from chatbridge.testing.wire.clock import Clock
from chatbridge.testing.wire.http import HttpServer


class DiscordServer(People):
    """REST and gateway, with Discord's limits, errors and rules; an async context manager.

    Point a client at `api_url` and `gateway_url`. `calls` records what it did, `faults` and `gateway` make trouble,
    `clock` moves time on, and the methods are what people do. With discord.py::

        async with DiscordServer() as server:
            discord.http.Route.BASE = server.api_url
            discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(server.gateway_url)
            client = MyClient(intents=..., guild_ready_timeout=0.1)
            async with client:
                task = asyncio.create_task(client.start(server.bot.token))
                await server.gateway.until_connected()
                await server.say(server.general, "Hello!", mention=True)
                assert (await server.next_message()).content == "Hello, alice!"

    `shards`: how many it recommends to bots. `port`: where it listens, any free one by default.
    What it does not know (voice, polls, stickers, moderation) it answers with 501, and records.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        limits: Limits | None = None,
        heartbeat_interval: float = 41.25,
        shards: int = 1,
        port: int = 0,
    ) -> None:
        limits = limits or Limits()
        self.clock = clock or Clock()
        changes = Changes()
        world = World(self.clock, shards)
        interactions = Interactions(world, limits.first_answer, limits.later_answers)
        super().__init__(world, interactions, changes)
        self.calls = Calls(changes)
        self.gateway = Gateway(world, self.calls, changes, heartbeat_interval)
        self._api = Api(world, interactions, Limiter(self.clock, limits), self.gateway, self.calls)
        self.faults = self._api.faults
        self._http = HttpServer(self._api.handle)
        self._port = port
        self.person = self.add_person("alice")
        self.guild = self.add_guild("Guild", owner=self.add_person("owner"))
        self.general = self.add_channel("general")
        self.join(self.guild, self.person)
        self.bot = self.add_bot("bot")

    async def __aenter__(self) -> DiscordServer:
        await self._http.start(self._port)
        self.world.base_url = f"http://127.0.0.1:{self._http.port}"
        self.gateway.url = self.gateway_url
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @property
    def api_url(self) -> str:
        """The base of all routes, with its version."""
        return self.world.base_url + PREFIX

    @property
    def gateway_url(self) -> str:
        """Where the gateway is."""
        return self.world.base_url.replace("http", "ws", 1) + "/gateway/"

    def add_person(self, name: str, *, locale: str = "en-US") -> User:
        """A person, who is in no guild yet; `locale` is the language of their client."""
        user = User(self.world.new_id(), name, locale=locale)
        self.world.users[user.id] = user
        return user

    def add_bot(
        self,
        name: str,
        *,
        guild: Guild | None = None,
        message_content: bool = True,
        server_members: bool = True,
        presences: bool = True,
    ) -> Bot:
        """A bot with a token of its own, in `guild` or the first one; the switches are its privileged intents."""
        user = User(self.world.new_id(), name, bot=True)
        self.world.users[user.id] = user
        bot = Bot(user, self.world.new_id(), f"token-of-{name}", message_content, server_members, presences)
        self.world.bots[bot.token] = bot
        self.join(guild or self.guild, user)
        return bot

    def add_guild(self, name: str, *, owner: User | None = None) -> Guild:
        """A guild that only its owner is in."""
        number = self.world.new_id()
        guild = Guild(number, name, owner or self.person)
        guild.roles[number] = Role(number, "@everyone", EVERYONE)
        self.world.guilds[number] = guild
        self.join(guild, guild.owner)
        return guild

    def add_channel(
        self, name: str, *, guild: Guild | None = None, kind: int = TEXT, parent: Channel | None = None
    ) -> Channel:
        """A channel of `guild` or the first one; `kind` is Discord's number (0 text, 4 category, 15 forum)."""
        guild = guild or self.guild
        channel = Channel(self.world.new_id(), kind, name, guild, parent)
        self.world.channels[channel.id] = guild.channels[channel.id] = channel
        tell_channel(self.world, channel, "CHANNEL_CREATE")
        return channel

    def add_role(self, name: str, *members: User, guild: Guild | None = None, mentionable: bool = True) -> Role:
        """A role of `guild` or the first one, for these members."""
        guild = guild or self.guild
        role = Role(self.world.new_id(), name, 0, mentionable, len(guild.roles))
        guild.roles[role.id] = role
        tell_role(self.world, guild, role, "GUILD_ROLE_CREATE")
        for user in members:
            self.give_role(role, user)
        return role

    def give_role(self, role: Role, *members: User) -> None:
        """Give a role to members of its guild, who may be bots, at any time."""
        guild = self._guild_of(role)
        for user in members:
            if role not in guild.members[user.id].roles:
                guild.members[user.id].roles.append(role)
                tell_member(self.world, guild, user, "GUILD_MEMBER_UPDATE")

    def take_role(self, role: Role, *members: User) -> None:
        """Take a role from members of its guild."""
        guild = self._guild_of(role)
        for user in members:
            guild.members[user.id].roles.remove(role)
            tell_member(self.world, guild, user, "GUILD_MEMBER_UPDATE")

    def change_role(self, role: Role, *permissions: str) -> None:
        """Let a role give these permissions to its members, and no others."""
        role.permissions = sum(PERMISSIONS[name] for name in permissions)
        tell_role(self.world, self._guild_of(role), role, "GUILD_ROLE_UPDATE")

    def remove_role(self, role: Role) -> None:
        """Delete a role; nobody has it any more."""
        guild = self._guild_of(role)
        del guild.roles[role.id]
        tell_role(self.world, guild, role, "GUILD_ROLE_DELETE")
        for member in guild.members.values():
            if role in member.roles:
                member.roles.remove(role)
                tell_member(self.world, guild, member.user, "GUILD_MEMBER_UPDATE")

    def _guild_of(self, role: Role) -> Guild:
        return next(guild for guild in self.world.guilds.values() if guild.roles.get(role.id) is role)

    def switch(
        self,
        bot: Bot | None = None,
        *,
        message_content: bool | None = None,
        server_members: bool | None = None,
        presences: bool | None = None,
    ) -> None:
        """Turn switches of the developer portal while a bot runs.

        Without message content a bot is told no content from now on, but for private chats, its own messages and those
        that mention it; a new connection that asks for what is off is closed with 4014.
        """
        bot = bot or self.bot
        bot.message_content = bot.message_content if message_content is None else message_content
        bot.server_members = bot.server_members if server_members is None else server_members
        bot.presences = bot.presences if presences is None else presences

    def join(self, guild: Guild, user: User) -> Member:
        """Let a person or a bot into a guild."""
        member = guild.members[user.id] = Member(user, self.clock())
        if user.bot:
            tell_guild(self.world, guild, user)
        tell_member(self.world, guild, user, "GUILD_MEMBER_ADD")
        return member

    def deny(self, channel: Channel, *permissions: str, who: User | Role | None = None) -> None:
        """Take permissions away from the bot (or `who`) in a channel: `send_messages`, `view_channel` and the like."""
        channels.take_away(self.world, channel, (who or self.bot.user).id, permissions)
