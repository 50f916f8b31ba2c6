"""The backend as the rest of chatbridge meets it: found, configured, loaded in a worker, held to the contracts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chatbridge_glm.backend import build_info, glm, load
from chatbridge_glm.local_model import GlmModel
from chatbridge_glm.options import GlmOptions

from chatbridge import DiskCache, LocalModel, Plugins
from chatbridge.testing import EngineContract, LocalModelContract, worker_with

from .conftest import Load, folder_of, opened, options_for
from .made_up import write_chatglm

NFKC = "its normaliser writes full-width signs as ASCII, as the original's does"
LOSSLESS = ("Hello!", "How are you today?", "  two blanks before, a tab\tand a line\nbreak  ", "a" * 200)


class TestEngine(EngineContract):
    @pytest.fixture
    def model(self, made_up: LocalModel) -> LocalModel:
        return made_up


class TestModel(LocalModelContract):
    @pytest.fixture
    def model(self, tmp_path: Path) -> LocalModel:
        return opened(write_chatglm(tmp_path / "model", max_sequence_length=512))

    @pytest.mark.xfail(reason=NFKC, strict=False)
    @pytest.mark.parametrize("text", ["你好，今天天气怎么样？", "naïve café — “quotes” … 🙂👩‍👩‍👧"])
    def test_text_survives_its_tokens(self, model: LocalModel, text: str) -> None:
        super().test_text_survives_its_tokens(model, text)

    @pytest.mark.parametrize("text", LOSSLESS)
    def test_plain_text_survives_its_tokens(self, model: LocalModel, text: str) -> None:
        super().test_text_survives_its_tokens(model, text)


class TestPackedModel(LocalModelContract):
    @pytest.fixture
    def model(self, tmp_path: Path) -> LocalModel:
        own = json.loads((folder_of() / "config.json").read_text(encoding="utf-8"))
        sizes = {"layers": own["num_layers"], "hidden": own["hidden_size"], "inner": own["inner_hidden_size"]}
        heads = own["num_attention_heads"]
        folder = write_chatglm(tmp_path / "m", bits=4, **sizes, num_attention_heads=heads, max_sequence_length=512)
        return opened(folder, prefix=folder_of(prefix=True))

    @pytest.mark.xfail(reason=NFKC, strict=False)
    def test_text_survives_its_tokens(self, model: LocalModel) -> None:  # type: ignore[override]
        super().test_text_survives_its_tokens(model, "你好，今天天气怎么样？")


async def test_a_worker_tells_what_is_really_in_use() -> None:
    options = options_for(folder_of(bits=8), context_length=64, adapters={"law": {"prefix": folder_of(prefix=True)}})
    async with worker_with(glm, options) as backend:
        info = backend.info
    assert (info.architecture, info.bos, info.can_trim) == ("ChatGLM-6B", None, True)
    assert (info.context_length, info.bidirectional_until) == (64, info.specials["<sop>"])
    assert info.eos == (info.specials["<eop>"],)
    assert info.sampling is not None
    assert (info.sampling.temperature, info.sampling.top_p, info.sampling.top_k) == (0.95, 0.7, 50)
    assert list(info.adapters) == ["law"]
    details = info.details
    assert details["folder"] == str(folder_of(bits=8))
    assert details["quantization"] == "int8, as the files have them"
    assert details["products"] == "fp32 by rows unpacked as they are needed"
    assert details["memory"].startswith("layers 1 to ")
    assert details["prefixes"].startswith("law of ")
    assert details["threads"] == "1"


def test_it_is_found_without_importing_the_library() -> None:
    assert Plugins().backends["glm"] is glm
    heavy = {"numpy", "torch", "safetensors"}
    code = f"import sys, chatbridge_glm as glm; glm.register_backends(); print({heavy} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"


def test_loading_tells_how_far_it_is() -> None:
    told: list[tuple[float, str]] = []
    load(options_for(folder_of()), lambda share, doing: told.append((share, doing))).close()
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert any("reading weights: " in doing and " of " in doing for _, doing in told)


def test_the_doctor_is_told_of_the_engine() -> None:
    assert {"torch", "cards", "threads"} < set(build_info())


def test_fingerprints_tell_what_changes_a_state(tmp_path: Path, model_of: Load) -> None:
    copy = tmp_path / "another-name"
    copy.mkdir()
    for file in folder_of().iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    same = {model_of(path).info.fingerprint for path in (folder_of(), copy)}
    assert len(same) == 1
    others = {
        model_of(folder_of(), dtype="bf16").info.fingerprint,
        model_of(folder_of(), quantization="int8").info.fingerprint,
        model_of(folder_of(), quantization="int4").info.fingerprint,
        model_of(folder_of(), cache_dtype="fp16").info.fingerprint,
        model_of(folder_of(), prefix=folder_of(prefix=True)).info.fingerprint,
        model_of(write_chatglm(tmp_path / "other")).info.fingerprint,
    }
    assert len(others | same) == 7


def test_channels_have_their_own_prefixes(model_of: Load) -> None:
    prefix = folder_of(prefix=True)
    model = model_of(folder_of(), adapters={"law": {"prefix": prefix}})
    alone = model_of(folder_of(), prefix=prefix)
    ids = [*model.tokenizer.encode("hello", start=True), model.tokenizer.special("[gMASK]") or 0]
    ids.append(model.info.bidirectional_until or 0)

    def scores(one: GlmModel, adapter: str) -> list[float]:
        return [float(score) for score in one.logits(one.new_state(adapter=adapter), ids)[-1]]

    assert scores(model, "law") == pytest.approx(scores(alone, ""), abs=1e-4)
    assert scores(model, "") != pytest.approx(scores(alone, ""), abs=1e-1)


def test_states_are_kept_beside_bots_yaml_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    for written, folder in (({}, tmp_path / "glm-states"), ({"keep_states": "x"}, tmp_path / "x")):
        options = GlmOptions.model_validate({"path": "m", **written}, context={"base": tmp_path})
        assert options.path == tmp_path / "m"
        kept = DiskCache.from_options(options, "mark")
        assert kept is not None
        assert kept.folder == folder
        assert "keep_states" in options.model_fields_set, "the worker would not be told"


def test_a_closed_model_serves_nobody() -> None:
    model = opened(folder_of())
    state = model.new_state()
    model.close()
    with pytest.raises(ValueError, match="the model was closed"):
        model.logits(state, [model.info.bidirectional_until or 0])
