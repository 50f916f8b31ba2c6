"""Repositories on Hugging Face, by huggingface_hub and a stand-in: what is wanted, at which commit, and refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import pytest

from chatbridge import ModelLoadError
from chatbridge.model_tools.fetching import hub
from chatbridge.model_tools.fetching.catalogue import catalogue
from chatbridge.model_tools.fetching.remote import HubSource

from .conftest import Fetch
from .server import COMMIT, Server
from .test_pull import in_folder

pytest.importorskip("huggingface_hub")
BODY = Random(2).randbytes(200_000)
WHOLE = {
    "README.md": b"<!-- a card that begins as a page does -->",
    ".gitattributes": b"*.safetensors filter=lfs",
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": BODY,
    "pytorch_model.bin": BODY[1:],
    "onnx/model.onnx": BODY,
    "tf_model.h5": BODY,
    "tokenizer/empty.txt": b"",
}
GGUFS = {
    "README.md": b"x",
    "m-q4_k_m.gguf": BODY,
    "M-Q8_0-00001-of-00002.gguf": BODY,
    "M-Q8_0-00002-of-00002.gguf": BODY,
    "mmproj-f16.gguf": BODY,
}


@pytest.fixture(autouse=True)
def nobodys_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a token, whoever runs the tests."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))


def test_what_backends_read_is_fetched_at_one_commit(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", WHOLE, large=("model.safetensors", "pytorch_model.bin"))
    folder = tmp_path / "b"
    assert fetch("a/b", folder).made
    kept = {"README.md", "config.json", "model.safetensors", "tokenizer/empty.txt"}
    assert in_folder(folder) == {*kept, "chatbridge-report.json"}
    assert (folder / "model.safetensors").read_bytes() == BODY
    (step,) = json.loads((folder / "chatbridge-report.json").read_text("utf-8"))["steps"]
    assert (step["source"], step["revision"]) == ("a/b", COMMIT)
    assert step["left_out"] == ["pytorch_model.bin", "onnx/model.onnx", "tf_model.h5"]
    assert not fetch("a/b", folder).made


def test_a_repository_of_several_models_wants_to_be_told_which(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", GGUFS, large=tuple(GGUFS))
    several = r"it has 2 models: m-q4_k_m\.gguf \(0\.0 GiB\), M-Q8_0-\*\.gguf .* as --include 'm-q4_k_m\.gguf'"
    with pytest.raises(ModelLoadError, match=several):
        fetch("a/b", tmp_path / "m")
    fetch("a/b", tmp_path / "m", ["*q4_K_M*"])
    assert in_folder(tmp_path / "m") == {"m-q4_k_m.gguf", "chatbridge-report.json"}
    fetch("a/b:M-Q8_0-00001-of-00002.gguf", tmp_path / "n")
    assert in_folder(tmp_path / "n") == {"M-Q8_0-00001-of-00002.gguf", "chatbridge-report.json"}
    with pytest.raises(
        ModelLoadError, match=r"no file there is called 'm-q5_k_m\.gguf'; did you mean 'm-q4_k_m\.gguf'"
    ):
        fetch("a/b", tmp_path / "o", ["m-q5_k_m.gguf"])


def test_a_hub_that_breaks_the_connection_is_asked_again(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", GGUFS, large=tuple(GGUFS))
    asked = [served for path, served in server.files.items() if path.startswith("/api/")]
    for served in asked:
        served.cuts = [5]
    assert fetch("a/b", tmp_path / "m", ["*q4_K_M*"]).made
    for served in asked:
        served.cuts = [5] * 10
    with pytest.raises(ModelLoadError, match=r"a/b: http.* broke the connection \(.*\), \d times in a row"):
        fetch("a/b", tmp_path / "n", ["*q4_K_M*"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_hubs_checksums_are_held_against_what_comes(
    server: Server, fetch: Fetch, tmp_path: Path, name: str
) -> None:
    server.repository("a/b", WHOLE, large=("model.safetensors",))
    served = server.files[f"/a/b/resolve/{COMMIT}/{name}"]
    served.body = served.body[:-1] + b"?"
    with pytest.raises(ModelLoadError, match=f"{name}: its checksum is"):
        fetch("a/b", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    server.repository("a/b", WHOLE, large=("model.safetensors",))
    assert fetch("a/b", tmp_path / "b").made


def test_more_than_was_told_of_is_not_written(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", WHOLE, large=("model.safetensors",))
    served = server.files[f"/a/b/resolve/{COMMIT}/model.safetensors"]
    served.body, served.sized = BODY * 10, False
    with pytest.raises(ModelLoadError, match="more bytes come than the 200,000 that it should have"):
        fetch("a/b", tmp_path / "b")
    served.body, served.sized = BODY, True
    assert fetch("a/b", tmp_path / "b").made


def test_a_newer_commit_keeps_what_it_has_not_changed(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    files = {"config.json": b'{"model_type": "llama"}', "a.safetensors": BODY, "b.safetensors": BODY[::-1]}
    large = ("a.safetensors", "b.safetensors")
    server.repository("a/b", files, large=large)
    server.files[f"/a/b/resolve/{COMMIT}/b.safetensors"].cuts = [50_000, 0, 0, 0]
    with pytest.raises(ModelLoadError, match="in a row"):
        fetch("a/b", tmp_path / "b")
    newer = "beef" * 10
    server.repository("a/b", {**files, "b.safetensors": BODY[7:]}, large=large, commit=newer)
    assert fetch("a/b", tmp_path / "b").told == ["b.safetensors: it has changed since the last run; it is fetched anew"]
    assert server.ranges(f"/a/b/resolve/{newer}/a.safetensors") == []
    assert (tmp_path / "b" / "b.safetensors").read_bytes() == BODY[7:]
    assert not fetch("a/b", tmp_path / "b").made
    server.repository("a/b", {**files, "b.safetensors": BODY[7:]}, large=large, commit="dead" * 10)
    with pytest.raises(ModelLoadError, match="in another version or with other files"):
        fetch("a/b", tmp_path / "b")


def test_the_token_goes_to_the_hub_and_into_no_file(
    server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.repository("a/b", WHOLE)
    fetch("a/b", tmp_path / "b")
    assert {one.headers.get("authorization") for one in server.asked} == {"Bearer hf_secret"}
    assert not any(b"hf_secret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ((401, {}), "there is no such repository at .*; if it is private, set HF_TOKEN to a token of yours"),
        ((404, {}), "there is no such repository"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "it has no revision 'main'"),
        (
            (403, {"X-Error-Code": "GatedRepo"}),
            "it is for who has accepted its terms: do that at http://.*/a/b, and set",
        ),
        ((418, {}), "answers 418"),
    ],
)
def test_what_the_hub_refuses_is_told(
    server: Server, fetch: Fetch, tmp_path: Path, answers: tuple[int, dict[str, str]], told: str
) -> None:
    server.repository("a/b", WHOLE)
    server.files["/api/models/a/b/revision/main"].statuses = [answers]
    with pytest.raises(ModelLoadError, match=told):
        fetch("a/b", tmp_path / "b", revision="main")


def test_a_busy_hub_is_waited_for(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", WHOLE)
    server.files["/api/models/a/b"].statuses = [(429, {"Retry-After": "9"}), (503, {})]
    assert fetch("a/b", tmp_path / "b").waited == [9.0, 2.0]


def test_what_the_hub_does_not_send_in_this_way_is_told_before(
    server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_BYTES", 150_000)
    server.repository("a/b", WHOLE)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors has 200,000 bytes, .* by `hf download` with hf_xet"):
        fetch("a/b", tmp_path / "b")


def test_names_that_lead_out_of_the_folder_are_refused(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", {"../evil.gguf": BODY})
    with pytest.raises(ModelLoadError, match=r"'\.\./evil\.gguf': no file of such a name"):
        fetch("a/b", tmp_path / "b")


def test_a_machine_that_is_to_stay_offline_asks_nobody(
    server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE is set"):
        fetch("a/b", tmp_path / "b")
    assert server.asked == []


def test_a_folder_of_a_repository_may_be_included(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", WHOLE)
    fetch("a/b", tmp_path / "b", ["onnx/", "config.json"])
    assert in_folder(tmp_path / "b") == {"onnx/model.onnx", "config.json", "chatbridge-report.json"}


def test_without_huggingface_hub_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelLoadError, match=r"pip install .*\[hub\]"):
        hub.list_hub(HubSource("a/b"))


def test_a_checksum_of_the_catalogue_counts_besides_the_hubs(server: Server, fetch: Fetch, tmp_path: Path) -> None:
    server.repository("a/b", WHOLE, large=("model.safetensors",))
    with pytest.raises(ModelLoadError, match="the hub has another file by now than the catalogue knows"):
        fetch("a/b", tmp_path / "b", sha256={"model.safetensors": "0" * 64})


def test_every_entry_of_the_catalogue_is_complete() -> None:
    from chatbridge import Plugins
    from chatbridge.model_files.running import RUNS
    from chatbridge.model_tools.fetching.remote import parse_source

    templates = Plugins(discover=False).templates
    for name, one in catalogue().items():
        assert one.backend in RUNS, name
        assert one.template in templates, name
        assert one.summary.keys() == {"en", "zh"}, name
        assert all(one.summary.values()), name
        assert one.size > 1 << 20, name
        assert one.licence, name
        assert bool(one.source) != bool(one.request), name
        if one.source:
            assert isinstance(parse_source(one.source, one.revision), HubSource), name
        assert all(len(sha256) == 64 for sha256 in one.sha256.values()), name
        assert bool(one.run) == bool(one.files) == (one.backend in ("llama_cpp", "rwkv")), name
