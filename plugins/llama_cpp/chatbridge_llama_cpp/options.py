"""The keys that a model of the `llama_cpp` backend accepts in bots.yaml, each with the flag of llama.cpp that it is.

Knows what may be written; whether this build and this file can honour it is seen when the model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from chatbridge import ConfigPath, Options

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
UNPACKED = ("f32", "f16", "bf16")
"""Types of values that attention can read without `flash_attention`."""

Number = Annotated[float, Field(gt=0)]


def _hub(path: str) -> bool:
    """Whether this is `owner/repo:file.gguf` rather than a path."""
    repo, colon, file = path.partition(":")
    return bool(colon) and file.endswith(".gguf") and repo.count("/") == 1 and not repo.startswith((".", "/", "~"))


def _path(value: object) -> object:
    if not isinstance(value, str | Path) or str(value) in ("", ".") or "\0" in str(value):
        raise ValueError("this can't be the path of a file")
    return str(value)


def _beside_the_file(value: str, info: ValidationInfo) -> str:
    base = (info.context or {}).get("base")
    if _hub(value):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("there is no home folder of that name here") from error
    return str(path if base is None else Path(base) / path)


LOOKUP = "lookup"
"""As `draft`: guesses come from the conversation itself."""


def _draft(value: object) -> object:
    return value if value is None else _path(value)


def _draft_beside_the_file(value: str | None, info: ValidationInfo) -> str | None:
    return value if value in (None, LOOKUP) else _beside_the_file(value, info)


class Adapter(Options, defer_build=True):
    """One LoRA adapter or control vector: its file, and how strongly it works."""

    path: Annotated[ConfigPath, Field(description="The adapter as a GGUF file.")]
    scale: Annotated[float, Field(ge=-100, le=100, description="How strongly it works; 1 is as trained.")] = 1.0


def _adapters(value: object) -> object:
    """A single one, or a bare path, stands for a list of one."""
    items = value if isinstance(value, list | tuple) else [value]
    return [{"path": item} if isinstance(item, str | Path) else item for item in items]


AdapterList = Annotated[tuple[Adapter, ...], BeforeValidator(_adapters)]


class NamedAdapter(Options, defer_build=True):
    """What one name under `adapters` adds to the model and its own lora and control vectors."""

    lora: Annotated[AdapterList, Field(description="LoRA adapters, as in the model's own lora.")] = ()
    control_vectors: Annotated[AdapterList, Field(description="Control vectors, likewise.")] = ()

    @model_validator(mode="after")
    def _not_empty(self) -> NamedAdapter:
        if not self.lora and not self.control_vectors:
            raise ValueError("an adapter needs lora or control_vectors; for the model as it is, leave `adapter` out")
        return self


def _by_name(value: object) -> object:
    """A bare path stands for a LoRA adapter."""
    if not isinstance(value, dict):
        return value
    return {name: {"lora": one} if isinstance(one, str | Path) else one for name, one in value.items()}


class LlamaOptions(Options, defer_build=True):
    """Keys that a model of the `llama_cpp` backend accepts."""

    path: Annotated[
        str,
        BeforeValidator(_path),
        AfterValidator(_beside_the_file),
        Field(description="A GGUF file, the first of its parts, or owner/repo:file.gguf on Hugging Face (-m, -hf)."),
    ]

    # Where the model runs.
    gpu_layers: Annotated[
        Annotated[int, Field(ge=0)] | Literal["all", "auto"],
        Field(description="Layers on the graphics card: a number, all, or auto for what fits (-ngl)."),
    ] = "auto"
    main_gpu: Annotated[int | None, Field(ge=0, description="The card to use where split_mode is none (-mg).")] = None
    split_mode: Annotated[
        Literal["none", "layer", "row"] | None, Field(description="How several cards share the model (-sm).")
    ] = None
    tensor_split: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...] | None,
        Field(description="Each card's share of the model, as [3, 1] (-ts)."),
    ] = None
    offload_kqv: Annotated[
        bool | None, Field(description="Whether the KV cache lies on the card as well; false is -nkvo.")
    ] = None
    threads: Annotated[
        int | None,
        Field(ge=1, le=512, description="Threads for answering (-t); else one for each large core that may be used."),
    ] = None
    threads_batch: Annotated[
        int | None, Field(ge=1, le=512, description="Threads for reading prompts (-tb); else as threads.")
    ] = None
    numa: Annotated[
        Literal["distribute", "isolate", "numactl"] | None, Field(description="For several processors (--numa).")
    ] = None
    mmap: Annotated[bool, Field(description="Map the file rather than read it; false is --no-mmap.")] = True
    mlock: Annotated[bool, Field(description="Keep the weights from being swapped out (--mlock).")] = False

    # How much it remembers.
    context_length: Annotated[
        int | None,
        Field(ge=8, description="Tokens per conversation (-c, for each); else what the model takes, up to 4096."),
    ] = None
    sequences: Annotated[
        int | None,
        Field(ge=1, le=256, description="Conversations whose KV cache is held at once (-np); else up to 16 that fit."),
    ] = None
    unified: Annotated[
        bool, Field(description="One pool of cells for all conversations rather than one for each (-kvu).")
    ] = False
    total_context: Annotated[
        int | None, Field(ge=8, description="Cells in that pool (-c); else context_length times sequences.")
    ] = None
    kv_type_k: Annotated[KvType, Field(description="Type of the keys in the cache (-ctk).")] = "f16"
    kv_type_v: Annotated[KvType, Field(description="Type of the values in the cache (-ctv).")] = "f16"
    swa_full: Annotated[
        bool, Field(description="Keep everything for models with a sliding window; false can't trim (--swa-full).")
    ] = True
    batch: Annotated[int, Field(ge=1, le=65536, description="Tokens in one call (-b).")] = 512
    ubatch: Annotated[
        int | None, Field(ge=1, le=65536, description="Tokens computed at once (-ub); else as batch.")
    ] = None
    keep_states: Annotated[
        ConfigPath | None,
        Field(description="Folder for idle conversations' caches, for after a restart (--slot-save-path)."),
    ] = None
    keep_states_gib: Annotated[
        float, Field(gt=0, description="The most that folder may hold (--cache-ram, on disk).")
    ] = 8.0
    flash_attention: Annotated[
        Literal["auto"] | bool,
        Field(description="Attention without its matrix in memory (-fa); auto: on cards, and where measured to win."),
    ] = "auto"

    # Positions.
    rope_scaling: Annotated[
        Literal["none", "linear", "yarn", "longrope"] | None,
        Field(description="How positions are stretched (--rope-scaling)."),
    ] = None
    rope_freq_base: Annotated[Number | None, Field(description="Base of the rotations (--rope-freq-base).")] = None
    rope_freq_scale: Annotated[Number | None, Field(description="Scale of the rotations (--rope-freq-scale).")] = None
    yarn_orig_ctx: Annotated[int | None, Field(ge=1, description="Context before stretching (--yarn-orig-ctx).")] = None
    yarn_ext_factor: Annotated[float | None, Field(ge=0, description="Extrapolation mix (--yarn-ext-factor).")] = None
    yarn_attn_factor: Annotated[Number | None, Field(description="Attention scale (--yarn-attn-factor).")] = None
    yarn_beta_slow: Annotated[Number | None, Field(description="High correction dimension (--yarn-beta-slow).")] = None
    yarn_beta_fast: Annotated[Number | None, Field(description="Low correction dimension (--yarn-beta-fast).")] = None

    # Adapters.
    lora: Annotated[
        AdapterList,
        Field(description="LoRA adapters as GGUF files: a path, or a list of path and scale (--lora-scaled)."),
    ] = ()
    control_vectors: Annotated[
        AdapterList, Field(description="Control vectors as GGUF files, likewise (--control-vector-scaled).")
    ] = ()
    adapters: Annotated[
        dict[Annotated[str, Field(min_length=1)], NamedAdapter],
        BeforeValidator(_by_name),
        Field(
            default_factory=dict,
            description="What a channel's `adapter` adds, by name: a path, or lora and control_vectors (--lora).",
        ),
    ]

    # How the next token is chosen, beyond what `sampling:` says.
    mirostat: Annotated[Literal[1, 2] | None, Field(description="Mirostat instead of top_k … min_p (--mirostat).")] = (
        None
    )
    mirostat_tau: Annotated[Number | None, Field(description="Surprise aimed at, 5 (--mirostat-ent).")] = None
    mirostat_eta: Annotated[Number | None, Field(description="How fast it learns, 0.1 (--mirostat-lr).")] = None
    dry_multiplier: Annotated[
        float, Field(ge=0, le=100, description="DRY, against repeated passages; 0 is off (--dry-multiplier).")
    ] = 0.0
    dry_base: Annotated[float, Field(ge=1, le=100, description="Growth by length (--dry-base).")] = 1.75
    dry_allowed_length: Annotated[int, Field(ge=1, description="Free length (--dry-allowed-length).")] = 2
    dry_window: Annotated[int, Field(ge=0, description="Last tokens looked at; 0 is all (--dry-penalty-last-n).")] = 0
    dry_breakers: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(description="Texts that end a passage (--dry-sequence-breaker)."),
    ] = ("\n", ":", '"', "*")
    xtc_probability: Annotated[
        float, Field(ge=0, le=1, description="XTC: how often the likeliest are left out (--xtc-probability).")
    ] = 0.0
    xtc_threshold: Annotated[float, Field(ge=0, le=0.5, description="From which probability on (--xtc-threshold).")] = (
        0.1
    )
    grammar: Annotated[
        str | None, Field(min_length=1, description="A GBNF grammar that every answer keeps to (--grammar).")
    ] = None
    json_schema: Annotated[
        dict[str, Any] | None, Field(description="A JSON Schema that every answer keeps to (--json-schema).")
    ] = None

    draft: Annotated[
        str | None,
        BeforeValidator(_draft),
        AfterValidator(_draft_beside_the_file),
        Field(description="What guesses ahead: a small GGUF model (-md), or lookup in what was said (llama-lookup)."),
    ] = None
    draft_tokens: Annotated[int, Field(ge=1, le=64, description="Tokens guessed at once (--spec-draft-n-max).")] = 8
    draft_least: Annotated[
        float | None,
        Field(ge=0, le=1, description="Probability below which the small model stops, 0.75 (--spec-draft-p-min)."),
    ] = None
    draft_gpu_layers: Annotated[
        Annotated[int, Field(ge=0)] | Literal["all", "auto"] | None,
        Field(description="Its layers on the graphics card (-ngld); else as gpu_layers: auto."),
    ] = None

    @model_validator(mode="after")
    def _fit_together(self) -> LlamaOptions:
        if self.grammar is not None and self.json_schema is not None:
            raise ValueError("grammar and json_schema exclude each other; leave one out")
        if self.total_context is not None and not self.unified:
            raise ValueError("total_context is the size of the common pool: it needs unified: true")
        small = self.draft not in (None, LOOKUP)
        if not small and (self.draft_least is not None or self.draft_gpu_layers is not None):
            raise ValueError("draft_least and draft_gpu_layers do nothing without a small model as draft")
        if self.mirostat is None and (self.mirostat_tau is not None or self.mirostat_eta is not None):
            raise ValueError("mirostat_tau and mirostat_eta do nothing without mirostat: 1 or 2")
        if self.ubatch is not None and self.ubatch > self.batch:
            raise ValueError(f"ubatch: {self.ubatch} is more than batch: {self.batch}; lower it, or raise batch")
        if self.main_gpu is not None and self.split_mode != "none":
            raise ValueError("main_gpu needs split_mode: none; otherwise every card is used")
        if self.tensor_split is not None and (self.split_mode == "none" or not sum(self.tensor_split)):
            raise ValueError("tensor_split needs shares above 0, and another split_mode than none")
        if self.flash_attention is False and self.kv_type_v not in UNPACKED:
            raise ValueError(f"kv_type_v: {self.kv_type_v} needs flash_attention; leave that at auto")
        fields = type(self).model_fields
        yarn = [name for name in fields if name.startswith("yarn_") and getattr(self, name) is not None]
        if yarn and self.rope_scaling not in (None, "yarn"):
            raise ValueError(f"{yarn[0]} does nothing with rope_scaling: {self.rope_scaling}")
        return self

    @property
    def hub(self) -> tuple[str, str] | None:
        """Repository and file on Hugging Face, where `path` names these."""
        if not _hub(self.path):
            return None
        repo, _, file = self.path.partition(":")
        return repo, file
