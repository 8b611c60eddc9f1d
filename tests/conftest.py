"""What holds for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure: pytest-timeout ends what hangs.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

OFFLINE = str(Path(__file__).parent / "offline")
sys.path.insert(0, OFFLINE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))
if "sitecustomize" not in sys.modules or not hasattr(sys.modules["sitecustomize"], "_outside"):
    sys.modules.pop("sitecustomize", None)
    import sitecustomize  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _socket_log(tmp_path_factory) -> Iterator[Path]:
    """The file in which attempts to reach the outside are noted, also those of processes that tests start."""
    log = tmp_path_factory.mktemp("sockets") / "attempts.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLCONV_TEST_SOCKETS", str(log))
        yield log


@pytest.fixture(autouse=True)
def socket_attempts(_socket_log: Path) -> Iterator[Path]:
    """Fail the test that tried to reach something outside."""
    yield _socket_log
    if _socket_log.exists():
        words = _socket_log.read_text(encoding="utf-8")
        _socket_log.unlink()
        pytest.fail(f"something tried to reach the outside: {words}", pytrace=False)
