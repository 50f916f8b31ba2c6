"""discord.py, unmodified, against the interactions of the stand-in Discord: commands, buttons, menus, forms."""

from __future__ import annotations

import io

import pytest

from chatbridge.testing import DiscordServer

from .conftest import Client, discord, running


class Talker(Client):
    """A bot with one command of every kind."""

    async def setup_hook(self) -> None:
        tree = self.tree

        @tree.command(description="Say something back")
        async def echo(interaction: discord.Interaction, text: str, times: int = 1) -> None:
            await interaction.response.send_message(" ".join([text] * times), ephemeral=True)

        @tree.command(description="Think about it")
        async def think(interaction: discord.Interaction) -> None:
            await interaction.response.defer(thinking=True)
            await interaction.edit_original_response(content="first")
            await interaction.edit_original_response(content="second")
            await interaction.followup.send("more")

        @tree.command(description="Choose a model")
        async def model(interaction: discord.Interaction, name: str) -> None:
            await interaction.response.send_message(f"now {name}")

        @model.autocomplete("name")
        async def names(interaction: discord.Interaction, typed: str) -> list[discord.app_commands.Choice[str]]:
            known = ["alpaca", "alma", "raven"]
            return [discord.app_commands.Choice(name=name, value=name) for name in known if name.startswith(typed)]

        @tree.command(description="Show buttons")
        async def buttons(interaction: discord.Interaction) -> None:
            await interaction.response.send_message("press", view=Buttons())

        @tree.context_menu(name="Regenerate")
        async def regenerate(interaction: discord.Interaction, message: discord.Message) -> None:
            await interaction.response.send_message(f"again: {message.content}")

        group = discord.app_commands.Group(name="queue", description="The queue")

        @group.command(description="Who is who")
        async def who(interaction: discord.Interaction, user: discord.User) -> None:
            await interaction.response.send_message(f"that is {user.name}")

        tree.add_command(group)
        await tree.sync()


class Buttons(discord.ui.View):
    @discord.ui.button(label="Stop", custom_id="stop")
    async def stop_it(self, interaction: discord.Interaction, button: object) -> None:
        await interaction.response.edit_message(content="stopped", view=None)

    @discord.ui.button(label="Ask", custom_id="ask")
    async def ask(self, interaction: discord.Interaction, button: object) -> None:
        await interaction.response.send_modal(Form())

    @discord.ui.button(label="Off", custom_id="off", disabled=True)
    async def off(self, interaction: discord.Interaction, button: object) -> None: ...

    @discord.ui.select(
        options=[discord.SelectOption(label="red"), discord.SelectOption(label="blue")], custom_id="menu"
    )
    async def menu(self, interaction: discord.Interaction, select: discord.ui.Select[Buttons]) -> None:
        await interaction.response.defer()
        await interaction.followup.send(f"you like {select.values[0]}")


class Form(discord.ui.Modal, title="A form"):
    name = discord.ui.TextInput(label="Name", custom_id="name")

    async def on_submit(self, interaction: discord.Interaction) -> None:
        await interaction.response.send_message(f"hello, {self.name.value}")


async def test_a_slash_command_round_trip(server: DiscordServer) -> None:
    async with running(server, Talker()):
        asked = await server.invoke_command("echo", {"text": "hi", "times": 2})
        answer = await server.answer_to(asked)
        assert (answer.content, answer.ephemeral, answer.interaction["type"]) == ("hi hi", True, 2)
        asked = await server.invoke_command("queue who", {"user": server.person})
        assert (await server.answer_to(asked)).content == "that is alice"
        in_private = await server.invoke_command("echo", {"text": "psst"}, channel=server.dm())
        assert (await server.answer_to(in_private)).channel is server.dm()


async def test_a_person_can_only_do_what_their_client_shows(server: DiscordServer) -> None:
    async with running(server, Talker()):
        with pytest.raises(LookupError, match="it has: echo, think"):
            await server.invoke_command("nonsense")
        with pytest.raises(ValueError, match="needs the option 'text'"):
            await server.invoke_command("echo")
        with pytest.raises(ValueError, match="no option wrong"):
            await server.invoke_command("echo", {"text": "x", "wrong": 1})


async def test_autocomplete(server: DiscordServer) -> None:
    async with running(server, Talker()):
        assert await server.autocomplete("model", "name", "al") == ["alpaca", "alma"]


