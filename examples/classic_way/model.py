"""A small LLaMA in torch, with low-rank adapters, that reads and writes the files as Meta, Hugging Face and PEFT do.

The network: Touvron et al. 2023, "LLaMA", section 2.2; adapters: Hu et al. 2021, "LoRA". Knows no text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes as params.json calls them; `hidden` follows from `dim`, as in Meta's code."""

    vocab_size: int
    dim: int = 96
    n_layers: int = 3
    n_heads: int = 3
    multiple_of: int = 32
    norm_eps: float = 1e-5

    @property
    def hidden(self) -> int:
        """Numbers in the middle of a feed-forward network."""
        return -(-int(8 * self.dim / 3) // self.multiple_of) * self.multiple_of


class Adapted(nn.Linear):
    """A matrix that may have two thin ones beside it, which alone are trained then."""

    down: nn.Parameter | None
    up: nn.Parameter | None

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__(columns, rows, bias=False)
        self.register_parameter("down", None)
        self.register_parameter("up", None)

    def adapt(self, rank: int, scale: float) -> None:
        """Add them: nothing changes at first, since one of them is zero."""
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, self.in_features) * self.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(self.out_features, rank))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.down is None or self.up is None else y + self.scale * (x @ self.down.T @ self.up.T)


class Block(nn.Module):
    """One layer. `halves`: channels are rotated as Hugging Face pairs them, i with i + n/2; Meta pairs neighbours."""

    def __init__(self, shape: Shape, halves: bool) -> None:
        super().__init__()
        self.heads, self.halves = shape.n_heads, halves
        self.attention_norm, self.ffn_norm = (nn.RMSNorm(shape.dim, eps=shape.norm_eps) for _ in range(2))
        self.wq, self.wk, self.wv, self.wo = (Adapted(shape.dim, shape.dim) for _ in range(4))
        self.w1, self.w3 = (Adapted(shape.dim, shape.hidden) for _ in range(2))
        self.w2 = Adapted(shape.hidden, shape.dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        normed = self.attention_norm(x)
        q, k, v = (w(normed).view(batch, length, self.heads, -1).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        attended = nn.functional.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True)
        x = x + self.wo(attended.transpose(1, 2).reshape(batch, length, dim))
        normed = self.ffn_norm(x)
        return x + self.w2(nn.functional.silu(self.w1(normed)) * self.w3(normed))

    def rotated(self, x: Tensor) -> Tensor:
        """Queries or keys, turned by their positions: Su et al. 2021, "RoFormer"."""
        length, width = x.shape[-2:]
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(0, width, 2) / width))
        cos, sin = angles.cos(), angles.sin()
        if self.halves:
            a, b = x.chunk(2, -1)
            return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Llama(nn.Module):
    """Ids in, logits out: `(batch, length)` to `(batch, length, vocabulary)`."""

    def __init__(self, shape: Shape, halves: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.tok_embeddings = nn.Embedding(shape.vocab_size, shape.dim)
        self.layers = nn.ModuleList(Block(shape, halves) for _ in range(shape.n_layers))
        self.norm = nn.RMSNorm(shape.dim, eps=shape.norm_eps)
        self.output = nn.Linear(shape.dim, shape.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.output(self.norm(x))
        return logits


HF = {
    "tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head", "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj", "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj", "w3": "mlp.up_proj", "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
"""What Hugging Face calls each part."""

META = {**{name: f"attention.{name}" for name in ("wq", "wk", "wv", "wo")},
        **{name: f"feed_forward.{name}" for name in ("w1", "w2", "w3")}}  # fmt: skip
"""What Meta calls the parts of a layer that have a longer name there."""


def save_meta(model: Llama, folder: Path) -> None:
    """consolidated.00.pth and params.json."""
    weights: Weights = {}
    for name, tensor in model.state_dict().items():
        *before, part, _ = name.split(".")
        weights[".".join([*before, META.get(part, part), "weight"])] = tensor.half()
    torch.save(weights, folder / "consolidated.00.pth")
    told = {name: getattr(model.shape, name) for name in ("dim", "n_layers", "n_heads", "multiple_of", "norm_eps")}
    (folder / "params.json").write_text(json.dumps({**told, "vocab_size": -1}), encoding="utf-8")


def load_hf(folder: Path, shape: Shape) -> Llama:
    """From a folder with safetensors, in float32."""
    from chatbridge import Weights as Stored
    from chatbridge import weight_files

    model = Llama(shape, halves=True)
    with Stored.of_files(weight_files(folder)) as stored:
        weights = {name: torch.from_numpy(stored[_hf(name)].floats()) for name in model.state_dict()}
    model.load_state_dict(weights)
    return model


def save_adapter(model: Llama, folder: Path, base: Path) -> None:
    """adapter_model.bin and adapter_config.json, as PEFT writes them."""
    weights: Weights = {}
    targets, rank, alpha = set(), 0, 0.0
    for name, module in model.named_modules():
        if isinstance(module, Adapted) and module.down is not None and module.up is not None:
            place = _hf(f"{name}.weight").removesuffix(".weight")
            weights[f"base_model.model.{place}.lora_A.weight"] = module.down.detach()
            weights[f"base_model.model.{place}.lora_B.weight"] = module.up.detach()
            targets.add(place.rpartition(".")[2])
            rank, alpha = len(module.down), module.scale * len(module.down)
    torch.save(weights, folder / "adapter_model.bin")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0,
        "bias": "none", "fan_in_fan_out": False, "target_modules": sorted(targets),
        "base_model_name_or_path": str(base),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _hf(name: str) -> str:
    *before, part, _ = name.split(".")
    return ".".join([*(["model", *before] if before else []), HF[part], "weight"])
