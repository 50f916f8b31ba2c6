"""Vocabularies of GGUF files: what becomes of each kind of tokenizer files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from chatbridge.model_files.tokenizer_rules import TokenizerRules, tokenizer_rules
from chatbridge.model_tools.gguf import byte_pairs
from chatbridge.testing import hub_arrays, hub_config, write_hub

from .samples import BLOOM, LLAMA, QWEN2, byte_level, chinese, llama3, made, qwen2, texts


def test_a_sentencepiece_vocabulary_keeps_scores_and_kinds_and_is_filled_up(tmp_path: Path) -> None:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA / "chinese-alpaca-lora" / "tokenizer.model"))
    header = made(chinese(tmp_path / "hub"), tmp_path)
    scores = header.metadata["tokenizer.ggml.scores"]
    assert texts(header)[:691] == [model.id_to_piece(i) for i in range(691)]
    assert scores[:691].tolist() == [model.get_score(i) for i in range(691)]
    assert texts(header)[690:693] == [model.id_to_piece(690), "[PAD]", "[PAD692]"]
    assert header.metadata["tokenizer.ggml.token_type"].tolist()[690:] == [1, 3, *[5] * 12]
    assert header.metadata["tokenizer.ggml.padding_token_id"] == 691


def test_wrong_ids_in_a_configuration_do_not_win_over_the_tokenizer(tmp_path: Path) -> None:
    config = hub_config(bos_token_id=0, eos_token_id=1)
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "", "eos_token": "", "unk_token": ""}')
    (folder / "special_tokens_map.json").unlink()
    header = made(folder, tmp_path)
    assert [header.metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown")] == [1, 2, 0]
    report = json.loads((tmp_path / "f16.gguf.report.json").read_text(encoding="utf-8"))
    notes = [step["note"] for step in report["steps"] if step["step"] == "note"]
    assert notes == ["bos: config.json says 0, and the tokenizer 1, which is taken",
                     "eos: config.json says 1, and the tokenizer 2, which is taken"]  # fmt: skip


def test_a_byte_level_vocabulary_has_its_merges_and_names_how_it_cuts(tmp_path: Path) -> None:
    header = made(qwen2(tmp_path / "hub"), tmp_path)
    written = json.loads((BLOOM / "hf" / "tokenizer.json").read_text(encoding="utf-8"))
    assert texts(header, "merges") == written["model"]["merges"]
    assert texts(header)[499:503] == [texts(header)[499], "<tool call>", "<|endoftext|>", "[PAD502]"]
    assert header.metadata["tokenizer.ggml.token_type"].tolist()[499:503] == [1, 4, 3, 5]
    assert header.metadata["tokenizer.ggml.pre"] == "qwen2"
    assert header.metadata["tokenizer.chat_template"].startswith("{% for message")
    assert (header.metadata["tokenizer.ggml.add_bos_token"], header.metadata["tokenizer.ggml.eos_token_id"]) == (
        False,
        3,
    )


def test_what_a_text_gets_before_it_is_told_by_the_tokenizer(tmp_path: Path) -> None:
    header = made(llama3(tmp_path / "hub"), tmp_path)
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["tokenizer.ggml.pre"] == "llama-bpe"


def test_vocab_json_with_merges_txt_is_the_same_vocabulary(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "hub")
    whole = made(folder, tmp_path, "f16")
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(written["model"]["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in written["model"]["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    decoder = {str(token["id"]): token for token in written["added_tokens"]}
    told |= {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    parts = made(folder, tmp_path, "f32")
    for key in ("tokens", "merges"):
        assert texts(parts, key) == texts(whole, key)
    assert parts.metadata["tokenizer.ggml.pre"] == "qwen2"


def test_a_sentencepiece_model_that_became_a_tokenizer_json_cuts_as_before(tmp_path: Path) -> None:
    """The merges of transformers' converter: every way to put a piece together, by the piece's score."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA / "tokenizer.model"))
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    scores = dict(zip(pieces, map(model.get_score, range(len(pieces))), strict=True))
    pairs = [(text[:at], text[at:]) for text in pieces for at in range(1, len(text))
             if text[:at] in scores and text[at:] in scores]  # fmt: skip
    pairs.sort(key=lambda pair: -scores["".join(pair)])
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "added_tokens": [{"id": i, "content": pieces[i], **special} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": [" ".join(p) for p in pairs],
                  "vocab": {text: i for i, text in enumerate(pieces)}},
    }  # fmt: skip
    config = hub_config()
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    header = made(folder, tmp_path)
    shutil.copyfile(LLAMA / "tokenizer.model", folder / "tokenizer.model")
    before = made(folder, tmp_path, "f32")
    assert texts(header) == texts(before)
    kinds, kinds_before = (one.metadata["tokenizer.ggml.token_type"] for one in (header, before))
    assert kinds.tolist() == kinds_before.tolist()
    ours, theirs = (one.metadata["tokenizer.ggml.scores"] for one in (header, before))
    merged = [i for i, text in enumerate(pieces) if len(text) > 1 and kinds[i] == 1]
    assert sorted(merged, key=lambda i: -ours[i]) == sorted(merged, key=lambda i: -theirs[i])
    assert header.metadata["tokenizer.ggml.add_space_prefix"] is True
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True


