"""Everything that the core says to people in a chat, in English and Chinese. Knows no command and no frontend."""

from __future__ import annotations

import math
import re

_TEXTS: dict[str, tuple[str, str]] = {
    "left_out": (
        "({count} earlier messages no longer fit the model's context and were left out.)",
        "（较早的 {count} 条消息超出了模型的上下文，已不再发送给模型。）",
    ),
    "unreadable": ("(I can't read {names}, only text files.)", "（我读不了 {names}，只能读文本文件。）"),
    "partly_read": ("(I read only the beginning of {names}.)", "（我只读了 {names} 的开头。）"),
    "first_of": ("{name} (the first {read} of {size} KiB)", "{name}（{size} KiB 中的前 {read} KiB）"),
    "text_too_long": (
        "That message is too long for me: it has {size} KiB, and I read {limit} KiB at most. Please shorten it, or "
        "send it as a text file, of which I read the beginning.",
        "这条消息太长了：共 {size} KiB，我最多读 {limit} KiB。请缩短，或作为文本文件发送（我会读它的开头）。",
    ),
    "too_many_files": (
        "That is more than {limit} files; I did not read the rest.",
        "文件超过 {limit} 个，其余的我没有读。",
    ),
    "not_changed": ("This message was answered already.", "这条消息已经回答过了。"),
    "was_reset": (
        "A new conversation begins. The old one is kept: /branch lists it.",
        "已开始新的对话。旧对话保留着，可用 /branch 查看。",
    ),
    "nothing_to_regenerate": ("There is no message to answer yet.", "还没有可以回答的消息。"),
    "nothing_to_continue": ("There is no answer to go on with.", "没有可以继续的回答。"),
    "nothing_to_edit": ("There is no message of yours to edit.", "没有可以修改的消息。"),
    "nothing_to_undo": ("There is nothing to undo.", "没有可以撤销的内容。"),
    "undone": ("Taken back: {text}", "已撤销：{text}"),
    "stopped": ("Stopped.", "已停止。"),
    "nothing_to_stop": ("Nothing is being answered right now.", "现在没有正在生成的回答。"),
    "branches": (
        "Branches of this conversation; /branch ID goes there:",
        "本对话的分支，用 /branch ID 切换：",
    ),
    "branch_here": (" (you are here)", "（当前）"),
    "earlier": ("Earlier conversations; /branch cID goes there:", "更早的对话，用 /branch cID 切换："),
    "branch_taken": ("Now on branch {id}.", "已切换到分支 {id}。"),
    "no_branch": ("There is no branch {id!r} here; /branch lists them.", "这里没有分支 {id!r}，用 /branch 查看。"),
    "model_now": ("Model: {name}. Known: {known}.", "当前模型：{name}。可用：{known}。"),
    "model_set": ("The next answer comes from {name}.", "下一个回答将由 {name} 生成。"),
    "template_now": ("Template: {name}. Known: {known}.", "当前模板：{name}。可用：{known}。"),
    "template_set": ("The next prompt uses the template {name}.", "下一次提示将使用模板 {name}。"),
    "unknown_name": ("There is no {what} {name!r}{hint}", "没有名为 {name!r} 的{what}{hint}"),
    "model": ("model", "模型"),
    "template": ("template", "模板"),
    "system": ("system text", "系统提示"),
    "default_again": ("The {what} is the channel's again.", "{what}已恢复为频道的设置。"),
    "system_now": ("System text: {text}", "系统提示：{text}"),
    "system_none": (
        "No system text is set here; the template's own is used.",
        "这里没有设置系统提示，使用模板自带的。",
    ),
    "system_set": ("The system text is set for this conversation.", "已为本对话设置系统提示。"),
    "set_usage": ("Say /set KEY VALUE. Now: {values}", "用法：/set 键 值。当前：{values}"),
    "set_done": ("{key} is {value} in this conversation.", "本对话中 {key} 为 {value}。"),
    "set_unknown": (
        "There is no setting {key!r}{hint} Known: {known}.",
        "没有名为 {key!r} 的设置{hint} 可用：{known}。",
    ),
    "set_bad": ("{key} can't be {value!r}: {why}.", "{key} 不能是 {value!r}：{why}。"),
    "need_int": ("it has to be a whole number", "应为整数"),
    "need_number": ("it has to be a number", "应为数字"),
    "need_bool": ("it has to be true or false", "应为 true 或 false"),
    "need_at_least": ("it has to be at least {ge}", "应不小于 {ge}"),
    "need_more": ("it has to be more than {gt}", "应大于 {gt}"),
    "need_at_most": ("it has to be at most {le}", "应不大于 {le}"),
    "need_less": ("it has to be less than {lt}", "应小于 {lt}"),
    "need_one_of": ("it has to be {expected}", "应为 {expected}"),
    "need_short": ("it has at most {max_length} characters", "最多 {max_length} 个字符"),
    "need_few": ("it has at most {max_length} entries", "最多 {max_length} 项"),
    "set_stop": (
        "stop can't be {value!r}: an escape such as \\n or \\x41 is not complete; write \\\\ for a backslash.",
        "stop 不能是 {value!r}：转义符（例如 \\n 或 \\x41）不完整；反斜杠请写成 \\\\。",
    ),
    "bias_control": (
        "logit_bias can't make the control token {token} likelier: with it an answer could pass for another person's "
        "turn. Any token may be made less likely, by a number below 0, and those that end answers likelier.",
        "logit_bias 不能提高控制 token {token} 的概率：否则回答可以冒充别人的发言。"
        "任何 token 都可以用负数降低概率，结束回答的 token 也可以提高。",
    ),
    "bias_beyond": (
        "logit_bias can't name the token {token}: the model has the ids 0 to {last}.",
        "logit_bias 不能写 token {token}：模型只有 0 到 {last} 的编号。",
    ),
    "adapter_unknown": (
        "The model {model} has no adapter {name!r}{hint} Known: {known}.",
        "模型 {model} 没有名为 {name!r} 的 adapter{hint} 可用：{known}。",
    ),
    "adapter_gone": (
        "It has no adapter {name!r}, which was set here: that is no longer used.",
        "它没有这里设置的 adapter {name!r}，因此不再使用。",
    ),
    "command_files": (
        "/{name} reads no files; please say it again without {names}.",
        "/{name} 不读文件，请去掉 {names} 再发一次。",
    ),
    "excerpt": ("{text} […, {count} more characters]", "{text} […，另有 {count} 个字符]"),
    "replace": ("{path} is there already. Replace it?", "{path} 已存在，要替换吗？"),
    "not_saved": ("Not saved.", "未保存。"),
    "file_fails": ("{path}: {why}.", "{path}：{why}。"),
    "no_conversation": ("{path} is no conversation that /save wrote: {why}.", "{path} 不是 /save 保存的对话：{why}。"),
    "no_json": ("it is no JSON", "内容不是 JSON"),
    "nested_deep": ("it is nested too deeply", "嵌套太深"),
    "saved": ("Saved to {path}.", "已保存到 {path}。"),
    "loaded": ("Loaded {count} messages from {path}.", "已从 {path} 载入 {count} 条消息。"),
    "load_left_out": (
        "Left out, since it can't be set here: {keys}.",
        "以下设置在这里不能使用，已略去：{keys}。",
    ),
    "system_long": ("A system text has at most {limit} characters.", "系统提示最多 {limit} 个字符。"),
    "needs_argument": ("Say /{name} {argument}.", "用法：/{name} {argument}"),
    "terminal_only": (
        "/{name} works in a terminal only, typed by a person: not in chats, pipes or aliases.",
        "/{name} 只能由人在终端中输入，不能用于聊天、管道或别名。",
    ),
    "unknown_command": (
        "There is no command /{name}{hint} /help lists all.",
        "没有命令 /{name}{hint} 输入 /help 查看全部命令。",
    ),
    "help": ("Commands:", "命令："),
    "stats_none": ("No answer yet in this conversation.", "本对话还没有回答。"),
    "stats": (
        "{model}: prompt {prompt} tokens (cached {cached}, read {read}), answer {generated} tokens at "
        "{speed:.1f} tokens/s, first token after {first:.2f} s.",
        "{model}：提示 {prompt} 个 token（缓存 {cached}，新读 {read}），回答 {generated} 个 token，"
        "每秒 {speed:.1f} 个，首个 token 用时 {first:.2f} 秒。",
    ),
    "stats_unloaded": (
        "The model {model} is unloaded, since nobody has used it for {wait}; your next message loads it again.",
        "模型 {model} 已卸载（{wait}无人使用），您的下一条消息会重新载入它。",
    ),
    "stats_rewritten": (
        "Earlier answers in the prompt as the template writes them, not as they were sampled: {count}.",
        "提示中按模板写法（而非采样原样）放回的先前回答：{count} 条。",
    ),
    "stats_history": ("History: {count} messages.", "历史：{count} 条消息。"),
    "trouble": ("Sorry, I can't answer right now.", "抱歉，现在无法回答。"),
    "trouble_config": (
        "Sorry, I am not set up rightly for this; /model and /template show what there is.",
        "抱歉，这里的设置有问题；可用 /model 和 /template 查看现有选项。",
    ),
    "trouble_template": ("Sorry, the prompt template here doesn't fit.", "抱歉，这里的提示模板不适用。"),
    "trouble_store": (
        "Sorry, I can't reach my memory right now; please try again later.",
        "抱歉，现在无法读写对话记录，请稍后再试。",
    ),
    "trouble_full": (
        "Sorry, my disk is full; once there is room, I go on by myself.",
        "抱歉，磁盘已满；有空间后会自动继续。",
    ),
    "trouble_model": ("Sorry, the model can't answer right now.", "抱歉，模型现在无法回答。"),
    "trouble_load": ("Sorry, the model can't be loaded right now.", "抱歉，现在无法载入模型。"),
    "trouble_too_long": (
        "Sorry, that is too long for the model; please make it shorter.",
        "抱歉，内容超出了模型的长度限制，请缩短后再试。",
    ),
    "trouble_request": (
        "Sorry, the model can't do that with these settings; /set shows them.",
        "抱歉，模型无法按当前设置回答；可用 /set 查看设置。",
    ),
    "trouble_crash": (
        "Sorry, the model has crashed over this answer; please try again, or say it differently.",
        "抱歉，模型在回答时崩溃了，请重试，或换一种说法。",
    ),
    "model_unavailable": (
        "The model isn't running just now; please ask again in {wait}.",
        "模型目前没有运行，请在{wait}后再问一次。",
    ),
    "trouble_inside": ("Sorry, something went wrong in here.", "抱歉，程序内部出错了。"),
    "reference": (
        "(Whoever runs me finds more in the log, under {reference}.)",
        "（运行者可在日志中查找 {reference}。）",
    ),
    "maybe_duplicate": ("⚠ This may be a duplicate:", "⚠ 以下内容可能重复："),
    "rest_in_file": ("The rest of this answer is in the file.", "回答的其余部分在附件中。"),
    "part_refused": (
        "⚠ A part of this answer is missing here: the chat service did not take it.",
        "⚠ 此处缺少回答的一部分：聊天服务拒绝接收。",
    ),
    "maybe_done": (
        "The program ended while it carried out `/{name}`: it may be done or not. Please see, and say it again if not.",
        "执行 `/{name}` 时程序中断了：可能已经完成，也可能没有。请查看一下，没有完成就再发一次。",
    ),
    "gave_up": (
        "Sorry, this message could not be answered, even after {count} tries.",
        "抱歉，尝试了 {count} 次，仍无法回答这条消息。",
    ),
    "picture_unread": ("I can't look at pictures yet; please say it in words.", "我还看不了图片，请用文字告诉我。"),
    "sound_unread": ("I can't listen to sound yet; please write instead.", "我还听不了语音，请打字告诉我。"),
    "file_unread": ("I can read text files only.", "我只能读文本文件。"),
    "file_too_big": ("That file is too big for me: {limit} KiB at most.", "文件太大了，最多 {limit} KiB。"),
    "file_lost": (
        "I could not fetch that file from {service}; please send it again.",
        "没能从 {service} 取到文件，请再发一次。",
    ),
    "thought_only": (
        "(The model thought, and then said nothing; /regenerate asks it again.)",
        "（模型只进行了思考，没有给出回答；可用 /regenerate 再问一次。）",
    ),
    "thought_to_limit": (
        "(The model used all of its {count} tokens before it said anything, as by thinking; /continue lets it go on, "
        "and a larger max_tokens gives it room.)",
        "（模型在作答之前已用完全部 {count} 个 token，多半用于思考；可用 /continue 让它继续，或调大 max_tokens。）",
    ),
    "said_nothing": ("(The model had nothing to say.)", "（模型没有给出内容。）"),
    "question_deleted": ("The message that this would answer was deleted.", "要回答的消息已被删除。"),
    "not_permitted": ("You may not use this bot here.", "您不能在这里使用本机器人。"),
    "not_yours": (
        "This answer is somebody else's: whoever asked for it and admins may do that.",
        "这是别人的回答：只有提问的人和管理员可以这样做。",
    ),
    "admins_only": ("/{name} is for admins.", "/{name} 仅限管理员使用。"),
    "button_stale": (
        "This message is too old for its buttons, or was deleted.",
        "这条消息太旧或已被删除，按钮已失效。",
    ),
    "branched": ("The next message goes on from here.", "下一条消息将从这里继续。"),
    "button_stop": ("Stop", "停止"),
    "button_regenerate": ("Answer again", "重新回答"),
    "button_continue": ("Continue", "继续"),
    "button_branch": ("Branch from here", "从这里分支"),
    "button_answer": ("Answer it again", "重新回答"),
    "edited": (
        "You have changed a message that was answered already. Shall I answer it again?",
        "您修改了一条已经回答过的消息，要重新回答吗？",
    ),
    "loading": ("Loading the model …", "正在载入模型……"),
    "waiting": ("Waiting: number {place} in line.", "排队中：第 {place} 位。"),
    "waiting_for": (
        "Waiting: number {place} in line, about {wait}.",
        "排队中：第 {place} 位，大约还要 {wait}。",
    ),
    "seconds": ("{count} s", "{count} 秒"),
    "minutes": ("{count} min", "{count} 分钟"),
    "hours": ("{count} h", "{count} 小时"),
    "messages_per_minute": (
        "That is more than {limit} messages in a minute. I listen again in {wait}; what you write until then is not "
        "answered.",
        "一分钟内超过了 {limit} 条消息。{wait}后我会继续回答，在那之前的消息不会得到回答。",
    ),
    "tokens_per_day": (
        "Your {limit} tokens for today are used up. There are new ones in {wait}; what you write until then is not "
        "answered.",
        "您今天的 {limit} 个 token 已用完。{wait}后会有新的额度，在那之前的消息不会得到回答。",
    ),
    "tokens_reserved": (
        "The answers that you wait for may use up your {limit} tokens for today; ask again when they have come. This "
        "message is not answered.",
        "您正在等待的回答可能会用完今天的 {limit} 个 token；请等它们完成后再问。这条消息不会得到回答。",
    ),
    "pairing_full": (
        "I don't know you yet, and too many people wait to be let in. Please try again later, or tell an admin of this "
        "bot to clear the list: /pair shows it.",
        "我还不认识您，而且等待获准的人太多了。请稍后再试，或请本机器人的管理员清理名单：/pair 可以查看。",
    ),
    "pairing": (
        "I don't know you yet. Ask an admin of this bot to say: /pair {code}",
        "我还不认识您。请让本机器人的管理员输入：/pair {code}",
    ),
    "people": ("People who were let in, or ask to be:", "已获准或正在申请的人："),
    "pair_listed": ("- `{name}` ({user}): let in", "- `{name}`（{user}）：已获准"),
    "pair_waiting": ("- `{name}` ({user}): `/pair {code}`", "- `{name}`（{user}）：`/pair {code}`"),
    "nobody_asked": ("Nobody was let in yet, and nobody asks to be.", "还没有人获准，也没有人申请。"),
    "pair_done": ("{name} may talk to me now.", "{name} 现在可以和我对话了。"),
    "no_such_code": (
        "Nobody has the code {code!r}; /pair lists who asks.",
        "没有人使用代码 {code!r}，用 /pair 查看申请者。",
    ),
    "no_such_person": (
        "Nobody of the id {user!r} was let in; /pair lists who was.",
        "没有 id 为 {user!r} 的人，用 /pair 查看名单。",
    ),
    "unpaired": ("{user} may no longer talk to me.", "{user} 不能再和我对话了。"),
    "usage": ("Used today:", "今天的用量："),
    "usage_of": (
        "- `{name}` ({user}): {tokens} tokens, {answers} answers",
        "- `{name}`（{user}）：{tokens} 个 token，{answers} 个回答",
    ),
    "usage_none": ("Nobody was answered today.", "今天还没有回答过任何人。"),
    "hint": ("; did you mean {name!r}?", "；您是想输入 {name!r} 吗？"),
    "no_hint": (".", "。"),
}

LANGUAGES = ("en", "zh")


def say(language: str, key: str, /, **values: object) -> str:
    """The text called `key` in "en" or "zh", with its values filled in."""
    return _TEXTS[key][LANGUAGES.index(language)].format(**values)


def duration(seconds: float, language: str) -> str:
    """A wait in words, rounded up."""
    if seconds < 100:
        return say(language, "seconds", count=max(1, math.ceil(seconds)))
    minutes = math.ceil(seconds / 60)
    return say(language, "minutes", count=minutes) if minutes < 100 else say(language, "hours", count=-(-minutes // 60))


def hint(language: str, close: str | None) -> str:
    """The end of a sentence: a guess at what was meant, or a full stop."""
    return say(language, "hint", name=close) if close else say(language, "no_hint")


def pick_language(setting: str, client: str, text: str) -> str:
    """The language to speak: the channel's setting, else the person's client, else the script they write in."""
    if setting in LANGUAGES:
        return setting
    if client:
        return "zh" if client.lower().startswith("zh") else "en"
    return "zh" if re.search(r"[\u3400-\u9fff]", text) else "en"
