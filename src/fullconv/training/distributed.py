"""Several processes that train one network: what they send each other, and what they compute together.

torchrun starts the processes, on one machine or several; without it there is one, for which everything here is a no-op.
Objects are sent as JSON in tensors: torch's own object collectives use pickle, and unpickling runs code of the sender.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fullconv.data import Dataset, Sample, match_heads
from fullconv.errors import DataError, FullconvError, NetworkError, RunError, first_line, plural
from fullconv.evaluation import Report, evaluate_heads
from fullconv.metrics import Counts
from fullconv.segmenter import Segmenter
from fullconv.training.errors import PeerLostError

Item = TypeVar("Item")

DIST_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another, which may be checking its data or writing a report."""
BUCKET_BYTES = 64 * 2**20
"""Gradients that are reduced at a time."""
POLL_INTERVAL_S = 0.01
"""Between two reads of the store."""
_KEY = "fullconv/meeting"
"""Prefix of the rendezvous's keys in the store."""


@dataclass(frozen=True)
class Distributed:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    """Processes on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place; each gets the same bits."""
        if self.world_size > 1:
            with dist_errors():
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, work: Callable[[], Any]) -> Any:
        """Call a function in the main process, and return its JSON-serializable result in all."""
        if self.world_size == 1:
            return work()
        return self.all_gather_object(self.run_synced(lambda: work() if self.is_main else None))[0]

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the JSON-serializable value of every process, by rank."""
        if self.world_size == 1:
            return [value]
        own = json.dumps(value).encode()
        lengths = torch.zeros(self.world_size, dtype=torch.int64)
        lengths[self.rank] = len(own)
        self.all_reduce(lengths)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        with dist_errors():
            dist.all_gather(parts, padded)
        return [json.loads(part[:n].numpy().tobytes()) for part, n in zip(parts, lengths.tolist(), strict=True)]

    def run_synced(self, work: Callable[[], Item]) -> Item:
        """Call a function in every process; if it fails in one, it fails in all."""
        if self.world_size == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except FullconvError as caught:
            error = caught
        if not int(self.all_reduce(torch.tensor(int(error is not None)))):
            return result  # type: ignore[return-value]
        messages = self.all_gather_object(None if error is None else str(error))
        rank = next(rank for rank, message in enumerate(messages) if message is not None)
        everywhere = all(message == messages[0] for message in messages)
        where = "" if rank == 0 or everywhere else f" (in process {rank} of 0 to {self.world_size - 1})"
        raise self.main_raises(error if error is not None and not where else RunError(f"{messages[rank]}{where}"))

    def local_main_first(self, work: Callable[[], Item]) -> Item:
        """Call a function in one process of each machine, then in its others, which find the caches filled."""
        if self.world_size == 1:
            return work()
        results: list[Item] = []
        self.run_synced(lambda: results.append(work()) if self.local_rank == 0 else None)
        self.run_synced(lambda: results.append(work()) if self.local_rank != 0 else None)
        return results[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return the main process's tensors in all, on the CPU."""
        if self.world_size == 1:
            return dict(tensors or {})
        own = {name: value.detach().cpu().contiguous() for name, value in (tensors or {}).items()}
        received = {}
        for name, dtype, shape in self.broadcast(
            lambda: [(n, str(v.dtype)[6:], list(v.shape)) for n, v in own.items()]
        ):
            value = own[name] if self.is_main else torch.empty(shape, dtype=getattr(torch, dtype))
            if value.numel():
                with dist_errors():
                    dist.broadcast(value.view(-1).view(torch.uint8), 0)
            received[name] = value
        return received

    def main_raises(self, error: FullconvError) -> BaseException:
        """Return what to raise for an error that all processes have: the main one reports it, the others exit silently."""
        return error if self.is_main else SystemExit(error.exit_code)


SINGLE_PROCESS = Distributed()
"""A run without torchrun."""


