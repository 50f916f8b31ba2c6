"""Puts adapters into a model: those that are always in use, in order, and those that single conversations ask for.

Knows PEFT's layers; knows no file and no conversation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch

from chatbridge import ModelLoadError, in_one_line
from chatbridge_transformers import adapters
from chatbridge_transformers.adapters import AdapterFile
from chatbridge_transformers.causal import Causal


@dataclass(frozen=True, slots=True)
class Applied:
    """An adapter in use. `tensors`: how many of its tensors are. `share`: of the layers' size that it changes them by.

    `moved`: by how much at most it moves the logits after a few ids, in their standard deviations.
    """

    file: str
    kind: str
    tensors: int
    about: str
    share: float
    moved: float
    fingerprint: str

    def __str__(self) -> str:
        size = f", changes its layers by {self.share:.2%}" if self.share else ""
        return f"{self.file}: {self.kind}, {self.tensors} tensors{self.about}{size}, moves logits by {self.moved:.2g}"


class Adapters:
    """All adapters of one model. Raises ModelLoadError for one that can't be applied, or that does nothing."""

    def __init__(self, causal: Causal, *, merge: bool) -> None:
        self._causal = causal
        self._merge = merge
        self._always: list[str] = []
        self._sets: dict[str, list[str]] = {"": []}
        self._in_use = ""
        self._count = 0
        self.own: list[Applied] = []
        self.named: dict[str, list[Applied]] = {}

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """A hash of what each named set adds to the model's arithmetic."""
        joined = {name: "|".join(one.fingerprint for one in applied) for name, applied in self.named.items()}
        return {name: blake2b(text.encode(), digest_size=8).hexdigest() for name, text in joined.items()}

    def add_own(self, adapter: AdapterFile) -> None:
        """Put one in for good, behind those before: its vocabulary takes the place of the model's."""
        before = self._probe()
        rows = self._replace_matrices(adapter)
        about, share = self._check(adapter, allow_none=rows is not None)
        if adapter.tensors:
            name = self._inject(adapter)
            if self._merge:
                self._merge_in(name)
                about += ", merged"
            else:
                self._always.append(name)
                self._sets[""] = list(self._always)
                self._activate(self._always)
        if rows is not None:
            about += f", vocabulary of {rows} ids"
        self.own.append(self._applied(adapter, about, share, self._moved(adapter, before)))

    def add_named(self, name: str, files: Sequence[AdapterFile]) -> None:
        """Let conversations ask for these adapters, together, by that name."""
        applied, injected = [], list(self._always)
        for adapter in files:
            if adapter.rows is not None:
                raise ModelLoadError(
                    f"{adapter.path}: this adapter brings a vocabulary of {adapter.rows} ids along, which a model has "
                    f"one of: give it as lora of a model of its own, and not under adapters"
                )
            about, share = self._check(adapter, allow_none=False)
            self._activate(injected)
            before = self._probe()
            injected.append(self._inject(adapter))
            self._activate(injected)
            applied.append(self._applied(adapter, about, share, self._moved(adapter, before)))
        self._sets[name] = injected
        self.named[name] = applied
        self._activate(self._always)

    def in_order(self, names: Sequence[str]) -> list[str]:
        """The names, each once, the one in use first."""
        return sorted(set(names), key=lambda name: (name != self._in_use, name))

    def use(self, name: str) -> None:
        """Have what is computed next computed with the adapters of that name, and with those always in use."""
        if name != self._in_use:
            self._activate(self._sets[name])
            self._in_use = name

    def close(self) -> None:
        """Give the model back."""
        self._causal.close()

    def _check(self, adapter: AdapterFile, *, allow_none: bool) -> tuple[str, float]:
        changed, whole = adapters.effect(adapter, self._causal.model)
        pairs = adapter.pairs()
        if adapter.kind == "LORA" and not pairs and not allow_none:
            raise ModelLoadError(f"{adapter.path}: the adapter has no pair of lora_A and lora_B; take another copy")
        if pairs and changed == 0 and not allow_none:
            raise ModelLoadError(
                f"{adapter.path}: the adapter changes nothing: all its matrices (lora_B) are zero, or scale is 0; it "
                f"was saved before it was trained: leave it out, or give the right one"
            )
        ranks = sorted({down.shape[0] for down, _ in pairs.values()})
        alpha = getattr(adapter.config, "lora_alpha", None)
        about = f" on {len(pairs)} layers, rank {', '.join(map(str, ranks))}, alpha {alpha:g}" if pairs else ""
        if adapter.scale != 1:
            about += f", scale {adapter.scale:g}"
        if base := str(getattr(adapter.config, "base_model_name_or_path", None) or ""):
            about += f", trained on {in_one_line(base, 100)}"
        return about, changed / whole if whole else 0.0

    def _replace_matrices(self, adapter: AdapterFile) -> int | None:
        """Let the adapter's embedding and head take the place of the model's, which grow to its vocabulary."""
        rows, model = adapter.rows, self._causal.model
        if rows is None:
            return None
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        present = int(embedding.weight.shape[0])
        if rows < present:
            raise ModelLoadError(
                f"{adapter.path}: this adapter is for a vocabulary of {rows:,} ids, and the model has {present:,} by "
                f"now: it is for another model, or adapters are in the wrong order (the one of the larger vocabulary "
                f"comes last)"
            )
        for name, matrix, module in (("embedding", adapter.embedding, embedding), ("head", adapter.head, head)):
            if matrix is not None and (module is None or matrix.shape[1] != module.weight.shape[1]):
                width = "none" if module is None else module.weight.shape[1]
                raise ModelLoadError(
                    f"{adapter.path}: its {name} has rows of {matrix.shape[1]:,} numbers, and the model's of {width:,}"
                )
        tied = bool(head is not None and head.weight is embedding.weight)
        if rows > present and (adapter.embedding is None or (adapter.head is None and not tied)):
            raise ModelLoadError(
                f"{adapter.path}: its vocabulary has {rows:,} ids, and the model's {present:,}, and it brings only one "
                f"of the two matrices that would have to grow (embed_tokens, lm_head)"
            )
        if embedding.weight.is_meta:
            raise ModelLoadError(
                f"{adapter.path}: its vocabulary can't be put into a model whose embedding lies on disk; leave "
                f"device_map out, or give it more memory"
            )
        if rows > present:
            model.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            for matrix, module in (
                (adapter.embedding, model.get_input_embeddings()), (adapter.head, model.get_output_embeddings()),
            ):  # fmt: skip
                if matrix is not None:
                    module.weight.copy_(matrix)
        return rows

    def _inject(self, adapter: AdapterFile) -> str:
        """Put PEFT's layers into the model, under a name of our own, with the adapter's tensors in them."""
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        name = f"chatbridge_{self._count}"
        self._count += 1
        model = self._causal.model
        with _quiet():
            try:
                inject_adapter_in_model(adapter.config, model, name)
                loaded = set_peft_model_state_dict(model, dict(adapter.tensors), name)
            except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ModelLoadError(f"{adapter.path}: PEFT can't put this adapter into the model: {why}") from error
        model.eval()  # else the new layers drop numbers at random, as in training
        if loaded.unexpected_keys:
            raise ModelLoadError(
                f"{adapter.path}: {len(loaded.unexpected_keys)} of its {len(adapter.tensors)} tensors fit nothing that "
                f"target_modules in adapter_config.json names, as {loaded.unexpected_keys[0]}"
            )
        if missing := [key for key in loaded.missing_keys if name in key]:
            raise ModelLoadError(
                f"{adapter.path}: adapter_config.json names layers that the adapter has no tensors for, as "
                f"{missing[0].replace(f'.{name}', '')}"
            )
        if adapter.scale != 1:
            for _, layer in self._layers():
                if not hasattr(layer, "scaling"):
                    raise ModelLoadError(f"{adapter.path}: scale is for LoRA, and this is {adapter.kind}")
                if name in layer.scaling:
                    layer.scaling[name] *= adapter.scale
        return name

    def _merge_in(self, name: str) -> None:
        """Add the adapter's products to the weights, and take PEFT's layers out again."""
        model = self._causal.model
        for path, layer in self._layers():
            layer.merge(adapter_names=[name])
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config

    def _activate(self, names: Sequence[str]) -> None:
        for _, layer in self._layers():
            layer.enable_adapters(bool(names))
            if names:
                layer.set_adapter(list(names), inference_mode=True)

    def _layers(self) -> list[tuple[str, Any]]:
        """PEFT's layers and their names; importing it takes seconds, which models without adapters need not wait."""
        if not self._count:
            return []
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [(name, one) for name, one in self._causal.model.named_modules() if isinstance(one, BaseTunerLayer)]

    def _probe(self) -> Any:
        size = self._causal.model.get_input_embeddings().weight.shape[0]
        return self._causal.whole([i * size // 6 for i in range(1, 6)]).cpu()

    def _moved(self, adapter: AdapterFile, before: Any) -> float:
        """How far it moves logits. Raises ModelLoadError for one that moves none."""
        after = self._probe()
        shared = min(before.shape[1], after.shape[1])
        moved = float((after[:, :shared] - before[:, :shared]).abs().max() / before.std())
        if moved == 0:
            raise ModelLoadError(
                f"{adapter.path}: this adapter changes nothing that the model says; leave it out, or give the right one"
            )
        return moved

    def _applied(self, adapter: AdapterFile, about: str, share: float, moved: float) -> Applied:
        count = len(adapter.tensors) + (adapter.embedding is not None) + (adapter.head is not None)
        return Applied(str(adapter.path), adapter.kind, count, about, share, moved, adapter.fingerprint)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PEFT's warnings, each of which is an error or a line of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
