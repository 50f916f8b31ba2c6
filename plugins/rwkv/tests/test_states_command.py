"""`chatbridge states`: what is kept is listed, taken out, and put in for another strategy of the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_rwkv import package
from chatbridge_rwkv.cli import states
from click.testing import CliRunner, Result

from chatbridge import ChatbridgeError, Request, Sampling, Text
from chatbridge.engine.engine import Engine
from chatbridge.testing import finish_all

from .conftest import TOKENIZER, V4, V7, Load, opened

STORY = "Once upon a time there was a bridge. " * 4 + "A fox went over it every day to see the kettle."


def bots(folder: Path, **models: str) -> Path:
    file = folder / "bots.yaml"
    lines = [
        f"  {name}: {{backend: rwkv, tokenizer: {TOKENIZER}, threads: 1, {text}}}" for name, text in models.items()
    ]
    file.write_text("\n".join(["models:", *lines, ""]))
    return file


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(states, ["-c", str(config), *arguments], catch_exceptions=False)


def kept(path: Path, folder: Path, **options: Any) -> str:
    """Have a model read the story and put its state away; what it said."""
    model = opened(path, keep_states=folder / "rwkv-states", **options)
    engine = Engine(model)
    request = Request((Text(STORY),), id="r", sampling=Sampling(temperature=0, max_tokens=5))
    said = finish_all(engine, [request])["r"].reply.text
    engine.close()
    return said


def test_states_are_listed_by_model_with_the_end_of_their_text(tmp_path: Path) -> None:
    config = bots(tmp_path, four=f"path: {V4}", seven=f"path: {V7}", off=f"path: {V7}, keep_states: false")
    assert "no states are kept yet" in run(config).output
    kept(V4, tmp_path)
    kept(V7, tmp_path)
    folder, *lines = run(config).output.splitlines()
    assert folder == str(tmp_path / "rwkv-states")
    assert {line.split()[1] for line in lines} == {"four", "seven"}
    assert all("tokens" in line and "KiB" in line for line in lines)
    assert any("the kettle" in line for line in lines)


def test_a_state_is_taken_out_and_the_package_goes_on_from_it(tmp_path: Path) -> None:
    kept(V4, tmp_path)
    config = bots(tmp_path, four=f"path: {V4}")
    id = run(config).output.splitlines()[1].split()[0]
    told = run(config, "export", id[:8], str(tmp_path / "story.pth"))
    assert told.output.startswith(f"{tmp_path / 'story.pth'}: ")
    found = torch.load(tmp_path / "story.pth")
    module = package.module(package.Switches(v7=False, jit=False))
    with package.quiet():
        model = module.RWKV(str(V4), "cpu fp32", verbose=False)
    expected, _ = model.forward([*found["tokens"], 5], None)
    logits, _ = model.forward([5], found["state"])
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-4)


def test_a_state_is_put_in_for_another_strategy(tmp_path: Path, model_of: Load) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    kept(V7, there)
    source = bots(there, seven=f"path: {V7}")
    # The longest is the one after the answer, the other that before the last token of the prompt.
    id = max(run(source).output.splitlines()[1:], key=lambda line: int(line.split()[2])).split()[0]
    run(source, "export", id, str(tmp_path / "story.pth"))
    target = bots(here, other=f"path: {V7}, strategy: cpu bf16")
    told = run(target, "import", str(tmp_path / "story.pth"))
    assert "for other; a program that runs already sees them when it restarts" in told.output
    tokens = torch.load(tmp_path / "story.pth")["tokens"]
    model = model_of(V7, strategy="cpu bf16", keep_states=here / "rwkv-states")
    assert model.disk_cache is not None
    found, length = model.disk_cache.longest([*tokens, 7], whole=True)
    assert length == len(tokens)
    assert found is not None
    assert model.new_state(model.disk_cache.read(found)).length == len(tokens)


def test_what_can_not_be_done_is_told(tmp_path: Path) -> None:
    config = bots(tmp_path, four=f"path: {V4}", seven=f"path: {V7}")
    kept(V4, tmp_path)
    id = run(config).output.splitlines()[1].split()[0]
    run(config, "export", id, str(tmp_path / "story.pth"))
    torch.save({"state": []}, tmp_path / "other.pth")
    short = torch.load(tmp_path / "story.pth")
    torch.save({**short, "tokens": [5, 6]}, tmp_path / "short.pth")
    torch.save({**short, "vocabulary": "another"}, tmp_path / "vocabulary.pth")
    torch.save({**short, "adapter": "another"}, tmp_path / "adapter.pth")
    for arguments, why in (
        (("export", "nothing", "x.pth"), "0 states have an id"),
        (("import", str(tmp_path / "absent.pth")), "there is no such file"),
        (("import", str(tmp_path / "other.pth")), "did not write this"),
        (("import", str(tmp_path / "story.pth")), "say which model by --model: four, seven"),
        (("import", str(tmp_path / "story.pth"), "-m", "seven"), "no state of seven"),
        (("import", str(tmp_path / "short.pth"), "-m", "four"), "too few to be kept"),
        (("import", str(tmp_path / "vocabulary.pth"), "-m", "four"), "another vocabulary"),
        (("import", str(tmp_path / "adapter.pth"), "-m", "four"), "an adapter that four does not have"),
    ):
        with pytest.raises(ChatbridgeError, match=why):
            run(config, *arguments)
