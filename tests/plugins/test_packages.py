"""What installs our packages, wherever chatbridge and its Python lie; and who has put another one in place of ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from chatbridge.cli.doctor import _own_package
from chatbridge.plugins import packages
from chatbridge.plugins.packages import install_command, install_extra

ROOT = Path(packages.__file__).parents[2]
CLONE = pytest.mark.skipif(not (ROOT / "plugins").is_dir(), reason="chatbridge is not run from its source")


@pytest.fixture
def activated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)


@CLONE
@pytest.mark.usefixtures("activated")
def test_a_plugin_of_ours_is_installed_from_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("backend", "glm") == "pip install plugins/glm"
    assert install_extra("hub") == "pip install '.[hub]'"
    monkeypatch.chdir(ROOT / "tests")
    assert install_command("frontend", "discord") == "pip install ../plugins/discord"
    monkeypatch.chdir(tmp_path)
    assert install_command("backend", "llama_cpp") == f"pip install {ROOT / 'plugins' / 'llama_cpp'}"
    assert install_extra("metrics") == f"pip install '{ROOT}[metrics]'"


@CLONE
def test_every_package_of_ours_has_the_folder_of_its_name() -> None:
    for kind, names in packages.FIRST_PARTY.items():
        for name, package in names.items():
            assert f'name = "{package}"' in (ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8")
            assert install_command(kind, name).endswith(f"plugins{os.sep}{name}")


def test_what_others_offer_has_no_line() -> None:
    assert install_command("backend", "acme") == install_command("frontend", "glm") == ""


@pytest.mark.usefixtures("activated")
def test_without_the_source_its_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "_package", lambda: tmp_path / "site-packages" / "chatbridge")
    monkeypatch.setattr(packages, "_installed_from", lambda: tmp_path / "gone")
    assert install_command("backend", "rwkv") == "pip install plugins/rwkv (in the folder of chatbridge's source)"
    assert install_extra("hub") == "pip install '.[hub]' (in the folder of chatbridge's source)"


@CLONE
@pytest.mark.usefixtures("activated")
def test_what_was_installed_from_its_source_remembers_where_that_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "_package", lambda: tmp_path / "site-packages" / "chatbridge")
    made = tmp_path / "chatbridge_core-0.0.2.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: chatbridge-core\nVersion: 0.0.2\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    for told, line in (
        (f'{{"url": "{ROOT.as_uri()}", "dir_info": {{}}}}', "pip install plugins/glm"),
        ('{"url": "https://example.org/x.whl"}', "pip install plugins/glm (in the folder of chatbridge's source)"),
        ("no JSON", "pip install plugins/glm (in the folder of chatbridge's source)"),
    ):
        (made / "direct_url.json").write_text(told, encoding="utf-8")
        assert install_command("backend", "glm") == line


@CLONE
def test_a_virtual_environment_that_is_not_activated_has_a_pip_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    pip = Path("Scripts" if os.name == "nt" else "bin") / "pip"
    monkeypatch.chdir(tmp_path)
    assert install_command("backend", "glm").startswith(f"{Path('.venv') / pip} install ")
    monkeypatch.chdir(ROOT)
    assert install_command("backend", "glm") == f"{tmp_path / Path('.venv') / pip} install plugins{os.sep}glm"


def test_the_doctor_tells_of_another_project_with_our_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (_own_package("1.0").state, _own_package("1.0").what) == ("good", "1.0")
    made = tmp_path / "chatbridge-0.0.1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: chatbridge\nVersion: 0.0.1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    told = _own_package("1.0")
    assert (told.state, "another project called chatbridge 0.0.1" in told.what) == ("error", True)
    assert told.remedy == "pip uninstall chatbridge, and install chatbridge-core again"


def test_the_doctor_tells_of_an_installed_one_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = tmp_path / "chatbridge_core-0.0.2.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: chatbridge-core\nVersion: 0.0.2\n", encoding="utf-8")
    (made / "RECORD").write_text("chatbridge/__init__.py,,\n", encoding="utf-8")
    (tmp_path / "chatbridge").mkdir()
    (tmp_path / "chatbridge" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    told = _own_package("1.0")
    assert (told.state, told.remedy) == ("warning", "start it from another folder, or uninstall one of the two")
    assert f"another one is installed in {tmp_path / 'chatbridge'}" in told.what
