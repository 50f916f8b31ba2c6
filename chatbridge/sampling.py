"""How the next token is chosen: the options of one request. Knows the options, not how any engine applies them.

People in chats set these, so each has bounds that every machine bears: engines hold memory for a window, take time for
each stop text, and count in 32 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TOKENS = 1 << 20
"""The most tokens that an option may speak of; no model that runs here has a longer context."""

MAX_TOKEN_ID = (1 << 31) - 1

StopText = Annotated[str, Field(max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Bias = Annotated[float, Field(ge=-1000, le=1000)]


class Sampling(BaseModel):
    """Sampling options, the same for every backend; a backend that can't honour one that is set says so.

    They apply in this order: logit_bias, penalties, top_k, typical_p, top_p, min_p, temperature.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: Annotated[float, Field(ge=0, le=10, description="0 always takes the likeliest token.")] = 0.8
    top_k: Annotated[int, Field(ge=0, le=MAX_TOKENS, description="Keep the k likeliest tokens; 0 keeps all.")] = 40
    top_p: Annotated[float, Field(gt=0, le=1, description="Keep the likeliest tokens up to this probability.")] = 0.95
    min_p: Annotated[float, Field(ge=0, le=1, description="Drop tokens less likely than this share of the best.")] = (
        0.05
    )
    typical_p: Annotated[float, Field(gt=0, le=1, description="Locally typical sampling; 1 is off.")] = 1.0
    repeat_penalty: Annotated[float, Field(ge=0.1, le=10, description="Divides logits of tokens seen; 1 is off.")] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, description="Subtracted once from tokens seen.")] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, description="Subtracted per time a token was seen.")] = 0.0
    penalty_window: Annotated[
        int, Field(ge=0, le=MAX_TOKENS, description="How many last tokens penalties look at; 0 is all.")
    ] = 64
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="Equal seeds repeat an answer exactly.")] = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS, description="The longest answer, in tokens.")] = 512
    stop: Annotated[
        tuple[StopText, ...],
        Field(max_length=16, description="Texts that end the answer, besides the template's own."),
    ] = ()
    logit_bias: Annotated[
        dict[TokenId, Bias],
        Field(
            max_length=300,
            description="Added to the logits, by token id. Only tokens that end answers, of the control tokens, may be "
            "made likelier.",
        ),
    ] = {}

    def merged(self, over: Sampling | None) -> Sampling:
        """These options, with those that `over` sets explicitly on top."""
        if over is None:
            return self
        return self.model_copy(update={name: getattr(over, name) for name in over.model_fields_set})


def forging_biases(logit_bias: Mapping[int, float], controls: Collection[int]) -> list[int]:
    """The ids of `logit_bias` by which somebody could make a model write control tokens, of those in `controls`.

    A number below 0 is a usual wish, and harmless: a token that comes less often forges nothing.
    """
    return [token for token, bias in logit_bias.items() if bias > 0 and token in controls]
