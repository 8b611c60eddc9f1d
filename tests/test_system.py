"""The process's memory, and the ordered thread map."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from fullconv.system import _cgroup_memory, available_memory, ordered_map, peak_rss

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PROGRAM = """
import contextlib, resource
import numpy as np
from fullconv.system import retain_freed

def faults(times=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(48 * 2**20, np.uint8)
        np.ones(16 * 2**20, np.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / times

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def retained():
    with retain_freed() as kept:
        with retain_freed():
            faults(2)
        inside, size = faults(), rss()
    return kept, inside, size

outside = faults()
kept, inside, size = retained()
print(outside, kept, inside, size, rss(), faults())
"""


def run(program: str = PROGRAM, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@needs_glibc
def test_freed_memory_costs_no_page_faults_until_the_outermost_block_ends():
    outside, kept, inside, size, after, again = run()
    assert kept == "True"
    assert float(outside) > 64 * 2**20 / 4096 / 600  # blocks are new pages each time, huge ones perhaps
    assert float(inside) < float(outside) / 5
    assert int(after) < int(size) - 32 * 2**20
    assert float(again) > 5 * float(inside)


@needs_glibc
def test_trimming_eagerly_returns_freed_memory_within_a_block():
    program = PROGRAM.replace("            faults(2)\n", "            faults(2)\n            trim_eagerly()\n")
    program = program.replace("import retain_freed", "import retain_freed, trim_eagerly")
    _, kept, inside, *_ = run(program)
    assert kept == "True"
    assert float(inside) > 64 * 2**20 / 4096 / 600


@needs_glibc
def test_the_allocator_settings_of_the_user_stay():
    _, kept, *_ = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False"


@needs_glibc
def test_trimming_eagerly_changes_nothing_where_memory_is_not_retained():
    program = PROGRAM.replace("    with retain_freed() as kept:\n", "    trim_eagerly()\n    if kept := True:\n")
    program = program.replace("import retain_freed", "import retain_freed, trim_eagerly")
    program = program.replace("        with retain_freed():\n            faults(2)\n", "")
    program = "import ctypes\nctypes.CDLL(None).mallopt(-4, 0), ctypes.CDLL(None).mallopt(-1, -1)\n" + program
    _, _, inside, *_ = run(program)  # as a program sets it that uses the library
    assert float(inside) < 64 * 2**20 / 4096 / 600


def test_memory_is_available():
    assert 2**24 < available_memory() < 2**50
    assert peak_rss() is None or 2**23 < peak_rss() < 2**45


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/app", {"app/memory.max": "1000", "app/memory.current": "700", "app/memory.stat": "inactive_file 200"}, [500]),
        ("0::/app", {"memory.max": "1000", "memory.current": "1100", "memory.stat": "anon 3"}, [0]),  # in a container
        ("0::/", {"memory.max": "max", "memory.current": "7", "memory.stat": ""}, []),
        ("4:memory:/a/b", {"memory/a/memory.limit_in_bytes": "900", "memory/a/memory.usage_in_bytes": "100",
                           "memory/a/memory.stat": "inactive_file 3\ntotal_inactive_file 50"}, [850]),
        ("9:cpu:/a\n3:pids:/", {"memory.max": "5", "memory.current": "1", "memory.stat": ""}, []),
    ],
)  # fmt: skip
def test_limits_of_cgroups_count(tmp_path, group, files, expected):
    (tmp_path / "groups").write_text(group)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert list(_cgroup_memory(tmp_path / "groups", tmp_path / "root")) == expected


def test_a_system_without_cgroups_sets_no_limit(tmp_path):
    assert list(_cgroup_memory(tmp_path / "none", tmp_path)) == []


def test_a_map_in_threads_keeps_the_order():
    def work(number: int) -> int:
        time.sleep(0.02 * (number % 3 == 0))
        return number * number

    assert list(ordered_map(work, range(20), 4)) == [n * n for n in range(20)]
    assert list(ordered_map(work, [], 4)) == []


def test_a_map_takes_few_items_ahead_and_stops_when_it_is_closed():
    taken, done = [], []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_map(done.append, items(), 2, ahead=3)
    next(results)
    assert len(taken) == 3
    results.close()
    assert len(taken) == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fullconv-map")]


def test_an_error_in_a_thread_is_raised_in_its_turn():
    results = ordered_map(lambda n: 1 // n, [1, 1, 0, 1], 2)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
