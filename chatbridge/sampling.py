"""How the next token is chosen: the options of one request. Knows the options, not how any engine applies them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Sampling(BaseModel):
    """Sampling options, the same for every backend; a backend that can't honour one that is set says so.

    They apply in this order: logit_bias, penalties, top_k, typical_p, top_p, min_p, temperature.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: Annotated[float, Field(ge=0, le=10, description="0 always takes the likeliest token.")] = 0.8
    top_k: Annotated[int, Field(ge=0, description="Keep the k likeliest tokens; 0 keeps all.")] = 40
    top_p: Annotated[float, Field(gt=0, le=1, description="Keep the likeliest tokens up to this probability.")] = 0.95
    min_p: Annotated[float, Field(ge=0, le=1, description="Drop tokens less likely than this share of the best.")] = (
        0.05
    )
    typical_p: Annotated[float, Field(gt=0, le=1, description="Locally typical sampling; 1 is off.")] = 1.0
    repeat_penalty: Annotated[float, Field(gt=0, le=10, description="Divides logits of tokens seen; 1 is off.")] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, description="Subtracted once from tokens seen.")] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, description="Subtracted per time a token was seen.")] = 0.0
    penalty_window: Annotated[int, Field(ge=0, description="How many last tokens penalties look at; 0 is all.")] = 64
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="Equal seeds repeat an answer exactly.")] = None
    max_tokens: Annotated[int, Field(ge=1, description="The longest answer, in tokens.")] = 512
    stop: Annotated[tuple[str, ...], Field(description="Texts that end the answer, besides the template's own.")] = ()
    logit_bias: Annotated[dict[int, float], Field(description="Added to the logits, by token id.")] = {}

    def merged(self, over: Sampling | None) -> Sampling:
        """These options, with those that `over` sets explicitly on top."""
        if over is None:
            return self
        return self.model_copy(update={name: getattr(over, name) for name in over.model_fields_set})
