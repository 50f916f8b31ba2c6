"""Writes checkpoints of random weights, of any size and form; knows the formats alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from chatbridge_glm import quantization
from chatbridge_glm.checkpoint import EMBEDDING, FINAL_NORM, MATRICES, layer_key
from chatbridge_glm.tokenizer import GlmTokenizer

from .conftest import TOKENIZER, folder_of


def random_tensors(layers: int, hidden: int, inner: int, vocabulary: int, *, glu: bool, seed: int) -> dict[str, Any]:
    """A model's tensors in half precision, by the names of both families."""
    draw = torch.Generator().manual_seed(seed)
    wide = 2 * inner if glu else inner
    shapes = {
        MATRICES[0]: (3 * hidden, hidden), MATRICES[1]: (hidden, hidden),
        MATRICES[2]: (wide, hidden), MATRICES[3]: (hidden, inner),
    }  # fmt: skip
    found: dict[str, Any] = {f"{EMBEDDING}.weight": torch.randn(vocabulary, hidden, generator=draw).half()}
    norms = [layer_key(n, f"{name}_layernorm") for n in range(layers) for name in ("input", "post_attention")]
    for name in (*norms, FINAL_NORM):
        found[f"{name}.weight"] = torch.ones(hidden).half()
        found[f"{name}.bias"] = torch.zeros(hidden).half()
    for number in range(layers):
        for name, shape in shapes.items():
            weight = torch.randn(shape, generator=draw) / shape[1] ** 0.5
            found[layer_key(number, f"{name}.weight")] = (3 * weight).half()
            found[layer_key(number, f"{name}.bias")] = (0.1 * torch.randn(shape[0], generator=draw)).half()
    return found


def write_chatglm(
    folder: Path, *, layers: int = 2, hidden: int = 64, inner: int = 128, bits: int = 0, files: int = 2, **config: Any
) -> Path:
    """A ChatGLM-6B folder with the recorded vocabulary."""
    folder.mkdir(parents=True)
    values = json.loads((folder_of() / "config.json").read_text(encoding="utf-8"))
    values |= {"num_layers": layers, "hidden_size": hidden, "inner_hidden_size": inner}
    values |= {"num_attention_heads": hidden // 16, "max_sequence_length": 128, **config}
    if bits:
        values |= {"quantization_bit": bits, "quantization_embeddings": False}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "ice_text.model").write_bytes(TOKENIZER.read_bytes())
    tensors = random_tensors(layers, hidden, inner, values["vocab_size"], glu=False, seed=5)
    _quieten_controls(tensors, 0)
    if bits:
        for name in [name for name in tensors if name.removesuffix(".weight").endswith(MATRICES)]:
            packed = quantization.quantize(tensors[name], bits)
            tensors |= {name: packed.weight, f"{name}_scale": packed.scale}
    names = sorted(tensors)
    index = {}
    for number in range(files):
        file = f"pytorch_model-{number + 1:05}-of-{files:05}.bin"
        own = names[number * len(names) // files : (number + 1) * len(names) // files]
        torch.save({name: tensors[name] for name in own}, folder / file)
        index |= dict.fromkeys(own, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    return folder


def write_sat(
    folder: Path, *, parallel: int, layers: int = 2, hidden: int = 64, inner: int = 64, bits: int = 0
) -> Path:
    """A checkpoint in GLM-130B's form, for the recorded vocabulary behind 20 pictures; its ids are in `ids.json`."""
    shards = folder / "100"
    shards.mkdir(parents=True)
    (folder / "latest").write_text("100", encoding="utf-8")
    (folder / "ice_text.model").write_bytes(TOKENIZER.read_bytes())
    first = json.loads((folder_of() / "config.json").read_text(encoding="utf-8"))
    rows = -(-(first["vocab_size"] + 20) // 64) * 64
    ids = {
        "[MASK]": first["mask_token_id"] + 20, "[gMASK]": first["gmask_token_id"] + 20,
        "[sMASK]": first["gmask_token_id"] + 21, "sop": first["bos_token_id"] + 20, "eop": first["eos_token_id"] + 20,
        "eos": 22,
    }  # fmt: skip
    (folder / "ids.json").write_text(json.dumps({"special_ids": ids, "max_sequence_length": 256}), encoding="utf-8")
    tensors = random_tensors(layers, hidden, inner, rows, glu=True, seed=5)
    _quieten_controls(tensors, 20)
    for number in range(layers):
        tensors[layer_key(number, "attention.rotary_emb.inv_freq")] = torch.ones(4).half()
    for rank in range(parallel):
        module: dict[str, Any] = {}
        for name, tensor in tensors.items():
            part = _part(name, tensor, rank, parallel)
            if bits and name.removesuffix(".weight").endswith(MATRICES):
                packed = quantization.quantize(part, bits)
                module |= {name: packed.weight, f"{name}_scale": packed.scale}
            else:
                module[name] = part.clone()
        torch.save({"module": module}, shards / f"mp_rank_{rank:02}_model_states.pt")
    return folder


def _quieten_controls(tensors: dict[str, Any], offset: int) -> None:
    """Let control tokens be unlikely, as they are for a model that was trained; no prompt may repeat one."""
    tokenizer = GlmTokenizer(TOKENIZER, ("</s>", 2))
    ids = [number + offset for number in tokenizer.specials.values()]
    tensors[f"{EMBEDDING}.weight"][ids] *= 0.01


def _part(name: str, tensor: Any, rank: int, parallel: int) -> Any:
    layer_name = name.rpartition(".")[0]
    if layer_name.endswith(MATRICES[2]):
        return torch.cat([half.chunk(parallel)[rank] for half in tensor.chunk(2)])
    if layer_name.endswith(MATRICES[0]) or name.startswith(EMBEDDING):
        return tensor.chunk(parallel)[rank]
    if layer_name.endswith((MATRICES[1], MATRICES[3])) and name.endswith(".weight"):
        return tensor.chunk(parallel, dim=1)[rank]
    return tensor
