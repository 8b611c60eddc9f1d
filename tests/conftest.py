"""Fixtures and settings of all tests."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No deadline on a busy machine: pytest-timeout ends a test that hangs.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

sys.path.insert(0, str(Path(__file__).parent))  # for `synthetic` and others, wherever pytest is started
sys.path.append(
    str(Path(__file__).parents[1] / "benchmarks")
)  # for `doctor`: frozen faults and the sets they are seeded into
OFFLINE = str(Path(__file__).parent / "offline")
sys.path.insert(0, OFFLINE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))
if "sitecustomize" not in sys.modules or not hasattr(sys.modules["sitecustomize"], "_outside"):
    sys.modules.pop("sitecustomize", None)
    import sitecustomize  # noqa: F401


_caches = itertools.count()


@pytest.fixture(autouse=True)
def _own_cache(_caches_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty cache, and fetch nothing."""
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")
    monkeypatch.setenv("FULLCONV_CACHE", str(_caches_folder / str(next(_caches))))


@pytest.fixture(scope="session")
def _caches_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread: maps of a few cells are slower in several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _socket_log(tmp_path_factory) -> Iterator[Path]:
    """Return the file of attempts to connect to the outside, also by processes that tests start."""
    log = tmp_path_factory.mktemp("sockets") / "attempts.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLCONV_TEST_SOCKETS", str(log))
        yield log


@pytest.fixture(autouse=True)
def socket_attempts(_socket_log: Path) -> Iterator[Path]:
    """Fail a test that tried to connect to the outside."""
    yield _socket_log
    if _socket_log.exists():
        attempts = _socket_log.read_text(encoding="utf-8")
        _socket_log.unlink()
        pytest.fail(f"tried to connect to the outside: {attempts}", pytrace=False)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fullconv demo` writes, after two epochs of a small network: data/, run/ and predictions/; read only."""
    import fullconv
    from fullconv.cli.synthetic import make_shapes
    from fullconv.predict import PredictJob, predict_files

    root, threads = tmp_path_factory.mktemp("demo"), torch.get_num_threads()
    make_shapes(root / "data", size=(48, 64))
    settings = {"backbone": "tiny", "width": 0.25, "weights": "none", "epochs": 2, "batch_size": 4, "workers": 0}
    segmenter = fullconv.train(root / "data", root / "run", **settings)
    predict_files(segmenter, PredictJob([str(root / "data/test/images")], root / "predictions", overlay=True))
    torch.set_num_threads(threads)
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve synthetic images of 40 x 48, three of them in val."""
    from synthetic.shapes import make_shapes

    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", images=12, size=(40, 48))
