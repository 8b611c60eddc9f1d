"""Where the processes of one start of torchrun find one another, and none of an earlier start.

torchrun's agent keeps one store for all the starts of a job (``--max-restarts``). What processes that are gone wrote into
it is still there when the next ones ask for one another's addresses: whoever asks before the other has written anew waits
for an address where nobody listens, until the timeout. Source: https://github.com/pytorch/pytorch/issues/135712. How often
torchrun has started is no remedy: each machine's agent counts for itself. So those who are there rendezvous on a name that no
others had.

Several processes that train one network together: which one this is, and what they tell one another.

torchrun starts them, on one machine or several; a run without it is one process, for which everything here does nothing.
Words travel as JSON and numbers as tensors. torch's way of sending objects is pickle, and unpickling runs what was sent.

Batch norm over the global batch of all processes.

What several processes make together: the gradient and the statistics of one global batch, and one score of all pictures.
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
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.data import Dataset, Sample
from fullconv.data.evaluation_samples import check_classes, choose_heads
from fullconv.errors import DataError, FullconvError, NetworkError, RunError, first_line
from fullconv.evaluation import Report, evaluate_heads
from fullconv.metrics import Counts
from fullconv.segmenter import Segmenter

_ROOM = "fullconv/meeting"
_PAUSE = 0.01
"""Seconds between two looks into the store."""


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> object:
        """Write."""

    def get(self, key: str) -> bytes:
        """Read what is there."""

    def check(self, keys: list[str]) -> bool:
        """Say whether all are there."""


def rendezvous(store: Store, rank: int, ranks: int, patience: timedelta) -> str:
    """Return a name that all processes of this start get alike, and no other start had.

    Each writes a word of its own. The first offers a name together with the words that it finds, anew whenever one has
    changed; only who finds its own word in an offer answers, under the offered name; and when all have answered, the first
    closes the round.

    Args:
        store: Seen by all; may hold what earlier processes wrote.
        rank: Of this process.
        ranks: How many there are.
        patience: How long to wait for the others.

    Raises:
        RunError: Some did not come.
    """
    word = secrets.token_hex(8)
    store.set(f"{_ROOM}/{rank}", word)
    looks = _poll(patience, rank, ranks)
    return _leader(store, ranks, looks) if rank == 0 else _follower(store, rank, word, looks)


def _leader(store: Store, ranks: int, looks: Iterator[None]) -> str:
    others = list(range(1, ranks))
    offered: list[str] | None = None
    name = ""
    for _ in looks:
        if not store.check([f"{_ROOM}/{rank}" for rank in others]):
            continue
        words = [store.get(f"{_ROOM}/{rank}").decode() for rank in others]
        if words != offered:
            offered, name = words, secrets.token_hex(8)
            store.set(f"{_ROOM}/offer", json.dumps([name, *words]))
        if store.check([f"{_ROOM}/{name}/{rank}" for rank in others]):
            break
    store.set(f"{_ROOM}/{name}/all", "")
    return name


def _follower(store: Store, rank: int, word: str, looks: Iterator[None]) -> str:
    answered = ""
    for _ in looks:
        if store.check([f"{_ROOM}/offer"]):
            name, *words = json.loads(store.get(f"{_ROOM}/offer"))
            if name != answered and words[rank - 1 : rank] == [word]:
                store.set(f"{_ROOM}/{name}/{rank}", "")
                answered = name
        if answered and store.check([f"{_ROOM}/{answered}/all"]):
            break
    return answered


def _poll(patience: timedelta, rank: int, ranks: int, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    end = clock() + patience.total_seconds()
    while clock() < end:
        yield
        time.sleep(_PAUSE)
    raise RunError(f"the processes do not find one another: process {rank} waited {patience} for all {ranks} of them.")


Item = TypeVar("Item")

DIST_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another, which may be checking its data or writing a report."""


class PeerLostError(RunError):
    """Another process of the run is gone."""


@dataclass(frozen=True)
class Distributed:
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
            PeerLostError: A process is gone.
        """
        if self.ranks > 1:
            with dist_errors():
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
        with dist_errors():
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
        with dist_errors():
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
                with dist_errors():
                    dist.broadcast(value.view(-1).view(torch.uint8), 0)
            shared[name] = value
        return shared

    def spoken(self, error: FullconvError) -> BaseException:
        """Return an error that all processes have alike, to be raised: the first one says it, the others leave silently."""
        return error if self.first else SystemExit(error.exit_code)


SINGLE_PROCESS = Distributed()
"""A run without torchrun."""


@contextmanager
def dist_errors() -> Iterator[None]:
    """Turn what torch says of a broken connection into a PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error)[:200]
        raise PeerLostError(f"another process of this run is gone ({reason}).") from error


