"""Memory and threads of the process and its machine.

`retain_freed`, `lazy_packages` and `lower_thread_priority` change the process: only the command line and the worker
processes of the service use them. The library itself leaves the process as it is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from importlib.abc import Loader

Item = TypeVar("Item")
Result = TypeVar("Result")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Settings of ``mallopt(3)``."""
MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which a user sets the allocator."""
IO_NICENESS = 5
"""Added to that of threads which read and write files."""

LAZY_PACKAGES = ("torchvision", "torchvision.ops", "torchvision.models", "timm", "timm.models", "timm.data")
"""Their `__init__` runs when a name is asked of them that is not one of their modules."""


_retained_depth = 0


def available_memory() -> int:
    """Return the bytes that this process can still allocate: what the system has available, within limits of cgroups."""
    import psutil

    available = int(psutil.virtual_memory().available)
    return min([available, *_cgroup_memory()]) if sys.platform == "linux" else available


def _cgroup_memory(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yield what each limit of the process's cgroups leaves, of version 1 or 2; the file cache counts as available."""
    with suppress(OSError):
        for line in groups.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base = root / "memory" if controllers else root
            limit, usage = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
            cached = "total_inactive_file" if controllers else "inactive_file"
            folder = base / path.strip("/")  # in a container often not there: its own group is mounted as the root
            for level in [folder, *(above for above in folder.parents if above.is_relative_to(base))]:
                with suppress(OSError, ValueError):  # no such group, or "max"
                    bound = int((level / f"memory.{limit}").read_text(encoding="ascii"))
                    used = int((level / f"memory.{usage}").read_text(encoding="ascii"))
                    stat = dict(row.split() for row in (level / "memory.stat").read_text(encoding="ascii").splitlines())
                    yield max(0, bound - used + int(stat.get(cached, 0)))


def peak_rss() -> int | None:
    """Return the peak resident memory of this process in bytes; None where the system does not report it.

    ``ru_maxrss`` of Linux counts the parent's, too.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
    import psutil

    return getattr(psutil.Process().memory_info(), "peak_wset", None)


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int = 1,
    *,
    ahead: int | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> Generator[Result, None, None]:
    """Map a function over items in threads, in order; close the generator to cancel what has not begun.

    Args:
        function: Called in a thread; what it raises is raised in turn.
        items: Taken in the caller's thread, as late as possible.
        threads: How many; with 1, one thread works while the caller does.
        ahead: Items under way or finished before they are asked for; twice as many as threads by default.
        pool: Threads to use instead of new ones; it stays open.
    """
    from concurrent.futures import ThreadPoolExecutor

    ahead = 2 * threads if ahead is None else ahead
    pending: deque[Future[Result]] = deque()
    with nullcontext(pool) if pool else ThreadPoolExecutor(threads, thread_name_prefix="fullconv-map") as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def retain_freed() -> Iterator[bool]:
    """Have the C library retain freed memory for the next tensors until the outermost such block ends; yields whether it does.

    glibc returns large freed blocks to the system at once, and the next tensor of that size is paid for page by page: a
    tenth of a training step of FCN-8s on ResNet-18, a quarter of the time for an image of 1500x2000 in fp32 (two cores,
    virtual machine). The peak stays about the same. With another C library, or where the user has set the allocator in
    the environment, nothing changes.
    """
    global _retained_depth
    library = _glibc()
    if library is None or any(name in os.environ for name in MALLOC_VARIABLES):
        yield False
        return
    _retained_depth += 1
    retained = bool(library.mallopt(M_MMAP_MAX, 0)) and bool(library.mallopt(M_TRIM_THRESHOLD, -1))
    try:
        yield retained
    finally:
        _retained_depth -= 1
        if not _retained_depth:
            _map_large_blocks(library, 32 * 2**20)  # where glibc's own adaptation, now off, would end


def trim_eagerly() -> None:
    """Within `retain_freed`, return freed blocks of 1 MiB and more at once from here on; elsewhere do nothing.

    Retained memory has gaps that the next, larger map does not fit into: the peak of ResNets with many wide maps is up to
    twice what is in use. Where memory is short, asking the system again costs less.
    """
    if _retained_depth and (library := _glibc()) is not None:
        _map_large_blocks(library, 2**20)


def malloc_trim() -> None:
    """Return freed memory to the system now; changes no setting."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def lower_thread_priority() -> None:
    """Let other threads of the process run first: those of the network wait for each other at every layer.

    Only Linux has priorities of threads.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + IO_NICENESS)


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Handle signals by a function until the block ends; does nothing outside the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)


@contextmanager
def lazy_packages() -> Iterator[None]:
    """Import timm and torchvision only as far as needed, as long as the block lasts, unless they are imported already.

    Importing timm imports all of its model files and, by way of torchvision, PyTorch's compiler: 2.5 s, where one family of
    encoders is needed.
    """
    finder = _LazyPackages()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _map_large_blocks(library: Any, smallest: int) -> None:
    """Have the C library map each block of so many bytes and more, and unmap it when it is freed."""
    library.mallopt(M_MMAP_MAX, 65536)
    library.mallopt(M_MMAP_THRESHOLD, smallest)
    library.mallopt(M_TRIM_THRESHOLD, 2 * smallest)
    library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """Return the C library; None where it is not glibc."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def is_importable(package: str) -> bool:
    """Return whether a package is installed and nothing keeps it from being imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


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
            models = [module for key, module in list(sys.modules.items()) if key.startswith("timm.models.")]
            specs = [getattr(module, "__spec__", None) for module in models]
            if not self._completing and any(getattr(spec, "_initializing", False) for spec in specs):
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
