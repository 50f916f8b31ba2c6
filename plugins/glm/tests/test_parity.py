"""What ChatGLM-6B's own code computed, recorded once, against what we compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chatbridge_glm import checkpoint, files, quantization
from chatbridge_glm import model as arithmetic
from chatbridge_glm.local_model import GlmModel
from chatbridge_glm.model import Pass
from chatbridge_glm.quantization import Packed
from chatbridge_glm.rotary import Rotary, mask_position, position_ids
from chatbridge_glm.sampler import GlmSampler, guarded
from chatbridge_glm.state import GlmState

from chatbridge import Sampling, Special, Tokens
from chatbridge.testing import engine_on, finish_all, requests_for

from .conftest import TOKENIZER, Arrays, Load, arrays, folder_of, near, recorded

REFERENCE, QUANTISED = arrays("reference.npz"), arrays("quant_reference.npz")
RECORD = recorded("reference.json")
CONFIG = checkpoint.read(folder_of(), tokenizer=TOKENIZER).config
PREFILLS = sorted(name.removesuffix(".logits") for name in REFERENCE if f"{name[:-7]}.position_ids" in REFERENCE)
PAD = recorded("tokenizer_cases.json")["special_ids"]["<pad>"]
PACKED = {"int8": {"bits": 8}, "int4": {"bits": 4}, "int4qe": {"bits": 4, "embeddings": True}}


def ids_of(name: str, found: Arrays = REFERENCE) -> list[int]:
    return [int(token) for token in found[f"{name}.input_ids"].ravel()]


def greedy(model: GlmModel, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The likeliest ids after each prompt, all prompts together, by the engine."""
    asked = [
        (Tokens(tuple(ids[:-2])), Special("[gMASK]"), Special("<sop>")) for ids in prompts
    ]  # no text becomes a control token, and no answer's ids do
    ended = finish_all(engine_on(model), requests_for(asked, count))
    return [list(ended[str(number)].reply.tokens) for number in range(len(prompts))]


@pytest.mark.parametrize("name", [name for name in PREFILLS if REFERENCE[f"{name}.input_ids"].shape[0] == 1])
@pytest.mark.parametrize("piece", [64, 5])
def test_logits_of_a_prompt(chatglm: GlmModel, name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatglm, "_piece", piece)
    if f"{name}.logits" in REFERENCE:
        near(chatglm.logits(chatglm.new_state(), ids_of(name)), REFERENCE[f"{name}.logits"][0])


def test_each_detail_of_a_layer(chatglm: GlmModel, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in PREFILLS if f"{name}.hidden_states" in REFERENCE)
    ids, model = ids_of(name), chatglm._model
    assert model is not None
    attended: list[tuple[Any, Any]] = []
    attend = arithmetic.attend

    def noting(queries: Any, keys: Any, values: Any, *, causal: bool) -> Any:
        attended.append((queries.transpose(0, 1), keys))
        return attend(queries, keys, values, causal=causal)

    monkeypatch.setattr(arithmetic, "attend", noting)
    state = chatglm.new_state()
    with torch.inference_mode():
        run = chatglm._pass([(state, ids)])
        hidden = [run.hidden.clone()]
        layers = 2 * CONFIG.layers
        for at in range(layers):
            run.advance()
            if at % 2:
                hidden.append(run.hidden.clone())
        out = model.final_layernorm(run.hidden, CONFIG.layernorm_epsilon)
    wanted = REFERENCE[f"{name}.hidden_states"]
    for found, expected in zip(hidden, wanted[:, 0], strict=False):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(out.numpy(), REFERENCE[f"{name}.final_layernorm_out"][0], rtol=1e-4, atol=2e-4)
    cached = REFERENCE[f"{name}.past_key_values"]
    for number in range(CONFIG.layers):
        for found, expected in zip((state.keys[number], state.values[number]), cached[number], strict=True):
            np.testing.assert_allclose(found[:, : len(ids)].transpose(0, 1), expected[:, 0], rtol=1e-4, atol=2e-4)
    # Attention: what stands before <sop> sees itself, and <sop> all.
    weights = REFERENCE[f"{name}.attentions"]
    context = ids.index(CONFIG.sop)
    for number in range(CONFIG.layers):
        (before, keys), (last, all_keys) = attended[2 * number : 2 * number + 2]
        for queries, seen, rows in ((before, keys, slice(0, context)), (last, all_keys, slice(context, None))):
            scores = (queries @ seen.transpose(1, 2) / CONFIG.head_size**0.5).softmax(-1)
            expected = weights[number][:, rows, : seen.shape[1]]
            np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)


