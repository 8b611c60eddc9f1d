"""A service that starts, stops or does not start, and the settings that it refuses."""

from __future__ import annotations

import doctest
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from serving import wait_until

from fullconv.cli import main
from fullconv.errors import ModelFileError, RecipeError
from fullconv.serve import check_access, name_models
from fullconv.serve import params as params_module
from fullconv.serve import settings as settings_module
from fullconv.serve.settings import check_models


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes by /proc")
def test_a_killed_service_leaves_no_worker_behind(start):
    service = start()
    (worker,) = service.workers()
    service.process.kill()
    service.process.wait(20)
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), 10)


def test_another_host_requires_a_token_or_no_auth():
    with pytest.raises(RecipeError, match=r"--host 0\.0\.0\.0: other machines can reach the service\. Set --token T"):
        check_access("0.0.0.0", None, no_auth=False)
    with pytest.raises(RecipeError, match="contradict"):
        check_access("0.0.0.0", "long enough", no_auth=True)
    for token in ("", "two words", "caf\u00e9"):
        with pytest.raises(RecipeError, match="without spaces"):
            check_access("127.0.0.1", token, no_auth=False)
    check_access("127.0.0.1", "short", no_auth=False)
    check_access("0.0.0.0", "long-enough", no_auth=False)
    check_access("0.0.0.0", None, no_auth=True)
    check_access("localhost", None, no_auth=False)


def test_model_names_are_usable_in_urls():
    assert name_models("runs/a b/model.safetensors", ["x=c.safetensors"]) == {
        "a-b": "runs/a b/model.safetensors", "x": "c.safetensors"
    }  # fmt: skip
    with pytest.raises(RecipeError, match="write name=FILE"):
        name_models(None, ["../x=file"])
    with pytest.raises(RecipeError, match="the name 'a' is taken"):
        name_models("a.safetensors", ["a=b"])
    with pytest.raises(RecipeError, match="nothing to serve"):
        name_models(None, [])


def test_a_missing_model_and_a_port_in_use_are_user_errors(model, tmp_path, capfd):
    for name in ("none.safetensors", "none", "none.onnx"):
        with pytest.raises(ModelFileError, match=f"{name}: there is no such model file"):
            check_models({"m": str(tmp_path / name)})
    assert main(["serve", str(tmp_path / "none.safetensors"), "--port", "0"]) == 2
    assert "none.safetensors" in capfd.readouterr().err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["serve", str(model), "--port", str(other.getsockname()[1])]) == 2
    assert "cannot listen" in capfd.readouterr().err


def test_without_the_extra_the_error_has_the_install_line(model, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(model)]) == 2
    assert 'pip install "fullconv[serve]"' in capfd.readouterr().err


@pytest.mark.parametrize("module", [settings_module, params_module])
def test_the_examples_in_docstrings_are_right(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_process_that_listens_loads_no_torch():
    code = "import sys; sys.modules['torch'] = None; import fullconv.serve.server, fullconv.serve.responses, fullconv.report"
    subprocess.run([sys.executable, "-c", code], check=True)
