"""Calls a causal language model of transformers, whatever its version calls the arguments.

Knows the library's `forward`; knows no conversation.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from chatbridge import ModelLoadError, in_one_line

_CACHES = ("cache", "past_key_values", "cache_params", "state")
"""What models call the argument, and the part of their output, that holds what they remember; newest first."""


class Causal:
    """`model`: a `PreTrainedModel` with a language modelling head."""

    def __init__(self, model: Any) -> None:
        self.model = model
        embedding = model.get_input_embeddings()
        self.device = embedding.weight.device
        if self.device.type == "meta":  # its rows lie on disk, and accelerate fetches them to where it computes
            self.device = torch.device(getattr(getattr(embedding, "_hf_hook", None), "execution_device", "cpu"))
        known = {*inspect.signature(type(model).forward).parameters}
        # Newer models take everything but their own by **kwargs: their inner model names the rest.
        inner = getattr(model, model.base_model_prefix, None)
        if inner is not None and inner is not model:
            known |= {*inspect.signature(type(inner).forward).parameters}
        self._known = known
        self.cache_name = next((name for name in _CACHES if name in known), "")

    def close(self) -> None:
        """Give the model's memory back, as far as nobody else holds it."""
        self.model = None

    def takes(self, argument: str) -> bool:
        return argument in self._known

    def __call__(
        self,
        ids: Any,
        *,
        cache: Any = None,
        positions: Any = None,
        mask: Any = None,
        keep: Sequence[int] | None = None,
        remember: bool = False,
    ) -> Any:
        """The model's output for `ids`, [rows, tokens].

        `keep`: at which of the tokens logits are wanted, so that it has [rows, wanted, vocabulary]; None for all.
        `remember`: have a model make a cache where none is given.
        """
        arguments: dict[str, Any] = {"input_ids": ids.to(self.device), "use_cache": remember or cache is not None}
        if cache is not None:
            arguments[self.cache_name] = cache
        if positions is not None and self.takes("position_ids"):
            arguments["position_ids"] = positions.to(self.device)
        if mask is not None:
            arguments["attention_mask"] = mask.to(self.device)
        sliced = keep is not None and self.takes("logits_to_keep")
        if sliced:
            arguments["logits_to_keep"] = torch.tensor(keep or [ids.shape[1] - 1], device=self.device)
        output = self.model(**arguments)
        if keep is not None and not sliced:
            output.logits = output.logits[:, list(keep)]
        return output

    def whole(self, ids: Sequence[int]) -> Any:
        """The logits after each id of a text that is read at once: [ids, vocabulary], in float32.

        Raises: ModelLoadError where the model can't be computed here at all.
        """
        try:
            with torch.inference_mode():
                return self(torch.tensor([list(ids)])).logits[0].float()
        except Exception as error:  # whatever a model's own code may raise
            raise ModelLoadError(
                f"the model is loaded, and can't be computed here ({type(error).__name__}: {in_one_line(str(error))}); "
                f"its weights may be packed for cards alone, or of another form than config.json says"
            ) from error

    def cache_of(self, output: Any) -> Any:
        """What an output says that the model remembers; None for nothing."""
        return next((found for name in _CACHES if (found := getattr(output, name, None)) is not None), None)
