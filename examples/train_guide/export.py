"""Writes a checkpoint as a GGUF file that chatbridge and llama.cpp read: q8_0 weights, tokenizer, chat template.

python examples/train_guide/export.py --from runs/guide --to chatbridge/bundled/guide.gguf
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import torch
from gguf.quants import quantize
from model import Shape
from vocabulary import CONTROLS

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DESCRIPTION = "Answers questions about chatbridge, in English and Chinese; trained from scratch on text of the project."


def export(folder: Path, target: Path) -> None:
    """Write `<folder>/checkpoint.pt` and `<folder>/tokens.model` as one GGUF file."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    shape = Shape(**saved["shape"])
    weights = {name: tensor.float().numpy() for name, tensor in saved["model"].items()}
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokens.model"))
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(target), "llama")
    _describe(writer, shape)
    _tokenizer(writer, pieces)
    for name, array in _tensors(weights, shape).items():
        if array.ndim == 1:
            writer.add_tensor(name, array.astype(np.float32))
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(array.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("guide")
    writer.add_description(DESCRIPTION)
    writer.add_license("mit")
    writer.add_languages(["en", "zh"])
    writer.add_sampling_temp(0.0)  # it was taught answers word for word: chance only garbles them
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)


def _tokenizer(writer: gguf.GGUFWriter, pieces: sentencepiece.SentencePieceProcessor) -> None:
    tokens: list[bytes] = []
    scores: list[float] = []
    kinds: list[int] = []
    for number in range(pieces.get_piece_size()):
        tokens.append(pieces.id_to_piece(number).encode())
        scores.append(pieces.get_score(number))
        kinds.append(_kind(pieces, number))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.piece_to_id(CONTROLS[1]))
    writer.add_unk_token_id(pieces.unk_id())
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _kind(pieces: Any, number: int) -> int:
    if pieces.is_unknown(number):
        return int(gguf.TokenType.UNKNOWN)
    if pieces.is_control(number):
        return int(gguf.TokenType.CONTROL)
    if pieces.is_byte(number):
        return int(gguf.TokenType.BYTE)
    return int(gguf.TokenType.UNUSED if pieces.is_unused(number) else gguf.TokenType.NORMAL)


def _tensors(weights: dict[str, np.ndarray], shape: Shape) -> dict[str, np.ndarray]:
    """The weights under GGUF's names. The output is the embedding again and is left out."""
    named = {"token_embd.weight": weights["embedding.weight"], "output_norm.weight": weights["norm.weight"]}
    for i in range(shape.layers):
        q, k, v = np.split(weights[f"layers.{i}.qkv.weight"], 3)
        gate, up = np.split(weights[f"layers.{i}.gate_up.weight"], 2)
        parts = {
            "attn_norm": weights[f"layers.{i}.attention_norm.weight"],
            "attn_q": q,
            "attn_k": k,
            "attn_v": v,
            "attn_output": weights[f"layers.{i}.out.weight"],
            "ffn_norm": weights[f"layers.{i}.inner_norm.weight"],
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": weights[f"layers.{i}.down.weight"],
        }
        named |= {f"blk.{i}.{part}.weight": array for part, array in parts.items()}
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--to", type=Path, required=True, help="the GGUF file to write")
    options = parser.parse_args()
    export(options.folder, options.to)
    print(f"{options.to}: {options.to.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
