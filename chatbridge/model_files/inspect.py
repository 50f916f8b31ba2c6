"""What lies at a path, file or folder: looks at names and first bytes, and lets the form be described that is there.

Reads headers alone, runs nothing, and knows no backend but by name. The facts are put together in `drafts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.description import ModelDescription, at, listed
from chatbridge.model_files.drafts import Draft
from chatbridge.model_files.gguf_models import describe_ggml, describe_gguf
from chatbridge.model_files.kinds import encrypted_name, exists, kind_of
from chatbridge.model_files.peft_adapters import describe_peft
from chatbridge.model_files.reading import expected_files, files_in
from chatbridge.model_files.running import REMEDIES, backends_for, example_for
from chatbridge.model_files.sentencepiece_files import count_pieces
from chatbridge.model_files.template_notes import GUESSED, KEY, OWN, noted_template
from chatbridge.model_files.torch_models import describe_file, describe_hub, describe_meta, describe_sat

_LATER_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_WEIGHTS = (".pth", ".pt", ".safetensors", ".bin")
_Describe = Callable[[Draft], None]


def inspect_model(path: Path, others: Mapping[str, Collection[str]] | None = None) -> ModelDescription:
    """Everything that headers and shapes tell about the model, adapter or part of one at `path`.

    What is wrong with it stands in `problems`. `others`: what backends of plugins run, by name (`BackendType.runs`).
    Raises ModelLoadError where there is nothing to describe: no such file, a pointer or a web page in its place, or no
    model in the folder.
    """
    if not exists(path):
        fetch = f"; `chatbridge model pull {path}` fetches it, if that is a name on Hugging Face"
        hub = fetch if _HUB.fullmatch(str(path)) else ""
        raise ModelLoadError(f"{path}: there is no such file or folder{hub}")
    place, describe = _folder(path) if path.is_dir() else _file(path)
    draft = Draft(place)
    if place != path:
        draft.details["asked for"] = str(path)
    try:
        if place.is_dir():
            _broken_links(draft)
        describe(draft)
    except OSError as error:  # rights, or a file that goes meanwhile
        raise ModelLoadError(f"{error.filename or path}: it can't be read: {error.strerror or error}") from error
    if not draft.facts.get("layout") and not draft.problems:
        raise ModelLoadError(f"{path}: this is no model, and no part of one, that is known here")
    found = draft.done()
    backends = backends_for(found, others or {})
    if not backends and found.layout in REMEDIES:
        draft.say("warning", *REMEDIES[found.layout])
    if _named(draft):
        draft.facts["chat_template"] = False  # a name of one is none
    preset, source = _preset(found, draft)
    found = replace(draft.done(), preset=preset, preset_source=source, backends=backends)
    if found.sound and found.backends:
        found = replace(found, example=example_for(found, found.backends[0]))
    return found


def refuse_unsound(found: ModelDescription) -> None:
    """Raise ModelLoadError with the first fault of what was inspected, if it has one."""
    for problem in found.problems:
        if problem.severity == "error":
            raise ModelLoadError(at(found.path, problem.words))


def sound_model(path: Path, others: Mapping[str, Collection[str]] | None = None) -> ModelDescription:
    """As `inspect_model`; raises ModelLoadError where something is wrong with the model, too."""
    found = inspect_model(path, others)
    refuse_unsound(found)
    return found


def _file(path: Path) -> tuple[Path, _Describe]:
    """What describes a file. One of a folder's files stands for the folder."""
    kind = kind_of(path)
    if kind in _BY_KIND:
        return path, _BY_KIND[kind]
    if kind != "other":
        with suppress(ModelLoadError):  # a folder that can't be listed has files all the same
            found = _of_folder(path.parent, files_in(path.parent))
            if found is not None and any(path.match(name) for name in _MEMBERS[found[1]]):
                return found
    if kind in ("torch", "pickle", "safetensors"):
        return path, describe_file
    if kind == "sentencepiece":
        raise ModelLoadError(f"{path}: this is a tokenizer of {count_pieces(path):,} pieces; give the model's folder")
    if kind == "json":
        raise ModelLoadError(f"{path}: this is JSON and no model; give the model's folder, or its file of weights")
    raise ModelLoadError(
        f"{path}: this is no file of a model that is known here: neither GGUF, safetensors or torch's, nor GGML's"
    )


def _folder(path: Path) -> tuple[Path, _Describe]:
    """What describes a folder. Raises ModelLoadError for one without a model, or with several."""
    files = files_in(path)
    ggufs = [file for file in files if file.suffix == ".gguf" and not _LATER_PART.search(file.name)]
    found = _of_folder(path, files)
    if found is not None and not (ggufs and found[1] is describe_hub and not expected_files(path)):
        return found
    alone = ggufs or [file for file in files if file.suffix in _WEIGHTS and file.is_file()]
    if len(alone) == 1:
        return alone[0], _BY_KIND.get(kind_of(alone[0]), describe_file)
    if alone:
        names = listed([file.name for file in alone])
        raise ModelLoadError(f"{path}: there are {len(alone)} models here: {names}; give the file of one")
    if not files:
        raise ModelLoadError(f"{path}: the folder is empty; give a model's folder")
    folders = [file.name for file in files if file.is_dir()]
    more = f"; one of its folders may be what you mean: {listed(folders)}" if folders else ""
    raise ModelLoadError(f"{path}: there is no model here: no config.json and no weights{more}")