@contextmanager
def dist_errors() -> Iterator[None]:
    """Turn torch's errors of a broken connection into a PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"another process of this run is gone ({first_line(error)[:200]}).") from error


@contextmanager
def init_distributed(device: str) -> Iterator[Distributed]:
    """Connect the processes that torchrun started; without torchrun there is one."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    try:
        own = Distributed(
            int(os.environ["RANK"]), world_size, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        )
    except (KeyError, ValueError) as error:
        raise RunError(
            f"WORLD_SIZE is {world_size}, but {error} is not set as torchrun does. Start several processes by"
            " `torchrun --nproc-per-node N -m fullconv train ...`, or unset WORLD_SIZE."
        ) from None
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and own.local_world_size > torch.cuda.device_count():
        raise RunError(
            f"{own.local_world_size} processes on this machine, but PyTorch sees {torch.cuda.device_count()} GPUs:"
            " each process needs its own. Lower --nproc-per-node, or add --device cpu."
        )
    if cuda:
        torch.cuda.set_device(own.local_rank)
    store: Any = None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        stores: Any = dist
        shared = stores.TCPStore(address, port, world_size, is_master=False, timeout=DIST_TIMEOUT)
        store = stores.PrefixStore(rendezvous(shared, own.rank, world_size, DIST_TIMEOUT), shared)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=DIST_TIMEOUT, store=store, rank=own.rank,
            world_size=world_size,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the processes cannot connect: {first_line(error)}") from error
    try:
        yield own
    finally:
        dist.destroy_process_group()


def rank_device(device: str, own: Distributed) -> str:
    """Return the device of this process: with several, each takes the GPU of its local rank."""
    if own.world_size == 1 or device == "cpu":
        return device
    if device not in ("auto", "cuda"):
        raise RunError(f"--device {device} is one GPU for {own.world_size} processes. Use cuda, auto or cpu.")
    return f"cuda:{own.local_rank}" if device == "cuda" or torch.cuda.is_available() else "cpu"


# --- rendezvous -------------------------------------------------------------------------------------------------------


def rendezvous(store: Any, rank: int, world_size: int, timeout: timedelta) -> str:
    """Return a prefix for the store that all processes of this start share, and no earlier start had.

    torchrun's agent keeps one store over all restarts (``--max-restarts``), where a process may find the address of one
    that is gone and wait for it until the timeout (https://github.com/pytorch/pytorch/issues/135712, still so in torch
    2.15). The restart count is no remedy: each machine's agent counts for itself.

    Each process writes a random token. The leader offers a prefix together with the tokens that it reads, again whenever
    one has changed; only a process that finds its own token in the offer acknowledges it, under the offered prefix; when
    all have, the leader closes the round.
    """
    token = secrets.token_hex(8)
    store.set(f"{_KEY}/{rank}", token)
    polls = _poll(timeout, rank, world_size)
    return _leader(store, world_size, polls) if rank == 0 else _follower(store, rank, token, polls)


def _leader(store: Any, world_size: int, polls: Iterator[None]) -> str:
    others = list(range(1, world_size))
    offered: list[str] | None = None
    prefix = ""
    for _ in polls:
        if not store.check([f"{_KEY}/{rank}" for rank in others]):
            continue
        tokens = [store.get(f"{_KEY}/{rank}").decode() for rank in others]
        if tokens != offered:
            offered, prefix = tokens, secrets.token_hex(8)
            store.set(f"{_KEY}/offer", json.dumps([prefix, *tokens]))
        if store.check([f"{_KEY}/{prefix}/{rank}" for rank in others]):
            break
    store.set(f"{_KEY}/{prefix}/all", "")
    return prefix


def _follower(store: Any, rank: int, token: str, polls: Iterator[None]) -> str:
    acknowledged = ""
    for _ in polls:
        if store.check([f"{_KEY}/offer"]):
            prefix, *tokens = json.loads(store.get(f"{_KEY}/offer"))
            if prefix != acknowledged and tokens[rank - 1 : rank] == [token]:
                store.set(f"{_KEY}/{prefix}/{rank}", "")
                acknowledged = prefix
        if acknowledged and store.check([f"{_KEY}/{acknowledged}/all"]):
            break
    return acknowledged


def _poll(timeout: timedelta, rank: int, world_size: int) -> Iterator[None]:
    end = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < end:
        yield
        time.sleep(POLL_INTERVAL_S)
    raise RunError(f"the processes cannot connect: process {rank} waited {timeout} for all {world_size} of them.")


# --- gradients and statistics of the global batch ---------------------------------------------------------------------


def all_reduce_gradients(network: nn.Module, own: Distributed) -> None:
    """Sum every gradient over the processes, in an order that depends only on the network.

    DistributedDataParallel regroups gradients after its first step, so a resumed run would sum in another order and, with
    three or more processes, get other bits.
    """
    if own.world_size == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in reversed(list(network.parameters())):
        if parameter.grad is None:
            continue
        bucket.append(parameter.grad)
        size += parameter.grad.numel() * parameter.grad.element_size()
        if size >= BUCKET_BYTES:
            all_reduce_flat(bucket, own)
            bucket, size = [], 0
    all_reduce_flat(bucket, own)


