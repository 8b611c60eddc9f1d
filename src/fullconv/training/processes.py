"""Several processes that train one network together: which one this is, and what they tell one another.

torchrun starts them, on one machine or several; a run without it is one process, for which everything here does nothing.
Words travel as JSON and numbers as tensors. torch's way of sending objects is pickle, and unpickling runs what was sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fullconv.errors import FullconvError, RunError
from fullconv.training.meeting import agree

Item = TypeVar("Item")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another, which may be checking its data or writing a report."""


class LostError(RunError):
    """Another process of the run is gone."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them."""

    rank: int = 0
    """Of this one; 0 alone writes."""
    ranks: int = 1
    local_rank: int = 0
    """Among those on this machine."""
    local_ranks: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place; each gets the same bits.

        Raises:
            LostError: A process is gone.
        """
        if self.ranks > 1:
            with _listening():
                dist.all_reduce(tensor)
        return tensor

    def told(self, work: Callable[[], Any]) -> Any:
        """Do something in the first process alone, and return in all what came out, which JSON must take.

        Raises:
            FullconvError: It failed in the first process. The others end without a word.
        """
        if self.ranks == 1:
            return work()
        found = self.all_do(lambda: json.dumps(work()).encode() if self.first else b"")
        length = self.sum(torch.tensor(len(found)))
        content = torch.frombuffer(bytearray(found), dtype=torch.uint8) if found else torch.zeros(int(length)).byte()
        with _listening():
            dist.broadcast(content, 0)
        return json.loads(content.numpy().tobytes())

    def gathered(self, value: Any) -> list[Any]:
        """Return what every process has, by rank; JSON must take it."""
        if self.ranks == 1:
            return [value]
        own = json.dumps(value).encode()
        lengths = torch.zeros(self.ranks, dtype=torch.int64)
        lengths[self.rank] = len(own)
        self.sum(lengths)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(self.ranks)]
        with _listening():
            dist.all_gather(parts, padded)
        return [json.loads(part[:n].numpy().tobytes()) for part, n in zip(parts, lengths.tolist(), strict=True)]

    def all_do(self, work: Callable[[], Item]) -> Item:
        """Do something in each process; where it fails in one it fails in all, and the first one says why.

        Raises:
            FullconvError: It failed somewhere; the words say where.
        """
        if self.ranks == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except FullconvError as caught:
            error = caught
        if not int(self.sum(torch.tensor(int(error is not None)))):
            return result  # type: ignore[return-value]
        words = self.gathered(None if error is None else str(error))
        rank = next(rank for rank, said in enumerate(words) if said is not None)
        everywhere = all(said == words[0] for said in words)
        where = "" if rank == 0 or everywhere else f" (in process {rank} of 0 to {self.ranks - 1})"
        raise self.spoken(error if error is not None and not where else RunError(f"{words[rank]}{where}"))

    def one_by_one(self, work: Callable[[], Item]) -> Item:
        """Do something in one process of each machine, then in its others, which find the caches filled."""
        if self.ranks == 1:
            return work()
        found: list[Item] = []
        self.all_do(lambda: found.append(work()) if self.local_rank == 0 else None)
        self.all_do(lambda: found.append(work()) if self.local_rank != 0 else None)
        return found[0]

    def share(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return the first process's tensors, on the CPU, in all of them."""
        if self.ranks == 1:
            return dict(tensors or {})
        own = {name: value.detach().cpu().contiguous() for name, value in (tensors or {}).items()}
        listed = self.told(lambda: [(name, str(v.dtype)[6:], list(v.shape)) for name, v in own.items()])
        shared = {}
        for name, dtype, shape in listed:
            value = own[name] if self.first else torch.empty(shape, dtype=getattr(torch, dtype))
            if value.numel():
                with _listening():
                    dist.broadcast(value.view(-1).view(torch.uint8), 0)
            shared[name] = value
        return shared

    def spoken(self, error: FullconvError) -> BaseException:
        """Return an error that all processes have alike, to be raised: the first one says it, the others leave silently."""
        return error if self.first else SystemExit(error.exit_code)


ALONE = Processes()
"""A run without torchrun."""


@contextmanager
def _listening() -> Iterator[None]:
    """Turn what torch says of a broken connection into a LostError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise LostError(f"another process of this run is gone ({reason}).") from error


def restarted() -> bool:
    """Say whether torchrun started this process again after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is one.

    Args:
        device: "auto", "cpu" or "cuda", as the recipe has it: what they will compute on.

    Raises:
        RunError: There are more processes than GPUs here, or they do not find one another.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield ALONE
        return
    try:
        processes = Processes(
            int(os.environ["RANK"]), ranks, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        )
    except (KeyError, ValueError) as error:
        raise RunError(
            f"WORLD_SIZE is {ranks}, but {error} is not set as torchrun does. Start several processes by"
            " `torchrun --nproc-per-node N -m fullconv train ...`, or unset WORLD_SIZE."
        ) from None
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and processes.local_ranks > torch.cuda.device_count():
        raise RunError(
            f"{processes.local_ranks} processes on this machine, and PyTorch sees {torch.cuda.device_count()} GPUs:"
            " each process takes one. Lower --nproc-per-node, or add --device cpu."
        )
    if cuda:
        torch.cuda.set_device(processes.local_rank)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE, store=_own_store(processes), rank=processes.rank,
            world_size=ranks,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the processes do not find one another: {str(error).splitlines()[0]}") from error
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def _own_store(processes: Processes) -> Any:
    """Return the part of torchrun's store that is this start's; None where each start has a store of its own.

    Raises:
        RunError: Not all processes came.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    stores: Any = dist
    store = stores.TCPStore(address, port, processes.ranks, is_master=False, timeout=PATIENCE)
    return stores.PrefixStore(agree(store, processes.rank, processes.ranks, PATIENCE), store)


def own_device(device: str, processes: Processes) -> str:
    """Return the device of this process: with several, each takes the GPU of its place on the machine.

    Raises:
        RunError: A single GPU is named for several processes.
    """
    if processes.ranks == 1 or device == "cpu":
        return device
    if device not in ("auto", "cuda"):
        raise RunError(f"--device {device} names one GPU for {processes.ranks} processes. Say cuda, auto or cpu.")
    return f"cuda:{processes.local_rank}" if device == "cuda" or torch.cuda.is_available() else "cpu"