def test_one_token_at_a_time_is_as_all_at_once(chatglm: GlmModel) -> None:
    state, found = chatglm.new_state(), []
    steps = sorted({name.split(".")[1] for name in REFERENCE if name.startswith("decode.") and name[7].isdigit()})
    for step in steps:
        logits = chatglm.logits(state, ids_of(f"decode.{step}"))
        near(logits[-1:], REFERENCE[f"decode.{step}.last_logits"])
        found.append(logits)
    full = REFERENCE["decode.full_logits"][0]
    near(np.concatenate(found)[: len(full)], full)
    every = [int(token) for token in REFERENCE["decode.all_ids"][0]]
    near(chatglm.logits(chatglm.new_state(), every[: len(full)]), full)


def test_padded_conversations_are_computed_without_their_padding(chatglm: GlmModel) -> None:
    for ids, logits in zip(REFERENCE["batch.input_ids"], REFERENCE["batch.logits"], strict=True):
        pad = int(np.argmax(ids != chatglm.tokenizer.special("<pad>")))
        near(chatglm.logits(chatglm.new_state(), ids[pad:].tolist()), logits[pad:])


def test_the_loss_of_a_text(chatglm: GlmModel) -> None:
    logits = chatglm.logits(chatglm.new_state(), ids_of("loss"))
    near(logits, REFERENCE["loss.logits"][0])
    labels = torch.from_numpy(REFERENCE["loss.labels"][0])
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits)[:-1], labels[1:], ignore_index=-100)
    assert float(loss) == pytest.approx(float(REFERENCE["loss.loss"]), abs=1e-4)


@pytest.mark.parametrize("name", PREFILLS)
def test_positions(name: str) -> None:
    for ids, expected in zip(REFERENCE[f"{name}.input_ids"], REFERENCE[f"{name}.position_ids"], strict=True):
        pad = int(np.argmax(ids != PAD))
        tokens = ids[pad:].tolist()
        if CONFIG.sop not in tokens:
            continue  # a step behind a prompt
        context = tokens.index(CONFIG.sop)
        found = position_ids(CONFIG, 0, len(tokens), context, mask_position(CONFIG, tokens[:context]))
        assert found.tolist() == expected[:, pad:].tolist()


def test_the_angles_are_rounded_as_the_original_rounds_them() -> None:
    assert np.array_equal(Rotary(CONFIG).inv_freq.numpy(), REFERENCE["rotary.inv_freq"])
    assert not np.array_equal(Rotary(CONFIG).inv_freq.numpy(), REFERENCE["rotary.inv_freq_unrounded"])


@pytest.mark.parametrize("name", sorted(name.removesuffix(".scores") for name in REFERENCE if name.endswith(".scores")))
def test_greedy_answers(chatglm: GlmModel, name: str) -> None:
    sequence = [int(token) for token in REFERENCE[f"{name}.sequences"][0]]
    new = RECORD[name]["new_tokens"]
    prompt = sequence[: len(sequence) - len(new)]
    found = greedy(chatglm, [prompt], len(new))[0]
    assert found == [token for token in new if token not in chatglm.info.eos]
    state = chatglm.new_state()
    logits = [chatglm.logits(state, prompt)[-1], *(chatglm.logits(state, [token])[0] for token in new[:-1])]
    near(np.stack(logits), REFERENCE[f"{name}.scores"])
    shown = chatglm.tokenizer.decode(found).decode("utf-8", "replace").strip()
    assert shown == RECORD[name].get("chat", RECORD[name].get("decoded", "")).strip()


