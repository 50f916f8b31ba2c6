"""Finds a model's tokenizer among its files, and the ids that begin prompts and end replies. Encodes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge import ChatTemplate, ModelLoadError, chat_template_from, check_model_file, read_json_object
from chatbridge_transformers import fast, sentences
from chatbridge_transformers.folder import TOKENIZERS, Folder
from chatbridge_transformers.vocabulary import TransformersTokenizer

_BY_SENTENCEPIECE = {"llamatokenizer", "codellamatokenizer", "gemmatokenizer", ""}
"""Classes whose ids are those of `tokenizer.model` itself. The first was written LLaMATokenizer in early models."""

_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


@dataclass(frozen=True, slots=True)
class Found:
    """A tokenizer, the file that it was read from, and the chat template beside it."""

    tokenizer: TransformersTokenizer
    file: Path
    template: ChatTemplate


def has_tokenizer(path: Path) -> bool:
    return any((path / name).exists() for name in TOKENIZERS)


def read(path: Path, *, trust_remote_code: bool = False) -> Found:
    """The tokenizer in a folder, or in a file. Raises ModelLoadError."""
    folder, files = (path, None) if path.is_dir() else (path.parent, (path,))
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such tokenizer; give its folder, tokenizer.json or tokenizer.model")
    if files is not None and (path.suffix not in (".json", ".model") or path.name == "tokenizer_config.json"):
        raise ModelLoadError(f"{path}: this is no tokenizer; give its folder, tokenizer.json or tokenizer.model")
    config = read_json_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    template = _template(folder, config)
    kind = str(config.get("tokenizer_class") or "").removesuffix("Fast").lower()
    model = _existing(files, folder, (".model",), ("tokenizer.model", "spiece.model"))
    table = _existing(files, folder, (".json",), ("tokenizer.json",))
    if (folder / "ice_text.model").exists() and table is None:
        raise ModelLoadError(f"{folder}: this is ChatGLM-6B's vocabulary (ice_text.model): use `backend: glm`")
    if model is not None and (kind in _BY_SENTENCEPIECE or files) and (table is None or kind or files):
        check_model_file(model)
        added, special = _added(folder, config)
        encode, pieces = sentences.read(model, added, special, add_bos=config.get("add_bos_token") is not False)
        return Found(TransformersTokenizer("SentencePiece", encode, pieces, template.source), model, template)
    named = _named(folder, config)
    add_bos = config.get("add_bos_token")
    add_bos = add_bos if isinstance(add_bos, bool) else None
    if table is not None:
        check_model_file(table)
        text = table.read_text(encoding="utf-8", errors="replace")
    else:
        table, text = folder, _converted(folder, str(config.get("tokenizer_class") or ""), trust_remote_code)
    name, encode, pieces = fast.read(text, table, named, add_bos=add_bos)
    return Found(TransformersTokenizer(name, encode, pieces, template.source), table, template)


def special_ids(
    tokenizer: TransformersTokenizer, model: Folder, rows: int
) -> tuple[int | None, tuple[int, ...], list[str]]:
    """What stands for the beginning, what ends a reply, and in words which ids of the model's configuration are wrong.

    `rows`: ids that the model has. Raises ModelLoadError where an id is outside of these, or where an answer would end
    at a plain word and nothing better is known.
    """
    wrong = []
    begins = tokenizer.bos if tokenizer.add_bos else None
    ends = list(tokenizer.ends)
    for name, config in (("generation_config.json", model.generation), ("config.json", model.config)):
        for key in ("bos_token_id", "eos_token_id"):
            for token in _ids(config.get(key)):
                where = f"{name}: {key}: {token}"
                if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < rows:
                    raise ModelLoadError(
                        f"{model.path / name}: {key} is {token!r}, outside of the vocabulary of {rows} ids; correct it "
                        f"(the vocabulary's own is {_own(tokenizer, key)})"
                    )
                if key == "bos_token_id":
                    if begins is not None and token != begins:
                        wrong.append(f"{where} is {_said(tokenizer, token)}, and {begins} is used")
                elif token in ends:
                    continue
                elif token in tokenizer.specials.values() and token not in (begins, 0):
                    ends.append(token)
                elif ends:
                    wrong.append(f"{where} is {_said(tokenizer, token)}, and {ends[0]} is used")
                elif tokenizer.decode([token]):
                    raise ModelLoadError(
                        f"{model.path / name}: eos_token_id is {token}, which is the plain text "
                        f"{tokenizer.decode([token]).decode('utf-8', 'replace')!r}: answers would end there; correct it"
                    )
                else:
                    ends.append(token)
    return tokenizer.bos, tuple(ends), list(dict.fromkeys(wrong))


def _own(tokenizer: TransformersTokenizer, key: str) -> object:
    own = tokenizer.bos if key == "bos_token_id" else next(iter(tokenizer.ends), None)
    return "not known" if own is None else own


def _said(tokenizer: TransformersTokenizer, token: int) -> str:
    names = {number: name for name, number in tokenizer.specials.items()}
    return names.get(token) or repr(tokenizer.decode([token]).decode("utf-8", "replace")) if token else "<unk>"


def _ids(value: Any) -> Sequence[Any]:
    return () if value is None else value if isinstance(value, list) else (value,)


def _existing(
    files: tuple[Path, ...] | None, folder: Path, endings: tuple[str, ...], names: Sequence[str]
) -> Path | None:
    if files is not None:
        return files[0] if files[0].suffix in endings else None
    return next((folder / name for name in names if (folder / name).exists()), None)


def _template(folder: Path, config: Mapping[str, Any]) -> ChatTemplate:
    """The chat template, from where the different versions of transformers have put it."""
    if (beside := folder / "chat_template.jinja").exists():
        check_model_file(beside)
        return chat_template_from(beside.read_text(encoding="utf-8", errors="replace"))
    found = config.get("chat_template")
    if found is None and (beside := folder / "chat_template.json").exists():
        found = read_json_object(beside).get("chat_template")
    return chat_template_from(found)


def _text(value: Any) -> str:
    return str(value.get("content") or "") if isinstance(value, dict) else value if isinstance(value, str) else ""


def _named(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The texts of special tokens by their part; the early files with all of them empty say nothing."""
    beside = folder / "special_tokens_map.json"
    merged = {**(read_json_object(beside) if beside.exists() else {}), **{k: v for k, v in config.items() if _text(v)}}
    named = {key: text for key in _NAMES if (text := _text(merged.get(key)))}
    others = merged.get("additional_special_tokens")
    for number, token in enumerate(others if isinstance(others, list) else ()):
        named[f"additional_{number}"] = _text(token)
    return named