async def test_defer_edit_and_follow_up(server: DiscordServer) -> None:
    async with running(server, Talker()):
        asked = await server.invoke_command("think")
        answer = await server.answer_to(asked)
        await server.until(lambda: asked.followups)
        assert asked.deferred
        assert (answer.content, answer.history) == ("second", ["", "first"])
        assert [message.content for message in asked.followups] == ["more"]


async def test_a_message_s_context_menu(server: DiscordServer) -> None:
    async with running(server, Talker()):
        said = await server.say(server.general, "a question")
        asked = await server.invoke_on_message("Regenerate", said)
        assert (await server.answer_to(asked)).content == "again: a question"


async def test_a_button_round_trip(server: DiscordServer) -> None:
    async with running(server, Talker()):
        message = await server.answer_to(await server.invoke_command("buttons"))
        with pytest.raises(LookupError, match="Stop"):
            await server.click(message, "Start")
        with pytest.raises(LookupError):
            await server.click(message, "Off")
        chosen = await server.choose(message, "menu", "blue")
        await server.until(lambda: chosen.followups)
        assert chosen.followups[0].content == "you like blue"
        form = await server.click(message, "Ask")
        await server.until(lambda: form.modal)
        assert (await server.answer_to(await server.submit(form, {"name": "Bob"}))).content == "hello, Bob"
        pressed = await server.click(message, "Stop")
        assert await server.answer_to(pressed) is message
        assert (message.content, message.components) == ("stopped", [])


async def test_three_seconds_to_answer_and_fifteen_minutes_to_add(server: DiscordServer) -> None:
    class Late(Client):
        async def on_interaction(self, interaction: discord.Interaction) -> None:
            self.interaction = interaction
            self.see("interaction")

    async with running(server, Late()) as client:
        await client.http.upsert_global_command(
            server.bot.application_id, {"name": "wait", "description": "wait", "type": 1}
        )
        asked = await server.invoke_command("wait")
        await client.until_seen("interaction")
        server.clock.advance(3.1)
        assert server.failed(asked)
        with pytest.raises(discord.NotFound) as refused:
            await client.interaction.response.defer()
        assert refused.value.code == 10062

        await server.invoke_command("wait")
        await client.until_seen("interaction", "interaction")
        first = client.interaction
        await first.response.defer()
        first.response._response_type = None  # so that the library itself does not refuse
        with pytest.raises(discord.HTTPException) as refused:
            await first.response.defer()
        assert refused.value.code == 40060
        await first.edit_original_response(content="done", attachments=[discord.File(io.BytesIO(b"x"), "x.txt")])
        server.clock.advance(901)
        with pytest.raises(discord.HTTPException) as refused:
            await first.edit_original_response(content="too late")
        assert refused.value.code == 50027


async def test_commands_are_checked_and_keep_their_ids(server: DiscordServer) -> None:
    async with running(server, Talker()) as client:
        before = {command.name: command.id for command in await client.tree.fetch_commands()}
        assert set(before) == {"echo", "think", "model", "buttons", "Regenerate", "queue"}
        client.tree.remove_command("echo")
        after = {command.name: command.id for command in await client.tree.sync()}
        assert after == {name: number for name, number in before.items() if name != "echo"}
        guild = discord.Object(server.guild.id)
        client.tree.copy_global_to(guild=guild)
        await client.tree.sync(guild=guild)
        assert set(server.bot.commands) == {None, server.guild.id}
        bodies = [{"name": f"c{n}", "description": "x", "type": 1} for n in range(101)]
        with pytest.raises(discord.HTTPException) as refused:
            await client.http.bulk_upsert_global_commands(server.bot.application_id, bodies)
        assert refused.value.code == 30032


async def test_components_of_version_two_have_limits_of_their_own(server: DiscordServer) -> None:
    async with running(server) as client:
        channel = client.get_channel(server.general.id)

        def layout(*texts: str) -> discord.ui.LayoutView:
            view = discord.ui.LayoutView()
            view.add_item(discord.ui.Container(*(discord.ui.TextDisplay(text) for text in texts)))
            return view

        await channel.send(view=layout("a" * 2000, "b" * 2000))
        assert (await server.next_message()).text == "a" * 2000 + "\n" + "b" * 2000
        with pytest.raises(discord.HTTPException) as refused:
            await channel.send(view=layout("a" * 2000, "b" * 2001))
        assert refused.value.code == 50035
        assert "COMPONENT_DISPLAYABLE_TEXT_SIZE_EXCEEDED" in str(server.calls[-1].answer)
