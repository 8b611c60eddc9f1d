"""What the command line changes in its process, and that the library changes nothing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading

import pytest

import fullconv
from fullconv.cli import main
from fullconv.cli.startup import starting
from fullconv.profiling import STARTING, profile
from synthetic.shapes import make_shapes


def run_python(*arguments: object, **environment: str) -> tuple[int, str]:
    """Run Python in a process of its own; return its exit code and what it printed."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


# --- the library ------------------------------------------------------------------------------------------------------

STATE = """
import ctypes, gc, os, sys, warnings
calls = []
library = ctypes.CDLL(None)
class Watched(ctypes.CDLL):
    def __getattr__(self, name):
        calls.append(name)
        return super().__getattr__(name)
ctypes.CDLL = Watched

def state():
    priority = os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0
    return gc.isenabled(), gc.get_freeze_count(), gc.get_threshold(), priority, warnings.filters[:], sys.meta_path[:]
"""

BUILD = """
import torch, timm, torchvision
before, models, names = state(), len(timm.list_models()), dir(timm)
import fullconv
fullconv.build("fcn8s", backbone="resnet18", num_classes=2, weights=None)
assert state() == before
assert (len(timm.list_models()), dir(timm)) == (models, names)
assert "mallopt" not in calls
"""

BUILD_FIRST = """
import fullconv
fullconv.build("fcn8s", backbone="resnet18", num_classes=2, weights=None)
import timm, torchvision
assert "create_model" in vars(timm) and "list_models" in vars(timm) and "nms" in vars(torchvision.ops)
assert timm.list_models() and not hasattr(timm, "__getattr__")
"""

TRAIN = """
import torch
before, environment = state(), dict(os.environ)
import fullconv
if __name__ == "__main__":
    segmenter = fullconv.train(
        sys.argv[1], out=sys.argv[2], backbone="tiny", weights="none", epochs=1, crop="32x32", batch_size=2, width=0.25,
        precision="fp32", workers=0,
    )
    now = state()
    assert now[:4] == before[:4] and now[5] == before[5]
    assert "mallopt" not in calls
    assert not {"timm", "torchvision"} & set(sys.modules)
"""


@pytest.mark.parametrize(
    "program",
    [pytest.param(BUILD, id="timm first"), pytest.param(BUILD_FIRST, id="fullconv first", marks=pytest.mark.slow)],
)
def test_building_a_network_changes_neither_the_process_nor_timm(program):
    assert run_python("-c", STATE + program) == (0, "")


def test_training_changes_neither_the_collector_nor_malloc_nor_priorities(tmp_path):
    data = make_shapes(tmp_path / "data", images=6, size=(32, 40))
    (tmp_path / "program.py").write_text(STATE + TRAIN)
    assert run_python(tmp_path / "program.py", data, tmp_path / "run")[0] == 0


# --- lazy packages ----------------------------------------------------------------------------------------------------

LAZY = """
import sys
from fullconv.cli.startup import process_settings
with process_settings():
    from fullconv.nn import build
    build("fcn8s", backbone="resnet18", num_classes=2, weights="none")
    print("torch._dynamo" in sys.modules, "timm.models.beit" in sys.modules)
"""

COMPLETE = """
import timm
import torchvision
import torchvision.ops
from timm.data import create_transform
from timm.models import resnet

print(timm.is_model("regnety_002"), timm.create_model("resnet18", num_classes=7).fc.out_features)
print(timm.models.resnet is resnet, timm.layers.BatchNormAct2d.__name__, timm.__version__ == timm.version.__version__)
boxes, scores = torchvision.ops.boxes._box_inter_union.__name__, torchvision.models.resnet18().fc.out_features
print(boxes, scores, torchvision.transforms.functional.InterpolationMode.BILINEAR.value)
"""


def test_a_command_loads_one_family_of_timm_and_other_code_gets_all_of_it():
    _, printed = run_python("-c", LAZY + COMPLETE)
    assert printed.splitlines() == [
        "False False",
        "True 7",
        "True BatchNormAct2d True",
        "_box_inter_union 1000 bilinear",
    ]


@pytest.mark.slow
def test_a_timm_with_other_files_is_loaded_as_a_whole():
    other = "    from fullconv.nn import timm_models\n    timm_models.FAMILIES = {'resnet': 'no_such_file'}\n"
    program = LAZY.replace("    build(", f"{other}    build(")
    assert run_python("-c", program) == (0, "True True\n")