def reduce_bn_stats(network: nn.Module, own: Distributed, weight: float) -> None:
    """Average the running statistics of batch norms over the processes."""
    if own.world_size == 1:
        return
    moved: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            moved += [value for value in (module.running_mean, module.running_var) if value is not None]
    for value in moved:
        value.mul_(weight)
    all_reduce_flat(moved, own)


def all_reduce_flat(tensors: Sequence[Tensor], own: Distributed) -> None:
    """Sum tensors over the processes, in place and in one call."""
    if not tensors:
        return
    flat = own.all_reduce(torch.cat([value.flatten() for value in tensors]))
    for value, part in zip(tensors, torch.split(flat, [value.numel() for value in tensors]), strict=True):
        value.copy_(part.view(value.shape))


def convert_sync_batchnorm(network: nn.Module, own: Distributed) -> None:
    """Let every batch norm in training mode normalize over the global batch; on CUDA only, as torch's does."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise NetworkError(
            "sync_batchnorm = true does nothing in this network: it has no batch norm. Remove the setting."
        )
    if own.world_size == 1:
        return  # the global batch is this process's
    if not next(network.parameters()).is_cuda:
        raise NetworkError(
            "sync_batchnorm = true needs CUDA: torch does not synchronize batch norms on the CPU. Remove the setting."
        )
    from timm.layers.norm_act import convert_sync_batchnorm as convert

    convert(network)  # type: ignore[no-untyped-call]


def evaluate_distributed(
    own: Distributed, segmenter: Segmenter, dataset: Dataset, split: str, samples: Sequence[Sample], **options: Any
) -> dict[str, Report]:
    """Score as `evaluate_heads` does, each image in exactly one process; all return the same report for any number of them."""
    if own.world_size == 1:
        return evaluate_heads(segmenter, dataset, split, samples=samples, **options)
    start = time.perf_counter()
    heads = match_heads(segmenter.card, dataset, None)
    classes = {head or "": segmenter.card.labels(head).classes for head, _ in heads}
    counts = {head: torch.zeros(len(samples), 3, len(names), dtype=torch.int64) for head, names in classes.items()}
    confusions = {head: torch.zeros(len(names), len(names), dtype=torch.int64) for head, names in classes.items()}
    failed: list[list[Any]] = []  # position, and input and reason, of each image

    def score_own() -> None:
        part = {i: sample for i, sample in enumerate(samples) if i % own.world_size == own.rank}
        try:
            own_samples = list(part.values())
            reports = evaluate_heads(segmenter, dataset, split, samples=own_samples, **options) if part else {}
        except DataError as error:  # none of this process's images; the others may have some
            if options.get("on_error") != "record":
                raise
            failed.extend([i, {"input": s.image.as_posix(), "reason": str(error)}] for i, s in part.items())
            return
        reasons = {entry["input"]: entry for report in list(reports.values())[:1] for entry in report.failed}
        failed.extend([i, reasons[s.image.as_posix()]] for i, s in part.items() if s.image.as_posix() in reasons)
        for head, report in reports.items():
            confusions[head].add_(torch.from_numpy(report.confusion))
            for index, sample in part.items():
                if sample.stem in report.per_image:
                    counts[head][index] = torch.from_numpy(np.stack(report.per_image[sample.stem]))

    own.run_synced(score_own)
    for head in classes:
        own.all_reduce(counts[head])
        own.all_reduce(confusions[head])
    gathered = [entry for part in own.all_gather_object(failed) for entry in part]
    missing = dict(sorted(gathered, key=lambda entry: entry[0]))
    scored = [index for index in range(len(samples)) if index not in missing]
    if missing and not scored:
        reason = next(iter(missing.values()))["reason"]
        message = f"{dataset.root}: none of {plural(len(samples), 'image')} could be scored: {reason}"
        raise own.main_raises(DataError(message))
    return {
        head: Report(
            names, confusions[head].numpy(),
            {samples[index].stem: Counts(*counts[head][index].numpy()) for index in scored},
            engine=segmenter.engine.name, precision=segmenter.engine.precision, split=split,
            failed=list(missing.values()), seconds=time.perf_counter() - start,
        )
        for head, names in classes.items()
    }  # fmt: skip
