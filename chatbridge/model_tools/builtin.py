"""The converters of the core, as plugins register theirs. A list, which imports what does the work when it is done."""

from __future__ import annotations

from chatbridge.model_tools.converter import Conversion, Converter
from chatbridge.model_tools.tables import FORMS


def _to_gguf(work: Conversion) -> None:
    from chatbridge.model_tools.gguf.to_gguf import convert

    convert(work)


def _ggml_to_gguf(work: Conversion) -> None:
    from chatbridge.model_tools.gguf.ggml_to_gguf import convert

    convert(work)


def _llama_forms(work: Conversion) -> None:
    from chatbridge.model_tools.merging.llama_forms import convert

    convert(work)


def _lora_to_gguf(work: Conversion) -> None:
    from chatbridge.model_tools.gguf.lora_to_gguf import convert

    convert(work)


CONVERTERS: tuple[Converter, ...] = (
    Converter(
        "gguf",
        "LLaMA, its relatives and BLOOM, in Meta's or Hugging Face's form, into a GGUF file",
        takes=tuple(f"{form.layout}/{kind}" for form in FORMS for kind in form.kinds),
        makes=("f32", "f16", "bf16", "q8_0"),
        convert=_to_gguf,
    ),
    Converter(
        "ggml",
        "LLaMA from before GGUF (ggml, ggmf, ggjt 1 to 3): its blocks as they are (gguf), or unpacked (f16, f32)",
        takes=("ggml",),
        makes=("gguf", "f16", "f32"),
        convert=_ggml_to_gguf,
    ),
    Converter(
        "llama",
        "LLaMA from Meta's form into Hugging Face's and back, to the bit; Meta's into other numbers of parts",
        takes=("meta/llama", "huggingface/llama"),
        makes=("hf", "meta"),
        convert=_llama_forms,
        folder=True,
        options=("parts",),
    ),
    Converter(
        "lora",
        "PEFT's LoRA adapters for LLaMA, its relatives and BLOOM into a GGUF file that llama.cpp puts on a model",
        takes=("peft",),
        makes=("f32", "f16"),
        convert=_lora_to_gguf,
        options=("base",),
    ),
)
