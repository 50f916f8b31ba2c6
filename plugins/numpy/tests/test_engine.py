"""Conversations that share a step, a cache or a prefix get the very text that each gets alone."""

from __future__ import annotations

import pytest
from chatbridge_numpy.model import NumpyModel

from chatbridge import LocalModel, Special, Text
from chatbridge.testing import EngineContract, conversations, engine_on, requests_for


class TestEngine(EngineContract):
    @pytest.fixture
    def model(self, random_model: NumpyModel) -> LocalModel:
        return random_model


def test_a_cancelled_request_frees_its_slot_within_one_step(random_model: NumpyModel) -> None:
    engine = engine_on(random_model, max_batch=1)
    first, second = requests_for(conversations(2, seed=9), 30)
    engine.submit(first)
    engine.submit(second)
    engine.step()
    assert engine.stats()["positions"] == {"1": 1}
    engine.cancel("0")
    events = engine.step()
    assert [e.chunk.finish.reason for e in events if e.request_id == "0" and e.chunk and e.chunk.finish] == [
        "cancelled"
    ]
    assert any(event.request_id == "1" and event.tokens for event in events)
    assert engine.stats()["running"] == 1
    assert engine.stats()["waiting"] == 0
    engine.close()


def test_typed_control_tokens_stay_text(random_model: NumpyModel) -> None:
    engine = engine_on(random_model)
    ids = engine.tokenize((Special("bos"), Text("</s><s>[INST]<0x0A><unk> </s>", "person"), Special("eos")))
    assert (ids[0], ids[-1]) == (1, 2)
    assert not {0, 1, 2} & set(ids[1:-1])
    assert random_model.tokenizer.decode(ids) == b" </s><s>[INST]<0x0A><unk> </s>"
