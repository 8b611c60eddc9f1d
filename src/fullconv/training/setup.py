"""What a run is made of: context, network, card, loss, loader, and the description printed before step 1."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from fullconv._version import __version__
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card
from fullconv.data import Dataset, Sample, Statistics, TrainingBatches, class_weights, describe_images
from fullconv.dataset_constants import channel_means
from fullconv.errors import DataError, RunError, plural
from fullconv.losses import PixelLoss
from fullconv.modelfile import card_excess, is_model_file, read_card
from fullconv.nn import Network, build, load_model_weights, pretrained_cfg, pretrained_statistics
from fullconv.profiling import duration
from fullconv.recipe import Recipe
from fullconv.segmenter import build_settings
from fullconv.system import peak_rss
from fullconv.tiling import explain_inexact
from fullconv.training.config import Schedule
from fullconv.training.console import Console, format_bytes
from fullconv.training.distributed import SINGLE_PROCESS, Distributed
from fullconv.training.run_dir import RunDir

CACHE_BYTES = 1 << 30
"""Decoded images in the memory of a machine."""
_CLASSIFIER = {"vgg": "vgg16"}
"""ImageNet classifier that a published network's backbone starts from."""


@dataclass(frozen=True)
class RunRequest:
    """What the caller of a run asked for."""

    data: Path
    out: Path
    """The run folder."""
    settings: Mapping[str, Any]
    """Those that the user specified, by the recipe's names."""
    resume: bool = False
    lengthen: bool = False
    """On resume, let the epochs be more than the run has."""
    recipe: Path | str | None = None
    """A recipe file, or the name of a recipe of the package."""
    format: str | None = None
    """Layout of the data where several fit."""
    console: Console = field(default_factory=Console)
    started: float = field(default_factory=time.monotonic)
    """`time.monotonic` at the start of the program; minutes count from there."""
    dist: Distributed = SINGLE_PROCESS
    staged: bool = False
    """Whether it is the last of several stages, which has the others in its folder."""


@dataclass
class RunContext:
    """What the parts of a run share; fixed before its first step."""

    recipe: Recipe
    """Resolved."""
    card: Card
    dataset: Dataset
    statistics: Statistics
    """Of the training split."""
    run_dir: RunDir
    console: Console
    device: torch.device
    dist: Distributed = SINGLE_PROCESS
    notes: list[str] = field(default_factory=list)
    """For the report."""

    @property
    def val(self) -> Sequence[Sample]:
        """Samples of the val split."""
        return self.dataset.splits.get("val", [])


def build_model(
    recipe: Recipe, dataset: Dataset, channels: int, device: torch.device, console: Console
) -> tuple[Network, list[str]]:
    """Build the network on its device; return also sentences, printed, on what came from the weights of a model."""
    classes = {name: labels.classes for name, labels in dataset.labels.items()}
    counts = {name: len(names) for name, names in classes.items()}
    is_model = is_model_file(recipe.weights)
    network = build(
        recipe.variant, backbone=recipe.backbone,
        num_classes=counts if len(counts) > 1 else len(dataset.classes), in_channels=channels,
        weights=None if is_model else recipe.weights, norm=recipe.norm, width=recipe.width, head=recipe.head,
    )  # fmt: skip
    sentences = []
    if is_model:
        several = len(classes) > 1
        rows = load_model_weights(network, recipe.weights, classes if several else {"": dataset.classes})
        sentences = [f"Classes of {recipe.weights}, by name: {row}." for row in rows]
    if network.missing_keys:
        parts = sorted({name.rsplit(".", 1)[0] for name in network.missing_keys})
        sentences.append(f"Newly initialized, not from {recipe.weights}: {', '.join(parts)}.")
    for sentence in sentences:
        console.info(sentence)
    if network.halo is None:
        console.info(f"Tiles will not be exact with this network: {explain_inexact(network)}")
    if recipe.freeze == "backbone":
        network.backbone.requires_grad_(False)
    return network.to(device).to(memory_format=torch.channels_last), sentences


def start_card(recipe: Recipe) -> Card | None:
    """Return the card of the fullconv model that a run starts from, if it starts from one."""
    return read_card(recipe.weights) if is_model_file(recipe.weights) else None


def build_card(
    recipe: Recipe,
    network: Network,
    dataset: Dataset,
    statistics: Statistics,
    fingerprint: str,
    start: Card | None = None,
) -> Card:
    """Return the card of a model without scores; `start` is that of the model that the run starts from."""
    labels = dataset.labels
    first = next(iter(labels.values()))
    order, mean, std, value_range = input_convention(recipe, statistics, start)
    origin: str | None = None
    license_name: str | None = None
    if recipe.weights == "imagenet":
        config = pretrained_cfg(_CLASSIFIER.get(recipe.backbone, recipe.backbone))
        origin, license_name = config.url, config.license
    elif recipe.weights != "none":
        origin, license_name = Path(recipe.weights).name, None if start is None else start.weights_license
    card = Card(
        variant=recipe.variant, backbone=network.settings["backbone"], network=build_settings(network),
        in_channels=network.in_channels, classes=first.classes, palette=first.palette,
        ignore_index=first.ignore_index, values=first.values, heads=labels if len(labels) > 1 else None,
        mirror_pairs=first.mirror_pairs,
        bands=dataset.bands, channel_order=order, mean=mean, std=std, range=value_range, scale=recipe.scale,
        stride=network.stride, receptive_field=network.receptive_field, recipe=recipe.model_dump(mode="json", exclude_none=True),
        data={"fingerprint": fingerprint, **describe_images(dataset, start)},
        weights_origin=origin, weights_license=license_name, fullconv=__version__,
    )  # fmt: skip
    if excess := card_excess(card):
        raise DataError(
            f"{dataset.root}: the model's card lists the names of all images, which makes it {excess}."
            " Shorten the names, or train on fewer images."
        )
    return card


