"""Processes of one start rendezvous on a name of their own, whatever earlier ones left in the store."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
import torch.distributed as dist

from fullconv.errors import RunError
from fullconv.training.distributed import rendezvous


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def meet(store, ranks: int, late: np.ndarray, patience: float = 60) -> list[str]:
    """Let every rank come, each so many seconds late, on a connection of its own."""

    def come(rank: int) -> str:
        own = dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=60))
        time.sleep(float(late[rank]))
        return rendezvous(own, rank, ranks, timedelta(seconds=patience))

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(come, range(ranks)))


@pytest.mark.parametrize("sizes", [[2] * 12, [3, 2, 4, 1, 3, 3, 2]])
def test_each_start_gets_one_name_that_no_other_had_whoever_comes_late(store, sizes):
    draw = np.random.default_rng(0)
    names = []
    for ranks in sizes:
        found = meet(store, ranks, draw.choice([0.0, 0.002, 0.05, 0.1], ranks))
        assert len(set(found)) == 1
        names.append(found[0])
    assert len(set(names)) == len(sizes)
    assert all(names)


def test_who_waits_in_vain_says_so(store):
    agree_alone = [ThreadPoolExecutor(1).submit(rendezvous, store, rank, 3, timedelta(seconds=0.2)) for rank in (0, 1)]
    for rank, waiting in enumerate(agree_alone):
        with pytest.raises(RunError, match=rf"process {rank} waited 0:00:00.2\d* for all 3 of them"):
            waiting.result()