def test_greedy_answers_together(chatglm: GlmModel) -> None:
    sequences = REFERENCE["greedy_batch.sequences"]
    pad = chatglm.tokenizer.special("<pad>")
    prompts = [[int(t) for t in row[: row.tolist().index(CONFIG.sop) + 1] if t != pad] for row in sequences]
    expected = [row[row.tolist().index(CONFIG.sop) + 1 :].tolist() for row in sequences]
    assert greedy(chatglm, prompts, len(expected[0])) == expected


@pytest.mark.parametrize("number", range(len(RECORD["chat"])))
def test_whole_chats(chatglm: GlmModel, number: int) -> None:
    chat = RECORD["chat"][number]
    ids = chat["input_ids"]
    state = chatglm.new_state()
    found = [int(chatglm.logits(state, ids)[-1].argmax())]
    sure = chat["tokens_before_first_margin_below_0.01"]
    for token in chat["new_tokens"][: sure - 1]:
        found.append(int(chatglm.logits(state, [token])[0].argmax()))
    assert found == chat["new_tokens"][:sure]


# --- packed weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", PACKED)
def test_packed_weights(form: str, model_of: Load) -> None:
    model = model_of(folder_of(**PACKED[form]))
    near(model.logits(model.new_state(), ids_of("prefill_zh")), QUANTISED[f"{form}.logits_zh"][0])
    if f"{form}.logits_en_last" in QUANTISED:
        near(model.logits(model.new_state(), ids_of("prefill_en"))[-1:], QUANTISED[f"{form}.logits_en_last"])
    if f"{form}.greedy_zh" in QUANTISED:
        prompt = ids_of("prefill_zh")
        expected = QUANTISED[f"{form}.greedy_zh"][0].tolist()[len(prompt) :]
        assert greedy(model, [prompt], len(expected))[0] == expected


@pytest.mark.parametrize("form", PACKED)
def test_unpacked_matrices_are_exact(form: str) -> None:
    about = checkpoint.read(folder_of(**PACKED[form]), tokenizer=TOKENIZER)
    names = [name for name in QUANTISED if name.startswith(f"{form}.dequant.")]
    assert names
    for name in names:
        key, rows = name.removeprefix(f"{form}.dequant."), slice(None)
        if key.startswith("word_embeddings_rows"):
            rows = slice(*map(int, key.split("_")[-2:]))
            key = f"{checkpoint.EMBEDDING}.weight"
        opened = about.files[0].open()
        packed = Packed(opened.tensor(key), opened.tensor(f"{key}_scale"), PACKED[form]["bits"])
        assert np.array_equal(quantization.unpack(packed, torch.float32, rows).numpy(), QUANTISED[name])


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_packing_gives_the_published_bytes(form: str, model_of: Load) -> None:
    bits = PACKED[form]["bits"]
    published = checkpoint.read(folder_of(bits=bits), tokenizer=TOKENIZER).files[0].open()
    for file in checkpoint.read(folder_of(), tokenizer=TOKENIZER).files:
        opened = file.open()
        for name in file.tensors:
            if name.removesuffix(".weight").endswith(checkpoint.MATRICES):
                packed = quantization.quantize(opened.tensor(name), bits)
                assert torch.equal(packed.weight, published.tensor(name))
                assert torch.equal(packed.scale, published.tensor(f"{name}_scale"))
    model = model_of(folder_of(), quantization=form)
    near(model.logits(model.new_state(), ids_of("prefill_zh")), QUANTISED[f"{form}.logits_zh"][0])
    assert "packed here" in model.info.details["quantization"]


def test_two_weights_share_a_byte_as_recorded() -> None:
    example = recorded("quant_reference.json")["packing_example"]
    packed = Packed(torch.tensor(example["packed_int8"], dtype=torch.int8), torch.ones(1), 4)
    assert quantization.unpack(packed, torch.float32).tolist() == example["int4_values"]