def input_convention(
    recipe: Recipe, s: Statistics, start: Card | None
) -> tuple[Literal["rgb", "bgr"], tuple[float, ...], tuple[float, ...], tuple[float, float]]:
    """Return channel order, mean, std and range of the pretrained weights, else of the training set."""
    if start is not None and start.in_channels == s.channels:
        return start.channel_order, start.mean, start.std, start.range
    if recipe.weights.endswith(".caffemodel") and s.channels >= 3:
        # Caffe's networks take 0..255 minus the mean, undivided: the range 0..1 leaves the numbers as they are.
        mean = (*channel_means(recipe.variant)[:3], *s.fill[3:])
        return "rgb" if recipe.variant == "nyud-fcn32s-hha" else "bgr", mean, (1.0,) * s.channels, (0.0, 1.0)
    if recipe.weights != "none" and start is None and s.channels == 3 and s.dtype == "uint8":
        backbone = _CLASSIFIER.get(recipe.backbone, recipe.backbone)
        mean, std = pretrained_statistics(backbone) or (IMAGENET_MEAN, IMAGENET_STD)
        return "rgb", mean, std, s.range
    return "rgb", tuple(s.mean), tuple(max(value, 1e-6) for value in s.std), s.range


def build_criteria(recipe: Recipe, dataset: Dataset) -> tuple[dict[str, PixelLoss], list[str]]:
    """Return the loss by head, and sentences about the class weights."""
    criteria, notes = {}, []
    for head in dataset.labels:
        weights, sentence = class_weights(dataset.statistics("train", head), recipe.class_weights)
        notes.append(f"{head}: {sentence}" if head else sentence)
        plain = bool((weights == 1).all())
        criteria[head] = PixelLoss(
            recipe.loss, None if plain else [float(w) for w in weights], recipe.focal_gamma, recipe.reduction
        )
    return criteria, notes


def build_train_loader(
    recipe: Recipe, dataset: Dataset, statistics: Statistics, dist: Distributed = SINGLE_PROCESS
) -> TrainingBatches:
    """Return this process's part of the training batches of a resolved recipe."""
    assert recipe.batch_size is not None
    assert recipe.crop is not None
    if recipe.batch_size < dist.world_size:
        raise RunError(
            f"a batch of {plural(recipe.batch_size, 'crop')} is too small for {dist.world_size} processes: set"
            f" --batch-size {dist.world_size} or more, or start fewer processes."
        )
    return TrainingBatches(
        dataset, "train", batch_size=recipe.batch_size, crop=recipe.crop, scale=recipe.scale,
        augment=recipe.augment, seed=recipe.seed, sampling=recipe.sampling, workers=recipe.workers or 0,
        statistics=statistics, cache_bytes=CACHE_BYTES // dist.local_world_size, rank=dist.rank,
        ranks=dist.world_size,
    )  # fmt: skip


def describe_run(network: Network, recipe: Recipe, schedule: Schedule, device: torch.device) -> list[str]:
    """Return sentences with the resolved settings and the forecast of time, memory and disk."""
    assert recipe.crop is not None
    inputs = "full images" if recipe.crop == "whole" else f"crops of {recipe.crop[0]}x{recipe.crop[1]}"
    scale = "" if recipe.scale == 1 else f" at scale {recipe.scale:g}"
    processes = "" if schedule.processes == 1 else f"{schedule.processes} processes, each "
    model_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    moments = 2 if recipe.optimizer == "adamw" else 1
    disk = 2 * model_bytes * (1 + moments + (recipe.ema > 0)) + 2 * model_bytes
    every = "every epoch" if schedule.validate_every == 1 else f"every {schedule.validate_every} epochs"
    sentences = [
        f"{recipe.variant} on {network.settings['backbone']}, {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M"
        f" parameters; {recipe.batch_size} {inputs}{scale}, {recipe.loss}, {recipe.optimizer}, lr {recipe.lr:g},"
        f" {recipe.schedule}; {processes}{schedule.precision} on {device}, {plural(schedule.threads, 'thread')},"
        f" {plural(recipe.workers or 0, 'worker')}.",
        f"{plural(schedule.steps, 'step')} in {plural(schedule.epochs, 'epoch')}, {schedule.seconds_per_step:.2f} s per"
        f" step: about {duration(schedule.steps * schedule.seconds_per_step * 1.1)}; memory about"
        f" {format_bytes(peak_rss() or 0)}, disk about {format_bytes(disk)}."
        f" Validation {every} on {plural(schedule.validation_pictures, 'image')}.",
    ]
    if recipe.minutes is not None and schedule.steps < schedule.steps_per_epoch:
        sentences.append(
            f"{recipe.minutes:g} minutes are too short for an epoch of {plural(schedule.steps_per_epoch, 'step')}: starting,"
            " scoring and the report take most of them, and may take longer. Use more minutes, or --epochs."
        )
    return sentences