def _of_folder(path: Path, files: Sequence[Path]) -> tuple[Path, _Describe] | None:
    """The first form whose sign is in the folder. A part of SAT's stands for the folder with `latest` above it.

    A whole model in Hugging Face's form is one whatever a trainer or a conversion has left beside it.
    """
    whole = any(file.name == "config.json" for file in files) and _has_weights(path)
    for sign, describe in _SIGNS:
        if whole and describe not in (describe_peft, describe_hub):
            continue
        if any(file.match(sign) for file in files):
            above = describe is describe_sat and not (path / "latest").exists() and (path.parent / "latest").is_file()
            return (path.parent if above else path), describe
    return None


def _has_weights(folder: Path) -> bool:
    with suppress(ModelLoadError):  # told when the folder is described
        return any(file.is_file() for file in expected_files(folder))
    return False


def _broken_links(draft: Draft) -> None:
    """Links to what is not there, as where a folder of Hugging Face's cache was copied without its blobs."""
    broken = [file.name for file in files_in(draft.path) if file.is_symlink() and not file.exists()]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        draft.say(
            "warning",
            f"{', '.join(broken[:3])}{more} {'is a link' if len(broken) == 1 else 'are links'} to what is not there",
            "download the model again, or copy it with what its links name (cp -rL)",
        )


def _describe_xor(draft: Draft) -> None:
    """Files that BELLE has encrypted with the original LLaMA as the key."""
    files = [draft.path] if draft.path.is_file() else [file for file in files_in(draft.path) if encrypted_name(file)]
    for file in files:
        if draft.attempt(kind_of, file) != "xor":
            draft.say("error", f"{file.name} does not begin with the hash that its name says", "download it again")
    names = [encrypted_name(file) or "" for file in files]
    draft.facts |= {
        "layout": "xor",
        "family": "LLaMA, encrypted by BELLE",
        "architecture": "llama",
        "format": f"XOR-encrypted, {len(files)} file{'s' * (len(files) != 1)}",
        "files": len(files),
        "nbytes": sum(file.stat().st_size for file in files),
    }
    draft.details["inside"] = listed(names, 5)


def _preset(found: ModelDescription, draft: Draft) -> tuple[str, str]:
    """The template of ours that fits, and from where that is known: what its files name, else as a loaded model is
    given one."""
    from chatbridge.prompts.builtin import presets, suggest_preset
    from chatbridge.types import ModelInfo

    if found.layout in ("", "xor", "ptuning"):
        return "", ""
    for name, where in _noted(draft):
        if name == "model" and draft.facts.get("chat_template"):
            return name, OWN
        if name in presets() and name != "model":
            return name, f"as {where} says"
        if name:
            told = f"{where} names the template {name[:60]!r}, which this model can't be given"
            draft.say("warning", told, "name another one by `template`; `chatbridge templates` lists them")
    base = found.adapter.base if found.adapter else ""
    info = ModelInfo(
        name=f"{found.path.stem} {draft.details.get('name', '')} {base}"[:500],
        architecture=f"{found.family} {found.architecture} {found.variant}",
        context_length=found.context,
        vocab_size=found.vocabulary,
        fingerprint="",
        vocabulary="",
        eos=(),
        specials=draft.specials,
        chat_template=draft.template or None,
    )
    fits = suggest_preset(info) or suggest_preset(replace(info, name=" ".join(draft.aliases)[:500])) or ""
    return fits, OWN if fits == "model" else GUESSED if fits else ""


def _named(draft: Draft) -> bool:
    """Whether there is only a name where a chat template should be, as `rwkv-world`."""
    from chatbridge.prompts.builtin import named_preset

    return bool(draft.template) and named_preset(draft.template) is not None


def _noted(draft: Draft) -> list[tuple[str, str]]:
    """Which presets its files name, and which file does."""
    try:
        report = noted_template(draft.path)
    except ModelLoadError as error:  # the model is sound without it
        draft.say("warning", str(error).partition("; ")[0], "delete it, and name the template yourself")
        report = ("", "")
    return [(draft.noted, KEY), report]


_BY_KIND: dict[str, _Describe] = {"gguf": describe_gguf, "ggml": describe_ggml, "xor": _describe_xor}

_SIGNS: tuple[tuple[str, _Describe], ...] = (
    ("adapter_config.json", describe_peft),
    ("*.enc", _describe_xor),
    ("mp_rank_*_model_states.pt", describe_sat),
    ("latest", describe_sat),
    ("consolidated.*.pth", describe_meta),
    ("config.json", describe_hub),
)
"""By which file a folder's form is known; the first that is there."""

_MEMBERS: dict[_Describe, tuple[str, ...]] = {
    describe_peft: ("adapter_model.*", "adapter_config.json"),
    _describe_xor: ("*.enc",),
    describe_sat: ("mp_rank_*", "latest"),
    describe_meta: ("consolidated.*", "params.json"),
    describe_hub: ("pytorch_model*", "model*.safetensors", "config.json", "*.index.json"),
}
