"""What the command line changes in its own process: the library leaves the process of its users as it is.

Importing is most of the time of a short command. timm imports all of its model files and, by way of torchvision, PyTorch's
compiler: 2.5 s where one family of encoders is needed. The garbage collector searches the imported modules (a tenth of the
start), and at exit PyTorch's modules are taken apart (half a second).
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from fullconv.profiling import STARTING, timed
from fullconv.system import lower_thread_priority, retain_freed

if TYPE_CHECKING:
    from importlib.abc import Loader

__all__ = ["exit_now", "is_own_process", "lower_thread_priority", "process_settings", "starting", "use_utf8"]

LAZY_PACKAGES = ("torchvision", "torchvision.ops", "torchvision.models", "timm", "timm.models", "timm.data")
"""Their `__init__` runs when a name is asked of them that is not one of their modules."""


@contextmanager
def process_settings() -> Iterator[None]:
    """Set up this process for one command, and restore it afterwards, for programs that call `main` themselves."""
    frozen = gc.get_freeze_count()
    finder = _LazyPackages()
    sys.meta_path.insert(0, finder)
    try:
        with retain_freed():
            yield
    finally:
        sys.meta_path.remove(finder)
        if not frozen:
            gc.unfreeze()


@contextmanager
def starting() -> Iterator[None]:
    """Time the start of a command without the garbage collector; imported modules are exempt until the command ends."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with timed(STARTING):
            yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def use_utf8() -> None:
    """Write UTF-8 whatever the system's code page is; bytes of file names that are not UTF-8 are escaped.

    A stream that the parent has closed, as services do, is replaced by the null device.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def is_own_process() -> bool:
    """Return whether the process was started as `fullconv` or `python -m fullconv`."""
    started = sys.modules["__main__"]
    if (spec := getattr(started, "__spec__", None)) is not None and spec.name == "fullconv.__main__":
        return True
    file = Path(getattr(started, "__file__", None) or "")
    return file.name == "fullconv" or file.parent.name == "fullconv.exe"  # what pip makes of the entry in pyproject


def exit_now(code: int) -> NoReturn:
    """End the process without taking its modules apart.

    Exit handlers run and output is flushed. With another thread at work, or under a debugger, a profiler, a coverage
    measurement or an open prompt, the process ends as usual.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    observed = sys.flags.interactive or sys.gettrace() is not None or sys.getprofile() is not None
    observed = observed or (monitoring is not None and any(monitoring.get_tool(number) for number in range(6)))
    if others or observed:
        sys.exit(code)
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except OSError:
        sys.exit(code)  # Python reports what cannot be written
    os._exit(code)


class _LazyPackages:
    """Imports `LAZY_PACKAGES` without running their `__init__`, so that their modules can be imported one by one.

    A package runs its `__init__` when it is asked for any other name, also after the command: other code in the process
    misses nothing.
    """

    def __init__(self) -> None:
        self._loaders: dict[str, Loader] = {}
        self._lock = threading.RLock()
        self._completing = 0

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Find a lazy package."""
        if name not in LAZY_PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            self._loaders[name] = spec.loader
            spec.loader = self  # type: ignore[assignment]  # a loader by its methods: importlib.abc takes 3 ms
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the creation of the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Load a package without running its `__init__`."""
        name = module.__name__
        module.__spec__.loader = module.__loader__ = self._loaders[name]  # type: ignore[union-attr]

        def find(attribute: str) -> Any:
            if name == "timm" and attribute == "__version__":
                from importlib.metadata import version

                return version("timm")
            if name == "timm.data":
                import timm.data.constants  # noqa: F401  # a small module with the names that encoders import

                constants = vars(sys.modules["timm.data.constants"])
                if attribute in constants:
                    return constants[attribute]
            if not self._completing and any(map(_is_loading, [n for n in sys.modules if n.startswith("timm.models.")])):
                raise ImportError(f"{name} is required as a whole, for {attribute}")  # not while half of it is loaded
            self._complete(name)
            return getattr(module, attribute)

        module.__dict__["__getattr__"] = find

    def _complete(self, name: str) -> None:
        """Run the `__init__` of a package, and before it its parent's, unless they have run or are running."""
        with self._lock:
            loader = self._loaders.pop(name, None)
            if loader is None:
                return
            self._completing += 1
            try:
                self._complete(name.rpartition(".")[0])
                module = sys.modules[name]
                del module.__dict__["__getattr__"]
                loader.exec_module(module)
            finally:
                self._completing -= 1


def _is_loading(name: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))