def _added(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, int], set[str]]:
    """Tokens beside `tokenizer.model`, by their text, and which of them are called special."""
    added: dict[str, int] = {}
    special = {text for key, text in _named(folder, config).items() if key != "unk_token"}
    if (beside := folder / "added_tokens.json").exists():
        added |= {text: number for text, number in read_json_object(beside).items() if isinstance(number, int)}
    decoder = config.get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        if re.fullmatch("[0-9]{1,9}", str(number)) and _text(token):
            added[_text(token)] = int(number)
            if isinstance(token, dict) and token.get("special"):
                special.add(_text(token))
    return added, special


def _converted(folder: Path, kind: str, trust_remote_code: bool) -> str:
    """A tokenizer.json of what only transformers' own classes can read."""
    if not has_tokenizer(folder):
        raise ModelLoadError(
            f"{folder}: there is no tokenizer here; download tokenizer.json or tokenizer.model into it, or name "
            f"another folder by tokenizer:"
        )
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code, local_files_only=True)
        return str(found.backend_tokenizer.to_str())
    except Exception as error:  # whatever a tokenizer's class may raise
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelLoadError(
            f"{folder}: there is no tokenizer.json, and of the other files transformers can't make a "
            f"{kind or 'tokenizer'}: {why}; download tokenizer.json, or name another folder by tokenizer:"
        ) from error
