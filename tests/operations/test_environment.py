"""Child processes get what libraries need, and no secret that anybody put into a variable."""

from __future__ import annotations

import pytest

from chatbridge.operations.environment import child_environment

NEEDED = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "CUDA_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "4",
    "HF_HOME": "/models",
    "http_proxy": "http://proxy:3128",
    "LC_ALL": "C.UTF-8",
    "PWD": "/home/me",
    "KEYBOARD": "us",
}


@pytest.mark.parametrize(
    "name", ["DISCORD_TOKEN", "my_api_key", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "HF_TOKEN", "KEY", "OPENAI_API_KEY"]
)
def test_names_that_look_secret_stay_behind(name: str) -> None:
    assert child_environment(environment={**NEEDED, name: "hush"}) == NEEDED


def test_what_a_configuration_took_stays_behind_whatever_its_name_and_its_copies() -> None:
    environment = {**NEEDED, "TG": "123:abc", "COPY": "123:abc", "EMPTY": "", "tg2": "x"}
    assert child_environment({"TG", "TG2", "EMPTY", "HOME"}, environment) == NEEDED


def test_a_proxy_with_a_password_stays_behind() -> None:
    environment = {**NEEDED, "https_proxy": "http://me:hush@proxy:3128", "STRANGE": "http://[@x:y"}
    assert child_environment(environment=environment) == NEEDED
