"""The eighteen chat commands that come with chatbridge. Knows dialogues; frontends show what the commands say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from chatbridge.bots import conversation_files as files
from chatbridge.bots.attachments import content_of, unread_of, with_attachments
from chatbridge.bots.command import ChatCommand, CommandContext, in_a_list, parse
from chatbridge.bots.quotas import day_of
from chatbridge.operations.printable import in_one_line
from chatbridge.texts import duration

if TYPE_CHECKING:
    from chatbridge.bots.reply import ReplyStream
    from chatbridge.store import Pairing

DEFAULT = "default"
"""What takes back a value that a conversation has set for itself, as in `/set KEY default`."""


async def _help(context: CommandContext, argument: str) -> str:
    bot, kind = context.dialogue.bot, context.message.channel.kind
    commands = [*bot.services.hooks.chat_commands.values()] if kind == "terminal" else bot.commands_in(kind)
    aliases = (await context.dialogue.settings()).aliases
    lines = [context.say("help")]
    for command in commands:
        if command.admin and not bot.is_admin(context.message.author):
            continue
        usage = f"/{command.name} {command.argument}".rstrip()
        also = "".join(f", `{alias}`" for alias, text in aliases.items() if (parse(text) or ("",))[0] == command.name)
        lines.append(f"- `{usage}`{also}: {command.summary_zh if context.language == 'zh' else command.summary}")
    return "\n".join(lines)


async def _reset(context: CommandContext, argument: str) -> str:
    await context.dialogue.reset()
    return context.say("was_reset")


async def _regenerate(context: CommandContext, argument: str) -> ReplyStream:
    return context.dialogue.regenerate(context.language)


async def _continue(context: CommandContext, argument: str) -> ReplyStream:
    return context.dialogue.go_on(context.language)


async def _edit(context: CommandContext, argument: str) -> ReplyStream:
    message = replace(context.message, text=argument, quoted="")
    if not any(map(content_of, message.attachments)):
        _needed(context, argument, "edit", "TEXT")
    notices = unread_of(message, context.language)
    return context.dialogue.edit(with_attachments(message), context.language, notices)


async def _undo(context: CommandContext, argument: str) -> str:
    node = await context.dialogue.undo(context.language, lambda node: context.check("undo", node))
    return context.say("undone", text=node.text)


async def _branch(context: CommandContext, argument: str) -> str:
    dialogue = context.dialogue
    if not argument:
        return await _branches(context)
    if re.fullmatch(r"c[0-9]{1,18}", argument):
        known = await dialogue.store.conversations(dialogue.bot.name, dialogue.key)
        if any(conversation.id == int(argument[1:]) for conversation in known):
            for node in await dialogue.store.path(int(argument[1:]), limit=1):
                await context.check("branch", node)
            await dialogue.store.make_current(int(argument[1:]))
            return context.say("branch_taken", id=argument)
    conversation = await dialogue.conversation()
    for leaf in await dialogue.store.leaves(conversation.id):
        if str(leaf.id) == argument:
            await context.check("branch", leaf)
            await dialogue.store.set_head(conversation.id, leaf.id)
            return context.say("branch_taken", id=argument)
    raise context.error("no_branch", id=argument)


async def _branches(context: CommandContext) -> str:
    dialogue = context.dialogue
    conversation = await dialogue.conversation()
    lines = [context.say("branches")]
    for leaf in await dialogue.store.leaves(conversation.id):
        here = context.say("branch_here") if leaf.id == conversation.head else ""
        lines.append(f"- {leaf.id}: {_short(leaf.text)}{here}")
    others = await dialogue.store.conversations(dialogue.bot.name, dialogue.key)
    # One whose only message was taken back has no head, and still has that message.
    earlier = [other for other in others if other.id != conversation.id and (other.head is not None or other.title)]
    if earlier:
        lines.append(context.say("earlier"))
        lines += [f"- c{other.id}: {_short(other.title)}" for other in earlier[:10]]
    return "\n".join(lines)


async def _model(context: CommandContext, argument: str) -> str:
    models = context.dialogue.bot.services.settings.models
    settings = await context.dialogue.settings()
    if not argument:
        return context.say("model_now", name=settings.model, known=", ".join(models))
    if argument == DEFAULT and argument not in models:
        return await _as_the_channel_says(context, "model")
    _known(context, "model", argument, models)
    conversation = await context.dialogue.conversation()
    changed = {**conversation.overrides, "model": argument}
    said = context.say("model_set", name=argument)
    if (adapter := changed.get("adapter")) is not None and adapter not in models[argument].adapters:
        del changed["adapter"]  # what /set has chosen for the model before
        said += " " + context.say("adapter_gone", name=adapter)
    await context.dialogue.store.set_overrides(conversation.id, changed)
    return said


async def _template(context: CommandContext, argument: str) -> str:
    templates = context.dialogue.bot.templates
    settings = await context.dialogue.settings()
    if not argument:
        return context.say("template_now", name=settings.template or "-", known=", ".join(templates))
    if argument == DEFAULT and argument not in templates:
        return await _as_the_channel_says(context, "template")
    _known(context, "template", argument, templates)
    await context.dialogue.override("template", argument)
    return context.say("template_set", name=argument)


async def _system(context: CommandContext, argument: str) -> str:
    from chatbridge.config.settings import MAX_SYSTEM

    if argument == DEFAULT:
        return await _as_the_channel_says(context, "system")
    if argument:
        if len(argument) > MAX_SYSTEM:
            raise context.error("system_long", limit=MAX_SYSTEM)
        await context.dialogue.override("system", argument)
        return context.say("system_set")
    settings = await context.dialogue.settings()
    return context.say("system_now", text=settings.system) if settings.system else context.say("system_none")


async def _as_the_channel_says(context: CommandContext, what: str) -> str:
    """Take back what the conversation has set for itself."""
    await context.dialogue.override(what, None)
    return context.say("default_again", what=context.say(what))


async def _set(context: CommandContext, argument: str) -> str:
    from chatbridge.bots.overrides import describe, override

    key, _, value = argument.partition(" ")
    if not value.strip():
        settings = await context.dialogue.settings()
        return context.say("set_usage", values=describe(settings))
    conversation = await context.dialogue.conversation()
    changed = override(context, conversation.overrides, key, value.strip())
    await context.dialogue.store.set_overrides(conversation.id, changed)
    return context.say("set_done", key=key, value=value.strip())


async def _stop(context: CommandContext, argument: str) -> str:
    stopped = await context.dialogue.stop_for(context.message.author, context.language)
    return context.say("stopped" if stopped else "nothing_to_stop")


async def _stats(context: CommandContext, argument: str) -> str:
    dialogue = context.dialogue
    lines = [context.say("stats_history", count=len(await dialogue.path()))]
    services, model = dialogue.bot.services, (await dialogue.settings()).model
    if (since := services.models.unloaded().get(model)) is not None:
        wait = duration(services.clock() - since, context.language)
        lines.append(context.say("stats_unloaded", model=model, wait=wait))
    if dialogue.last is None or dialogue.last.finish is None:
        return "\n".join([*lines, context.say("stats_none")])
    usage = dialogue.last.finish.usage
    lines.append(
        context.say(
            "stats",
            model=dialogue.last.model,
            prompt=usage.prompt,
            cached=usage.cached,
            read=usage.read,
            generated=usage.generated,
            speed=usage.tokens_per_second,
            first=usage.first_token_seconds,
        )
    )
    if dialogue.last.rewritten:
        lines.append(context.say("stats_rewritten", count=dialogue.last.rewritten))
    backend = services.models.loaded().get(dialogue.last.model)
    if backend is not None:
        details, all_of_them = backend.info.details.items(), _may_see_paths(context)
        lines += [f"- {key}: {value}" for key, value in details if all_of_them or not set("/\\~") & set(str(value))]
    return "\n".join(lines)


async def _save(context: CommandContext, argument: str) -> str:
    typed = _needed(context, argument, "save", "FILE")
    conversation = await context.dialogue.conversation()
    exported = await context.dialogue.store.export(conversation.id)
    text = json.dumps(exported, ensure_ascii=False, indent=1)
    try:
        path = files.path_of(typed)
        there = await asyncio.to_thread(files.is_there, path)
        if there and not await context.confirm(context.say("replace", path=path)):
            return context.say("not_saved")
        await asyncio.to_thread(files.write_text, path, text, replace=there)
    except OSError as error:
        raise context.error("file_fails", path=typed, why=error.strerror or error) from error
    return context.say("saved", path=path)


async def _load(context: CommandContext, argument: str) -> str:
    from chatbridge.bots.overrides import loadable

    typed = _needed(context, argument, "load", "FILE")
    try:
        path = files.path_of(typed)
        limit = context.dialogue.bot.services.settings.load_mib
        exported = json.loads(await asyncio.to_thread(files.read_text, path, limit))
    except OSError as error:
        raise context.error("file_fails", path=typed, why=error.strerror or error) from error
    except (ValueError, RecursionError) as error:
        words = {RecursionError: "nested_deep", json.JSONDecodeError: "no_json", UnicodeDecodeError: "no_json"}
        why = context.say(words[type(error)]) if type(error) in words else error
        raise context.error("no_conversation", path=typed, why=why) from error
    dialogue = context.dialogue
    left_out: list[str] = []
    if isinstance(exported, dict) and isinstance(exported.get("overrides"), dict):
        exported["overrides"], left_out = await loadable(context, exported["overrides"])
    await dialogue.store.restore(dialogue.bot.name, dialogue.key, exported)
    said = context.say("loaded", count=len(await dialogue.path()), path=path)
    return f"{said} {context.say('load_left_out', keys=', '.join(left_out))}" if left_out else said


async def _pair(context: CommandContext, argument: str) -> str:
    bot = context.dialogue.bot
    if not argument:
        people = await bot.permissions.pairings.all(bot.name)
        lines = [_person(context, "pair_listed", one) for one in people if one.paired]
        lines += [_person(context, "pair_waiting", one) for one in people if not one.paired]
        return "\n".join([context.say("people"), *lines]) if lines else context.say("nobody_asked")
    person = await bot.permissions.pairings.pair(bot.name, argument.strip(), context.message.author.id)
    if person is None:
        raise context.error("no_such_code", code=argument)
    return context.say("pair_done", name=person.name)


def _person(context: CommandContext, key: str, person: Pairing) -> str:
    return context.say(key, name=in_a_list(person.name), user=in_a_list(person.user), code=person.code)


async def _unpair(context: CommandContext, argument: str) -> str:
    bot = context.dialogue.bot
    user = _needed(context, argument, "unpair", "ID").strip()
    if not await bot.permissions.pairings.unpair(bot.name, user):
        raise context.error("no_such_person", user=user)
    bot.permissions.strangers.forget(user)
    return context.say("unpaired", user=user)


async def _usage(context: CommandContext, argument: str) -> str:
    bot = context.dialogue.bot
    usage = await bot.permissions.usage.of_day(bot.name, day_of(bot.services.clock()))
    lines = [
        context.say(
            "usage_of", name=in_a_list(one.name), user=in_a_list(one.user), tokens=one.tokens, answers=one.answers
        )
        for one in usage
    ]
    return "\n".join([context.say("usage"), *lines]) if lines else context.say("usage_none")


def _models_of(context: CommandContext) -> Iterable[str]:
    return context.dialogue.bot.services.settings.models


def _templates_of(context: CommandContext) -> Iterable[str]:
    return context.dialogue.bot.templates


def _keys_of(context: CommandContext) -> Iterable[str]:
    from chatbridge.bots.overrides import KEYS

    return KEYS


def _may_see_paths(context: CommandContext) -> bool:
    """Whether paths of this machine may be shown: in its terminal, and to admins where nobody reads along."""
    kind = context.message.channel.kind
    return kind == "terminal" or (kind == "private" and context.dialogue.bot.is_admin(context.message.author))


def _needed(context: CommandContext, argument: str, name: str, what: str) -> str:
    if not argument:
        raise context.error("needs_argument", name=name, argument=what)
    return argument


def _known(context: CommandContext, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise context.error("unknown_name", what=context.say(what), name=name, hint=context.hint(name, known))


def _short(text: str) -> str:
    return in_one_line(text, 60)


BUILTIN = (
    ChatCommand("help", "list the commands", "列出全部命令", _help, repeatable=True),
    ChatCommand("reset", "begin a new conversation", "开始新的对话", _reset, repeatable=True),
    ChatCommand("regenerate", "answer the last message once more", "重新回答上一条消息", _regenerate, repeatable=True),
    ChatCommand("continue", "go on with the last answer", "继续上一个回答", _continue, repeatable=True),
    ChatCommand(
        "edit",
        "put another text in place of your last message",
        "修改您的上一条消息",
        _edit,
        "TEXT",
        repeatable=True,
        files=True,
    ),
    ChatCommand("undo", "take your last message and its answer back", "撤销上一条消息和回答", _undo),
    ChatCommand("branch", "list the branches, or go to one", "列出分支或切换分支", _branch, "[ID]", repeatable=True),
    ChatCommand(
        "model", "show or change the model", "查看或更换模型", _model, "[NAME]", repeatable=True, complete=_models_of
    ),
    ChatCommand(
        "template",
        "show or change the prompt template",
        "查看或更换提示模板",
        _template,
        "[NAME]",
        repeatable=True,
        complete=_templates_of,
    ),
    ChatCommand("system", "show or set the system text", "查看或设置系统提示", _system, "[TEXT]", repeatable=True),
    ChatCommand(
        "set",
        "change a setting of this conversation",
        "修改本对话的设置",
        _set,
        "KEY VALUE",
        repeatable=True,
        complete=_keys_of,
    ),
    ChatCommand("stop", "stop the answer and keep what came", "停止回答并保留已有内容", _stop, repeatable=True),
    ChatCommand("stats", "what the last answer cost", "上一个回答的统计", _stats, repeatable=True),
    ChatCommand("pair", "let somebody in, or list who asks", "允许某人使用，或列出申请者", _pair, "[CODE]", admin=True),
    ChatCommand("unpair", "show somebody the door again", "取消某人的使用权限", _unpair, "ID", admin=True),
    ChatCommand(
        "usage",
        "tokens that people's answers cost today",
        "今天每个人用掉的 token",
        _usage,
        admin=True,
        repeatable=True,
    ),
    ChatCommand("save", "write the conversation to a file", "把对话保存到文件", _save, "FILE", terminal_only=True),
    ChatCommand("load", "read a conversation from a file", "从文件载入对话", _load, "FILE", terminal_only=True),
)
