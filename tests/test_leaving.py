"""How the program ends: at once, but with everything done that was asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import fullconv

START = "import atexit, sys, threading, time\nfrom fullconv.__main__ import leave\n"
TAKEN_APART = "class Last:\n    def __del__(self): print('taken apart')\nlast = Last()\n"


def ended(code: str, *words: str) -> tuple[int, str]:
    """Run a program; return its exit code and what it printed."""
    done = subprocess.run([sys.executable, *words, "-c", START + code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("code", [0, 2, 130])
def test_the_code_is_kept_what_was_printed_gets_out_and_nothing_is_taken_apart(code):
    assert ended(f"{TAKEN_APART}print('done')\nleave({code})") == (code, "done\n")


def test_what_asked_to_be_called_at_the_end_is_called():
    assert ended("atexit.register(print, 'first')\natexit.register(print, 'second')\nleave(3)") == (
        3,
        "second\nfirst\n",
    )


def test_a_thread_that_works_on_is_waited_for():
    work = "threading.Thread(target=lambda: (time.sleep(0.3), print('worked'))).start()\n"
    assert ended(f"{work}leave(0)") == (0, "worked\n")


@pytest.mark.parametrize("watch", ["sys.settrace(lambda *_: None)", "sys.setprofile(lambda *_: None)"])
def test_who_looks_on_sees_the_end(watch):
    assert ended(f"{watch}\ntry: leave(2)\nfinally: print('seen')") == (2, "seen\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_while_modules_are_imported_is_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from fullconv.__main__ import run; sys.exit(run())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        guard = threading.Timer(60, process.kill)
        guard.start()
        assert process.stdout.readline() == "importing\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        guard.cancel()
    assert (process.returncode, said) == (130, "fullconv: stopped by Ctrl-C.\n")


@pytest.mark.parametrize("name", ["fullconv", "other"])
def test_the_entry_leaves_at_once_only_where_the_process_is_its_own(tmp_path, name):
    script = (
        f"import sys\nfrom fullconv.__main__ import run\n{TAKEN_APART}code = run()\nprint('goes on')\nsys.exit(code)\n"
    )
    (tmp_path / name).write_text(script)
    done = subprocess.run([sys.executable, tmp_path / name, "--version"], capture_output=True, text=True, timeout=60)
    words = "" if name == "fullconv" else "goes on\ntaken apart\n"
    assert (done.returncode, done.stdout) == (0, f"fullconv {fullconv.__version__}\n{words}")


def test_other_programs_get_the_code():
    code = "import runpy, sys\nsys.argv = ['fullconv', 'no-such']\ntry: runpy.run_module('fullconv', run_name='__main__')\n"
    code += "except SystemExit as end: print('got', end.code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "got 2\n")


@pytest.mark.parametrize("own", [True, False])
def test_as_a_module_it_leaves_at_once(tmp_path, own):
    hook = "import __main__\nclass Last:\n    def __del__(self): print('taken apart')\n__main__.last = Last()\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    words = (
        ["-m", "fullconv", "--version"]
        if own
        else ["-c", "from fullconv.__main__ import run; print(run())", "--version"]
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout) == (
        0,
        f"fullconv {fullconv.__version__}\n" + ("" if own else "0\ntaken apart\n"),
    )
