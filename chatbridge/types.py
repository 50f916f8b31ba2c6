"""The values that cross chatbridge's borders: what people say, and what models answer.

Plain frozen dataclasses; they know no model, no chat service and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chatbridge.sampling import Sampling

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a message, as the chat service names them. `roles`: ids of their roles in this guild, if it has any.

    `anonymous`: the service hides the person, and `id` is that of the chat, channel or webhook that they write through.
    """

    id: str
    name: str
    is_bot: bool = False
    roles: tuple[str, ...] = ()
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a message was written. `parent` is the channel that a thread or topic belongs to; `guild`, the server."""

    id: str
    name: str = ""
    kind: Literal["private", "group", "terminal"] = "private"
    parent: str | None = None
    guild: str | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message.

    `size`: of the whole file in bytes, where `data` is only its beginning; 0 where it is all. `source`: where the
    frontend finds its content, as long as it was not fetched.
    """

    name: str
    media_type: str
    data: bytes
    size: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """What a frontend hands to the bridge.

    `id` is the chat service's own message id (messages are deduplicated by it); `sent_at` is in seconds since the
    epoch; `reply_to` is the id of the message it answers; `language` is the person's client language ("en", "zh-CN"…)
    if the service tells it. `replies_to_bot`: the message it answers is the bot's; of those that the bot has sent and
    remembers this need not be told. `quoted`: the text of the message it answers, for where the bot never saw it.
    `unreadable`: why nothing in it can be read, in words for the person, who gets them in place of an answer.
    `wanted`: whether the bot answers it, once it was decided (`Bot.decide`); nobody decides again.
    """

    id: str
    channel: Channel
    author: Author
    text: str
    sent_at: float = 0.0
    mentions_bot: bool = False
    reply_to: str | None = None
    attachments: tuple[Attachment, ...] = ()
    language: str = ""
    replies_to_bot: bool = False
    quoted: str = ""
    unreadable: str = ""
    wanted: bool | None = None


Action = Literal["stop", "regenerate", "continue", "branch", "answer"]
"""What a button does; "answer" is under the offer to answer an edited message."""


@dataclass(frozen=True, slots=True)
class Press:
    """Somebody pressed a button. `message_id`: the message that it is under.

    `id` is the chat service's own, by which a press that it tells twice is known; "" where it has none.
    """

    action: Action
    message_id: str
    channel: Channel
    author: Author
    language: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer as it is kept: the exact ids that were sampled, and the text that people saw.

    The raw text of the answer is `decode(tokens) + tail`; `tail` is what remains of a token that a stop string
    cut in two. `text` is what was shown (no hidden thinking, no blanks around it), `thoughts` what stood in its
    think block, hidden or not; None where that is not known, and then only `text` is used. `vocabulary` names the
    tokenizer (`ModelInfo.vocabulary`) that `tokens` belong to; with any other model only `text` is used, too.
    `frame`: the marks that the answer was written with, control tokens by their names and without blanks: those before
    the thought, between it and the text, and behind that, with a blank between each; "" for none, None where it is not
    known.
    """

    text: str
    tokens: tuple[int, ...] = ()
    tail: str = ""
    vocabulary: str = ""
    thoughts: str | None = ""
    frame: str | None = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One entry of a conversation, as templates see it.

    `name` is the speaker's name in a group chat, empty where it is not shown. `trusted` text comes from the
    configuration; everything else was typed by somebody. `reply` is set for an assistant's kept answer. `speaker`: the
    id of whoever has that name, by which two of one name are told apart; "" where nobody knows it.
    """

    role: Role
    text: str
    name: str = ""
    trusted: bool = False
    reply: Reply | None = None
    speaker: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says about itself.

    `context_length`: tokens per conversation, prompt and reply together. `max_batch`: rows that one step takes.
    `max_states`: how many states may exist at once (None: as memory allows). `fingerprint`: models with equal
    fingerprints compute equal states from equal tokens. `vocabulary`: tokenizers with equal ones give equal ids.
    `eos`: every id that ends a reply. `bos`: the id that stands for the beginning, None if this model has none;
    `add_bos`: each prompt begins with it. Where it is not added, templates that write it by themselves still may.
    `specials`: control tokens by their text; `controls`: the ids of any others, as of a second one of the same text.
    `lstrip`, `rstrip`: ids of control tokens that take in the blanks before and behind them, as an `AddedToken` of
    Hugging Face's tokenizers may: Phi-3's `<|user|>` and the line end behind it are one token.
    `bidirectional_until`: the id of a control token (GLM's `<sop>`) that ends the part of a prompt which is read in
    both directions: each token there sees all of them, so this part and the token itself come in one row, and a state
    serves only prompts with the very same part. None: every token sees only those before it.
    `adapters`: what requests may ask for besides the model as it is, by name,
    each with what stands for its arithmetic, as the fingerprint does for the model's.
    `sampling`: what its makers recommend, beneath all that bots.yaml says.
    `details`: what is really in use, in words ("quantisation": "q8_0").
    """

    name: str
    architecture: str
    context_length: int
    vocab_size: int
    fingerprint: str
    vocabulary: str
    eos: tuple[int, ...]
    bos: int | None = None
    add_bos: bool = True
    max_batch: int = 16
    max_states: int | None = None
    can_trim: bool = True
    specials: Mapping[str, int] = field(default_factory=dict)
    controls: frozenset[int] = frozenset()
    lstrip: frozenset[int] = frozenset()
    rstrip: frozenset[int] = frozenset()
    bidirectional_until: int | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    sampling: Sampling | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def added_bos(self) -> int | None:
        """The id that each prompt begins with, whatever the template writes; None for none."""
        return self.bos if self.add_bos else None

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids of all control tokens: no text becomes one, and no answer puts one into a prompt."""
        bos = () if self.bos is None else (self.bos,)
        return frozenset((*self.specials.values(), *self.controls, *self.eos, *bos))


FinishReason = Literal["end", "stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer cost: counts in tokens, times in seconds.

    `prompt` = `cached` (taken from a kept state) + `read` (evaluated for this answer).
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    queued_seconds: float = 0.0
    first_token_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def read(self) -> int:
        """Tokens of the prompt that were evaluated for this answer."""
        return self.prompt - self.cached

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first token; 0 where it can't be told."""
        decoding = self.seconds - self.first_token_seconds
        return (self.generated - 1) / decoding if self.generated > 1 and decoding > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended: by the model's end token, a stop string, the length limit, or a person."""

    reason: FinishReason
    reply: Reply
    usage: Usage


@dataclass(frozen=True, slots=True)
class Waiting:
    """An answer's place in the model's queue: 1 is next. `seconds` until it begins, where there is a guess."""

    place: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. `text` is complete UTF-8 to append; the last chunk, and only it, has `finish`.

    `waiting`: the model has others to answer first; chunks without text tell so as often as the place changes.
    `loading`: the model is not loaded yet, or no longer, and is now; the next chunk comes when it is.
    """

    text: str = ""
    thinking: bool = False
    finish: Finish | None = None
    waiting: Waiting | None = None
    loading: bool = False