def is_elastic_restart() -> bool:
    """Say whether torchrun started this process again after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def init_distributed(device: str) -> Iterator[Distributed]:
    """Join the processes that torchrun started; without torchrun there is one.

    Args:
        device: "auto", "cpu" or "cuda", as the recipe has it: what they will compute on.

    Raises:
        RunError: There are more processes than GPUs here, or they do not find one another.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield SINGLE_PROCESS
        return
    try:
        processes = Distributed(
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
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=DIST_TIMEOUT, store=_own_store(processes), rank=processes.rank,
            world_size=ranks,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the processes do not find one another: {first_line(error)}") from error
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def _own_store(processes: Distributed) -> Any:
    """Return the part of torchrun's store that is this start's; None where each start has a store of its own.

    Raises:
        RunError: Not all processes came.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    stores: Any = dist
    store = stores.TCPStore(address, port, processes.ranks, is_master=False, timeout=DIST_TIMEOUT)
    return stores.PrefixStore(rendezvous(store, processes.rank, processes.ranks, DIST_TIMEOUT), store)


def rank_device(device: str, processes: Distributed) -> str:
    """Return the device of this process: with several, each takes the GPU of its place on the machine.

    Raises:
        RunError: A single GPU is named for several processes.
    """
    if processes.ranks == 1 or device == "cpu":
        return device
    if device not in ("auto", "cuda"):
        raise RunError(f"--device {device} names one GPU for {processes.ranks} processes. Say cuda, auto or cpu.")
    return f"cuda:{processes.local_rank}" if device == "cuda" or torch.cuda.is_available() else "cpu"


def convert_sync_batchnorm(network: nn.Module, processes: Distributed) -> None:
    """Let every batch norm in training mode take mean and variance over the global batch.

    On GPUs torch's SyncBatchNorm does it. It refuses the CPU, where `_GlobalBatchNorm` does the same.

    Raises:
        NetworkError: The network has no batch norm, or one of a kind that cannot be synchronised here.
    """
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if not norms:
        raise NetworkError("sync_batchnorm = true does nothing in this network: it has no batch norm. Leave it away.")
    if processes.ranks == 1:
        return  # the global batch is this process's
    if next(network.parameters()).is_cuda:
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for name, norm in norms.items():
        if type(norm) is not nn.BatchNorm2d:
            raise NetworkError(
                f"{name} is a {type(norm).__name__}, which cannot be synchronised on the CPU. Leave sync_batchnorm away."
            )
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, _GlobalBatchNorm.of(norm, processes))


class _GlobalBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d whose batch is that of all processes."""

    processes: Distributed

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, processes: Distributed) -> _GlobalBatchNorm:
        """Take the place of a batch norm: the same parameters and statistics under the same names."""
        made = cls.__new__(cls)
        made.__dict__ = {**norm.__dict__, "processes": processes}
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        result: Tensor = _Normalize.apply(x, self.weight, self.bias, self, momentum)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.BatchNorm2d:
        """Copy as a plain one: copies are for trials of this process alone."""
        plain = nn.BatchNorm2d(self.num_features, self.eps, self.momentum)
        plain.load_state_dict(self.state_dict())
        return plain.train(self.training)