# --- prefixes, types, sampling ---------------------------------------------------------------------------------------


def test_a_prefix(model_of: Load) -> None:
    model = model_of(folder_of(), prefix=folder_of(prefix=True))
    ids = ids_of("ptuning")
    state = model.new_state()
    near(model.logits(state, ids), REFERENCE["ptuning.logits"][0])
    tokens, _, heads, size = REFERENCE["ptuning.past_shape"].tolist()
    assert (state.before + state.length, *state.keys[0].shape[::2]) == (tokens, heads, size)
    sequence = REFERENCE["ptuning.greedy"][0].tolist()
    assert sequence[: len(ids)] == ids
    expected = [token for token in sequence[len(ids) :] if token not in model.info.eos]
    assert greedy(model, [ids], len(sequence) - len(ids))[0] == expected


def test_half_precision(model_of: Load) -> None:
    model = model_of(folder_of(), dtype="fp16")
    found = model.logits(model.new_state(), ids_of("prefill_zh"))
    np.testing.assert_allclose(found, REFERENCE["fp16.logits"][0].astype(np.float32), rtol=0, atol=0.3)


def test_the_kernels_of_torch_are_as_near_as_their_type(model_of: Load) -> None:
    for form in ("int8", "int4"):
        exact = model_of(folder_of(**PACKED[form]))
        fast = model_of(folder_of(**PACKED[form]), dtype="bf16")
        assert ("kernels" in fast.info.details["products"]) == quantization.kernel_works(PACKED[form]["bits"])
        ids = ids_of("prefill_zh")
        expected = exact.logits(exact.new_state(), ids)
        found = fast.logits(fast.new_state(), ids)
        assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).max()


def test_the_temperature_comes_first() -> None:
    words = RECORD["sampling"]
    assert words["warpers_in_order"][0] == "TemperatureLogitsWarper"
    chosen = {name: words[name] for name in ("temperature", "top_k", "top_p")}
    sampler = GlmSampler(Sampling.model_validate({**chosen, "min_p": 0}))
    ids, chances = sampler.probabilities(REFERENCE["sampling.logits"][0])
    found = np.zeros(REFERENCE["sampling.probs"].shape[1])
    found[ids] = chances
    np.testing.assert_allclose(found, REFERENCE["sampling.probs"][0], rtol=1e-4, atol=1e-6)


def test_scores_that_are_no_numbers_give_a_blank() -> None:
    assert np.array_equal(guarded(REFERENCE["sampling.nan_input"][0]), REFERENCE["sampling.nan_output"][0])
    assert GlmSampler(Sampling(temperature=1)).sample(REFERENCE["sampling.nan_input"][0]) == 5


def test_the_residual_is_weighed_as_by_the_original(chatglm: GlmModel) -> None:
    found = chatglm.logits(chatglm.new_state(), ids_of("prefill_zh"))
    assert np.abs(found - REFERENCE["alpha_from_config.logits"][0]).max() > 1


def test_a_folder_of_safetensors_is_the_same(tmp_path: Path, model_of: Load) -> None:
    from safetensors.torch import save_file

    source = folder_of()
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    for number, path in enumerate(files.data_files(source)):
        tensors = torch.load(path, weights_only=True)
        save_file({name: one.clone() for name, one in tensors.items()}, tmp_path / f"model-{number}.safetensors")
    model = model_of(tmp_path)
    near(model.logits(model.new_state(), ids_of("prefill_zh")), REFERENCE["prefill_zh.logits"][0])


def test_passes_of_several_conversations(chatglm: GlmModel) -> None:
    names = ("prefill_en", "prefill_zh")
    states: list[GlmState] = [chatglm.new_state() for _ in names]
    with torch.inference_mode():
        run: Pass = chatglm._pass([(state, ids_of(name)) for state, name in zip(states, names, strict=True)])
        while run.advance():
            pass
        logits = chatglm._scores([run.last(number) for number in range(len(names))])
    for found, name in zip(logits, names, strict=True):
        near(found, REFERENCE[f"{name}.logits"][0][-1])
