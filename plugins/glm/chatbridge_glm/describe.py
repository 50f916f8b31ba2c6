"""What a loaded model says about itself: sizes, vocabulary, what is really in use, what its makers recommend."""

from __future__ import annotations

import torch

from chatbridge import ModelInfo, Sampling
from chatbridge_glm import memory
from chatbridge_glm.loading import Loaded
from chatbridge_glm.options import GlmOptions
from chatbridge_glm.tokenizer import GlmTokenizer

MAX_BATCH = 32

_RECOMMENDED = {
    # chat() of ChatGLM-6B's code, with transformers' top_k; generate.sh of GLM-130B.
    "ChatGLM-6B": {"temperature": 0.95, "top_k": 50, "top_p": 0.7, "min_p": 0},
    "GLM-130B": {"temperature": 1.0, "top_k": 0, "top_p": 0.7, "min_p": 0},
}


def describe(loaded: Loaded, options: GlmOptions, tokenizer: GlmTokenizer) -> ModelInfo:
    """What `GlmModel.info` tells."""
    config = loaded.checkpoint.config
    return ModelInfo(
        name=loaded.checkpoint.path.name,
        architecture=config.architecture,
        context_length=loaded.layout.max_length,
        vocab_size=config.vocab_size,
        fingerprint=loaded.layout.fingerprint,
        vocabulary=tokenizer.fingerprint,
        eos=config.ends,
        bos=None,
        max_batch=min(MAX_BATCH, loaded.conversations),
        can_trim=True,
        specials=tokenizer.specials,
        bidirectional_until=config.sop,
        adapters={name: digest for name, digest in loaded.digests.items() if name},
        sampling=Sampling.model_validate(_RECOMMENDED[config.architecture]),
        details=_details(loaded, options, tokenizer),
    )


def _details(loaded: Loaded, options: GlmOptions, tokenizer: GlmTokenizer) -> dict[str, str]:
    checkpoint, plan, layout = loaded.checkpoint, loaded.plan, loaded.layout
    parameters = checkpoint.parameters
    bits = plan.bits
    packed = f"int{bits}, {'as the files have them' if checkpoint.bits else 'packed here'}" if bits else "none"
    if checkpoint.embedding_bits:
        packed += f"; the embedding, too, in int{checkpoint.embedding_bits}"
    kernels = "torch's packed kernels" if loaded.kernels else "rows unpacked as they are needed"
    cache = layout.token_bytes
    details = {
        "folder": str(checkpoint.path),
        "parameters": f"{parameters / 1e6:,.1f} M" if parameters < 1e9 else f"{parameters / 1e9:,.2f} B",
        "quantization": packed,
        "products": f"{plan.dtype}{f' by {kernels}' if bits else ''}",
        "memory": f"{memory.report(checkpoint, plan)}; {memory.gib(loaded.held)} are held",
        "cache": f"{cache / 1024:.0f} KiB for each token, at most {memory.gib(cache * layout.max_length)} for each "
        f"conversation of {layout.max_length} tokens",
        "together": f"up to {min(MAX_BATCH, loaded.conversations)} conversations in one batch",
        "reading": "prompts in both directions, so that a conversation is read again at each turn; a repeated or "
        "continued answer is not",
        "tokenizer": f"{checkpoint.tokenizer.name}, {tokenizer.size} ids for {checkpoint.config.vocab_size} rows",
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
    }
    if checkpoint.parallel > 1:
        details["shards"] = f"{checkpoint.parallel}, joined (tensor parallelism of {checkpoint.parallel})"
    if loaded.prefixes:
        lengths = {name or "all": prefix[0][0].shape[1] for name, prefix in loaded.prefixes.items()}
        details["prefixes"] = ", ".join(f"{name} of {length} tokens" for name, length in lengths.items())
    if options.keep_states:
        details["kept states"] = f"{options.keep_states}, at most {options.keep_states_gib:g} GiB"
    return details
