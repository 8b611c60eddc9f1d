"""Memory that is freed is kept while it is wanted, and given back afterwards."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PROGRAM = """
import contextlib, resource
import numpy as np
from fullconv.system import freed_memory_kept

def faults(times=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(48 * 2**20, np.uint8)
        np.ones(16 * 2**20, np.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / times

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def told():
    with freed_memory_kept() as kept:
        with freed_memory_kept():
            faults(2)
        inside, size = faults(), held()
    return kept, inside, size

outside = faults()
kept, inside, size = told()
print(outside, kept, inside, size, held(), faults())
"""


def ran(program: str = PROGRAM, **environment: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_freed_memory_costs_no_page_faults_until_the_outermost_block_ends():
    outside, kept, inside, size, after, again = ran()
    assert kept == "True"
    assert float(outside) > 64 * 2**20 / 4096 / 600  # blocks are new pages each time, huge ones perhaps
    assert float(inside) < float(outside) / 5
    assert int(after) < int(size) - 32 * 2**20
    assert float(again) > 5 * float(inside)


def test_where_memory_is_short_it_is_given_back_at_once_also_within_a_block():
    program = PROGRAM.replace("            faults(2)\n", "            faults(2)\n            keep_no_more()\n")
    program = program.replace("import freed_memory_kept", "import freed_memory_kept, keep_no_more")
    _, kept, inside, *_ = ran(program)
    assert kept == "True"
    assert float(inside) > 64 * 2**20 / 4096 / 600


def test_what_the_user_has_set_is_left_alone():
    _, kept, *_ = ran(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False"