def test_what_else_a_tokenizer_does_to_texts_is_told_by_keys_of_the_file(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "hub")
    assert tokenizer_rules(made(folder, tmp_path).metadata, ["<|endoftext|>"]) == TokenizerRules(), "of its own files"
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    written["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    written["added_tokens"][-1] |= {"lstrip": True, "rstrip": True}
    written["added_tokens"][-2]["rstrip"] = True  # a text's own token, which is none of a template's
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    header = made(folder, tmp_path, "f32")
    rules = tokenizer_rules(header.metadata, ["<|endoftext|>", "<pad>"])
    assert (rules.nfc, rules.lstrip, rules.rstrip) == (True, {"<|endoftext|>"}, {"<|endoftext|>"})
    assert rules.words == (
        "texts in NFC, as in its own files; 1 control tokens take in the blanks beside them, as in its own files"
    )


def test_a_sentencepiece_models_added_tokens_tell_which_blanks_are_theirs(tmp_path: Path) -> None:
    folder = chinese(tmp_path / "hub")
    decoder = {"691": {"content": "[PAD]", "special": True, "lstrip": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}), encoding="utf-8")
    rules = tokenizer_rules(made(folder, tmp_path).metadata, ["[PAD]", "<s>"])
    assert (rules.nfc, rules.lstrip, rules.rstrip) == (False, {"[PAD]"}, frozenset())


def test_a_text_that_two_ids_have_is_left_to_the_one_that_was_added(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "hub", QWEN2)
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    text = next(text for text, number in written["model"]["vocab"].items() if number == 300)
    written["added_tokens"].append({"id": 502, "content": text, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    config = hub_config(vocab_size=512)
    header = made(write_hub(folder, config, hub_arrays(config)), tmp_path)
    assert (texts(header)[300], texts(header)[502]) == ("[PAD300]", text)
    assert len(set(texts(header))) == 512


def test_a_token_as_long_as_a_book_is_read_at_once() -> None:
    book = "word" * 500_000
    written = {"model": {"type": "BPE", "byte_fallback": True, "vocab": {"w": 0, "o": 1, book: 2}, "merges": ["w o"]}}
    pieces, notes = byte_pairs.scored(byte_pairs.from_json(written), -10.0)
    assert (pieces[2], notes) == ((book, -10.0, 1), [])


def test_merges_that_leave_out_ways_to_put_a_token_together_are_noted() -> None:
    ids = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    for merges, foreign in ((["a b", "b c", "ab c"], 1), (["a b", "b c", "ab c", "a bc"], 0)):
        written = {"model": {"type": "BPE", "byte_fallback": True, "vocab": ids, "merges": merges}}
        _, notes = byte_pairs.scored(byte_pairs.from_json(written), -10.0)
        assert len(notes) == foreign
        assert all(note.startswith("1 tokens can be put together in more ways") for note in notes)