class _Normalize(torch.autograd.Function):
    """Normalise by the global mean and variance; in the backward pass their parts of the gradient are global, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: _GlobalBatchNorm, momentum: float) -> Tensor:
        count = x.numel() // x.shape[1]
        var, mean = (value.double() for value in torch.var_mean(x.float(), dim=(0, 2, 3), correction=0))
        # Sums in float64: the square of the mean is taken away from them.
        sums = torch.stack([torch.full_like(mean, count), mean * count, (var + mean**2) * count])
        total, first, second = norm.processes.sum(sums)
        mean = first / total
        var = (second / total - mean**2).clamp(min=0)
        scale = torch.rsqrt(var + norm.eps)
        unbiased = var * total / (total - 1).clamp(min=1)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
        ctx.save_for_backward(x, weight, mean.float(), scale.float(), total)
        ctx.processes = norm.processes
        return F.batch_norm(x, mean.float(), var.float(), weight, bias, eps=norm.eps)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, total = ctx.saved_tensors
        pulled = upstream.float()
        normal = (x.float() - mean[:, None, None]) * scale[:, None, None]
        bias_gradient = pulled.sum(dim=(0, 2, 3))
        weight_gradient = (pulled * normal).sum(dim=(0, 2, 3))
        sums = ctx.processes.sum(torch.stack([bias_gradient, weight_gradient]).double()) / total
        along, across = sums.float()[:, :, None, None]
        gradient = (pulled - along - normal * across) * (weight * scale)[:, None, None]
        return gradient.to(x.dtype), weight_gradient, bias_gradient, None, None


BUCKET_BYTES = 64 * 2**20
"""Gradients that are added up at a time."""


def all_reduce_gradients(network: nn.Module, processes: Distributed) -> None:
    """Add every gradient up over the processes, in an order that depends on nothing but the network.

    DistributedDataParallel regroups gradients after its first step. A run that goes on would then add in another order
    than one that was never stopped, and with three processes or more get other bits.
    """
    if processes.ranks == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in reversed(list(network.parameters())):
        if parameter.grad is None:
            continue
        bucket.append(parameter.grad)
        size += parameter.grad.numel() * parameter.grad.element_size()
        if size >= BUCKET_BYTES:
            all_reduce_flat(bucket, processes)
            bucket, size = [], 0
    all_reduce_flat(bucket, processes)


def reduce_bn_stats(network: nn.Module, processes: Distributed, share: float) -> None:
    """Let the running statistics of batch norms be the mean over the processes.

    Args:
        network: In training mode where its statistics moved.
        processes: All of them.
        share: This process's part of the global batch.
    """
    if processes.ranks == 1:
        return
    moved: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            moved += [value for value in (module.running_mean, module.running_var) if value is not None]
    for value in moved:
        value.mul_(share)
    all_reduce_flat(moved, processes)


def all_reduce_flat(tensors: Sequence[Tensor], processes: Distributed) -> None:
    """Add tensors up over the processes, in place and in one go."""
    if not tensors:
        return
    flat = processes.sum(torch.cat([value.flatten() for value in tensors]))
    for value, part in zip(tensors, torch.split(flat, [value.numel() for value in tensors]), strict=True):
        value.copy_(part.view(value.shape))


def evaluate_distributed(
    processes: Distributed,
    segmenter: Segmenter,
    dataset: Dataset,
    split: str,
    samples: Sequence[Sample],
    **options: Any,
) -> dict[str, Report]:
    """Score pictures as `evaluate_heads` does, each in exactly one of the processes; all return the whole.

    Each picture is predicted by itself and counts are whole numbers, so their sums are the same for any number of
    processes.

    Raises:
        DataError, InputError: As `evaluate_heads`; where it fails in one process it fails in all.
    """
    if processes.ranks == 1:
        return evaluate_heads(segmenter, dataset, split, samples=samples, **options)
    start = time.perf_counter()
    shares = DistributedEvaluator(segmenter, dataset, samples, processes)
    processes.all_do(lambda: shares.score_own(split, options))
    return shares.together(split, start)


class DistributedEvaluator:
    """What each process counts of its own pictures, every one of which has its place among all."""

    def __init__(
        self, segmenter: Segmenter, dataset: Dataset, samples: Sequence[Sample], processes: Distributed
    ) -> None:
        self.segmenter, self.dataset, self.samples, self.processes = segmenter, dataset, samples, processes
        self.classes: dict[str, tuple[str, ...]] = {}
        for ours, theirs in choose_heads(segmenter.card, dataset, None):
            names = segmenter.card.labels(ours).classes
            check_classes(names, dataset.labels[theirs].classes, str(dataset.root))
            self.classes[ours or ""] = names
        sizes = {head: len(names) for head, names in self.classes.items()}
        self.own = {i: sample for i, sample in enumerate(samples) if i % processes.ranks == processes.rank}
        self.counts = {head: torch.zeros(len(samples), 3, k, dtype=torch.int64) for head, k in sizes.items()}
        self.confusions = {head: torch.zeros(k, k, dtype=torch.int64) for head, k in sizes.items()}
        self.failed: list[list[Any]] = []
        """Each with its place, and input and reason."""

    def score_own(self, split: str, options: dict[str, Any]) -> None:
        """Count this process's pictures."""
        if not self.own:
            return
        try:
            reports = evaluate_heads(self.segmenter, self.dataset, split, samples=list(self.own.values()), **options)
        except DataError as error:  # not one of this process's pictures; the others may have some
            if options.get("on_error") != "record":
                raise
            self.failed += [[i, {"input": s.image.as_posix(), "reason": str(error)}] for i, s in self.own.items()]
            return
        for head, report in reports.items():
            self.confusions[head].add_(torch.from_numpy(report.confusion))
            for index, sample in self.own.items():
                if sample.stem in report.per_image:
                    self.counts[head][index] = torch.from_numpy(np.stack(report.per_image[sample.stem]))
        reasons = {entry["input"]: entry for entry in next(iter(reports.values())).failed}
        self.failed += [[i, reasons[s.image.as_posix()]] for i, s in self.own.items() if s.image.as_posix() in reasons]

    def together(self, split: str, start: float) -> dict[str, Report]:
        """Add up what all processes counted, and return the score of each head.

        Raises:
            DataError: No picture of any process could be scored.
        """
        for head in self.classes:
            self.processes.sum(self.counts[head])
            self.processes.sum(self.confusions[head])
        gathered = [entry for part in self.processes.gathered(self.failed) for entry in part]
        missed = dict(sorted(gathered, key=lambda entry: entry[0]))
        scored = [index for index in range(len(self.samples)) if index not in missed]
        if missed and not scored:
            words = f"{self.dataset.root}: none of {len(self.samples)} pictures could be scored"
            raise self.processes.spoken(DataError(f"{words}: {next(iter(missed.values()))['reason']}"))
        engine = self.segmenter.engine
        return {
            head: Report(
                names, self.confusions[head].numpy(),
                {self.samples[index].stem: Counts(*self.counts[head][index].numpy()) for index in scored},
                engine=engine.name, precision=engine.precision, split=split, failed=list(missed.values()),
                seconds=time.perf_counter() - start,
            )
            for head, names in self.classes.items()
        }  # fmt: skip
