"""Memory that is used again instead of given back.

The C library gives large freed blocks back to the system at once, and the next tensor of that size is paid for page by
page. On a virtual machine with two cores that was a tenth of a training step of FCN-8s on ResNet-18 (20,000 to 50,000 page
faults) and a quarter of the time for labelling a picture of 1500x2000 in fp32 (280,000).
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of the settings of ``mallopt(3)``."""
USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables of the environment by which a user has said how memory is to be kept."""

_depth = 0


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Have this process keep the memory that it frees, for its next tensors, until the outermost such block ends.

    The peak stays about what it was. Where the C library is not glibc, or the user has set it otherwise by the
    environment, nothing is done.

    Yields:
        Whether memory is kept.
    """
    global _depth
    library = _glibc()
    if library is None or any(name in os.environ for name in USERS_OWN):
        yield False
        return
    _depth += 1
    kept = bool(library.mallopt(MMAP_MAX, 0)) and bool(library.mallopt(TRIM_THRESHOLD, -1))
    try:
        yield kept
    finally:
        _depth -= 1
        if not _depth:
            _ask_system(library, 32 * 2**20)  # once told otherwise, it adapts no more; there it ends up by itself


def keep_no_more() -> None:
    """Give freed blocks of a megabyte and more back at once, from here on.

    Kept memory has gaps that the next, larger map does not fit into: the peak of ResNets with many wide maps is up to twice
    what is in use. Where memory is short, asking the system anew costs less.
    """
    library = _glibc()
    if library is not None and not any(name in os.environ for name in USERS_OWN):
        _ask_system(library, 2**20)


def give_back() -> None:
    """Give freed memory back to the system now, also within such a block: what tensors keep may be what others lack."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _ask_system(library: Any, smallest: int) -> None:
    """Have the C library ask the system for each block of so many bytes and more, and give it back when it is freed."""
    library.mallopt(MMAP_MAX, 65536)
    library.mallopt(MMAP_THRESHOLD, smallest)
    library.mallopt(TRIM_THRESHOLD, 2 * smallest)
    library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """Return the C library, or None where it is another one."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