# --- the garbage collector --------------------------------------------------------------------------------------------


def test_the_collector_pauses_while_a_command_starts_and_then_ignores_its_modules():
    def fail() -> None:
        with starting():
            assert not gc.isenabled()
            raise ValueError("no")

    assert gc.isenabled()
    before = gc.get_freeze_count()
    try:
        with profile() as times, pytest.raises(ValueError, match="no"):
            fail()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        assert STARTING in times.main
    finally:
        gc.unfreeze()
    gc.disable()
    try:
        with starting():
            pass
        assert not gc.isenabled(), "it was off before"
    finally:
        gc.unfreeze()
        gc.enable()


def test_after_a_command_the_collector_is_as_it_was(tmp_path, capsys):
    assert main(["predict", "nothing.onnx", "nothing.png", "-o", str(tmp_path / "out")]) == 2
    assert "nothing.onnx" in capsys.readouterr().err
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.freeze()  # by a program that calls this one
    try:
        assert main(["predict", "nothing.onnx", "nothing.png", "-o", str(tmp_path / "out")]) == 2
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


# --- the end of the process -------------------------------------------------------------------------------------------

EXIT = "import atexit, sys, threading, time\nfrom fullconv.cli.startup import exit_now\n"
FINALIZED = "class Last:\n    def __del__(self): print('finalized')\nlast = Last()\n"


@pytest.mark.parametrize("code", [0, 2, 130])
def test_a_process_ends_with_its_code_and_output_and_without_finalization(code):
    assert run_python("-c", f"{EXIT}{FINALIZED}print('done')\nexit_now({code})") == (code, "done\n")


def test_exit_handlers_run():
    program = EXIT + "atexit.register(print, 'first')\natexit.register(print, 'second')\nexit_now(3)"
    assert run_python("-c", program) == (3, "second\nfirst\n")


def test_other_threads_are_waited_for():
    work = "threading.Thread(target=lambda: (time.sleep(0.3), print('worked'))).start()\n"
    assert run_python("-c", f"{EXIT}{work}exit_now(0)") == (0, "worked\n")


@pytest.mark.parametrize("observe", ["sys.settrace(lambda *_: None)", "sys.setprofile(lambda *_: None)"])
def test_a_debugger_or_profiler_sees_the_end(observe):
    assert run_python("-c", f"{EXIT}{observe}\ntry: exit_now(2)\nfinally: print('seen')") == (2, "seen\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_while_modules_are_imported_is_reported_without_a_traceback(tmp_path):
    # the signal is sent when the import is known to be under way
    (tmp_path / "typer.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nprint('importing', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from fullconv.__main__ import run; sys.exit(run())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        guard = threading.Timer(60, process.kill)
        guard.start()
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
        guard.cancel()
    assert (process.returncode, err) == (130, "fullconv: stopped by Ctrl-C.\n")


@pytest.mark.parametrize("name", ["fullconv", "other"])
def test_the_entry_point_ends_only_a_process_of_its_own(tmp_path, name):
    (tmp_path / name).write_text(
        f"import sys\nfrom fullconv.__main__ import run\n{FINALIZED}code = run()\nprint('goes on')\nsys.exit(code)\n"
    )
    printed = f"fullconv {fullconv.__version__}\n" + ("" if name == "fullconv" else "goes on\nfinalized\n")
    assert run_python(tmp_path / name, "--version") == (0, printed)


def test_other_programs_get_the_exit_code():
    code = "import runpy, sys\nsys.argv = ['fullconv', 'no-such']\ntry: runpy.run_module('fullconv', run_name='__main__')\n"
    assert run_python("-c", code + "except SystemExit as end: print('got', end.code)") == (0, "got 2\n")


@pytest.mark.parametrize("own", [True, False])
def test_python_m_fullconv_ends_at_once(tmp_path, own):
    hook = "import __main__\nclass Last:\n    def __del__(self): print('finalized')\n__main__.last = Last()\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    arguments = ["-m", "fullconv"] if own else ["-c", "from fullconv.__main__ import run; print(run())"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    printed = f"fullconv {fullconv.__version__}\n" + ("" if own else "0\nfinalized\n")
    assert run_python(*arguments, "--version", PYTHONPATH=path) == (0, printed)
