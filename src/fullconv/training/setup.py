"""What a run is made of: network, card, losses, batches, and the describe_run of what it will take."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

import fullconv
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card
from fullconv.data import Dataset, Statistics
from fullconv.data.crop_sampling import class_weights
from fullconv.data.loader import TrainingBatches
from fullconv.dataset_constants import channel_means
from fullconv.errors import DataError, RunError
from fullconv.losses import PixelLoss
from fullconv.modelfile import CARD_KEY, card_excess, read_header
from fullconv.nn import Network, build, timm_models
from fullconv.nn.pretrained import pretrained_cfg
from fullconv.profiling import duration
from fullconv.recipe import Recipe
from fullconv.segmenter import build_settings
from fullconv.tiling import explain_inexact
from fullconv.training.config import Schedule
from fullconv.training.console import Console, format_bytes
from fullconv.training.distributed import SINGLE_PROCESS, Distributed

CACHE_BYTES = 1 << 30
"""Of decoded pictures in the memory of a machine."""

_CLASSIFIER = {"vgg": "vgg16"}
"""ImageNet classifier that a published net's trunk starts from."""


def build_model(recipe: Recipe, dataset: Dataset, channels: int, device: torch.device, console: Console) -> Network:
    """Build the network and put it where it will be trained, saying what of its weights starts anew."""
    heads = dataset.labels
    single = len(heads) == 1
    counts: int | dict[str, int] = (
        len(dataset.classes) if single else {name: len(labels.classes) for name, labels in heads.items()}
    )
    network = build(
        recipe.variant, backbone=recipe.backbone, num_classes=counts, in_channels=channels,
        weights=recipe.weights, norm=recipe.norm, width=recipe.width, head=recipe.head,
    )  # fmt: skip
    if network.missing_keys:
        parts = sorted({name.rsplit(".", 1)[0] for name in network.missing_keys})
        console.say(f"Starting anew, not from {recipe.weights}: {', '.join(parts)}.")
    if network.halo is None:
        console.say(f"Tiles will not be exact with this network: {explain_inexact(network)}")
    if recipe.freeze == "backbone":
        network.backbone.requires_grad_(False)
    network.to(device).to(memory_format=torch.channels_last)
    return network


def build_card(recipe: Recipe, network: Network, dataset: Dataset, statistics: Statistics, fingerprint: str) -> Card:
    """Return the card of a model that has no scores yet."""
    labels = dataset.labels
    first = next(iter(labels.values()))
    mean, std, value_range = _normalization(recipe, statistics)
    order = _channel_order(recipe, network.in_channels)
    origin, license_name = _weights_origin(recipe)
    card = Card(
        variant=recipe.variant, backbone=network.settings["backbone"], network=build_settings(network),
        in_channels=network.in_channels, classes=first.classes, palette=first.palette,
        ignore_index=first.ignore_index, values=first.values, heads=labels if len(labels) > 1 else None,
        bands=dataset.bands, channel_order=order, mean=mean, std=std, range=value_range, scale=recipe.scale,
        stride=network.stride, receptive_field=network.receptive_field, recipe=recipe.model_dump(mode="json", exclude_none=True),
        data={
            "fingerprint": fingerprint,
            "splits": {split: [s.stem for s in members] for split, members in dataset.splits.items()},
        },
        weights_origin=origin, weights_license=license_name, fullconv=fullconv.__version__,
    )  # fmt: skip
    if excess := card_excess(card):
        raise DataError(
            f"{dataset.root}: the names of all its pictures stand in the model's card, which then {excess}."
            " Give them shorter names, or train on fewer."
        )
    return card


def _normalization(recipe: Recipe, s: Statistics) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]]:
    """Return mean, std and range: those of the starting weights, else those of the training set."""
    card = _starting_card(recipe)
    if card is not None and card.in_channels == s.channels:
        return card.mean, card.std, card.range
    if recipe.weights.endswith(".caffemodel") and s.channels >= 3:
        # Caffe's nets take 0..255 without the mean, undivided: the range 0..1 leaves the numbers as they are.
        return (*channel_means(recipe.variant)[:3], *s.fill[3:]), (1.0,) * s.channels, (0.0, 1.0)
    if recipe.weights != "none" and card is None and s.channels == 3 and s.dtype == "uint8":
        mean, std = _pretrained_statistics(_CLASSIFIER.get(recipe.backbone, recipe.backbone))
        return mean, std, s.range
    return tuple(s.mean), tuple(max(value, 1e-6) for value in s.std), s.range


def _starting_card(recipe: Recipe) -> Card | None:
    """Return the card of the model of ours that a run starts from, where it does."""
    if not recipe.weights.endswith(".safetensors") or not Path(recipe.weights).is_file():
        return None
    text = read_header(recipe.weights)[1].get(CARD_KEY)
    return Card.from_json(text, recipe.weights) if text else None


def _channel_order(recipe: Recipe, channels: int) -> Literal["rgb", "bgr"]:
    """Return the order of channels that the starting weights were trained with."""
    card = _starting_card(recipe)
    if card is not None and card.in_channels == channels:
        return card.channel_order
    caffe = recipe.weights.endswith(".caffemodel") and channels >= 3 and recipe.variant != "nyud-fcn32s-hha"
    return "bgr" if caffe else "rgb"


def _weights_origin(recipe: Recipe) -> tuple[str | None, str | None]:
    if recipe.weights == "none":
        return None, None
    if recipe.weights == "imagenet":
        published = pretrained_cfg(_CLASSIFIER.get(recipe.backbone, recipe.backbone))
        return published.url, published.license
    start = _starting_card(recipe)
    return Path(recipe.weights).name, None if start is None else start.weights_license


def _pretrained_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std that a backbone's published weights were trained with."""
    config = None if backbone in ("alexnet", "googlenet") else timm_models.pretrained(backbone)
    if config is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(config.mean), tuple(config.std)


def build_criteria(recipe: Recipe, dataset: Dataset) -> tuple[dict[str, PixelLoss], list[str]]:
    """Return the loss by head, and sentences that say how classes weigh."""
    losses, said = {}, []
    for head in dataset.labels:
        numbers = dataset.statistics("train", head)
        weights, sentence = class_weights(numbers, recipe.class_weights)
        said.append(f"{head}: {sentence}" if head else sentence)
        plain = bool((weights == 1).all())
        losses[head] = PixelLoss(
            recipe.loss, None if plain else [float(w) for w in weights], recipe.focal_gamma, recipe.reduction
        )
    return losses, said


def build_train_loader(
    recipe: Recipe, dataset: Dataset, statistics: Statistics, processes: Distributed = SINGLE_PROCESS
) -> TrainingBatches:
    """Return this process's part of the training batches of a resolved recipe.

    Raises:
        RunError: A batch has fewer crops than there are processes.
    """
    assert recipe.batch_size is not None
    assert recipe.crop is not None
    if recipe.batch_size < processes.ranks:
        raise RunError(
            f"a batch of {recipe.batch_size} crops is too small for {processes.ranks} processes: give each at least one"
            f" by --batch-size {processes.ranks}, or start fewer."
        )
    return TrainingBatches(
        dataset, "train", batch_size=recipe.batch_size, crop=recipe.crop, scale=recipe.scale,
        augment=recipe.augment, seed=recipe.seed, sampling=recipe.sampling, workers=recipe.workers or 0,
        statistics=statistics, cache_bytes=CACHE_BYTES // processes.local_ranks, rank=processes.rank,
        ranks=processes.ranks,
    )  # fmt: skip


def describe_run(network: Network, recipe: Recipe, m: Schedule, device: torch.device) -> list[str]:
    """Return sentences with the resolved settings and what the run will take: time, memory, disk."""
    assert recipe.crop is not None
    seen = "whole pictures" if recipe.crop == "whole" else f"crops of {recipe.crop[0]}x{recipe.crop[1]}"
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    moments = 2 if recipe.optimizer == "adamw" else 1
    disk = 2 * size * (1 + moments + (recipe.ema > 0)) + 2 * size
    said = [
        f"{recipe.variant} on {network.settings['backbone']}, {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M"
        f" parameters; {recipe.batch_size} {seen}"
        f"{'' if recipe.scale == 1 else f' at scale {recipe.scale:g}'}, {recipe.loss}, {recipe.optimizer}, lr {recipe.lr:g},"
        f" {recipe.schedule}; {'' if m.processes == 1 else f'{m.processes} processes, each '}{m.precision} on {device},"
        f" {m.threads} thread{'s' * (m.threads != 1)}, {recipe.workers} worker{'s' * (recipe.workers != 1)}.",
        f"{m.steps} step{'s' * (m.steps != 1)} in {m.epochs} epoch{'s' * (m.epochs != 1)}, {m.seconds_per_step:.2f} s a"
        f" step: about {duration(m.steps * m.seconds_per_step * 1.1)}; memory about {format_bytes(peak_rss())},"
        f" disk about {format_bytes(disk)}."
        f" Validation every {m.validate_every} epoch{'s' * (m.validate_every > 1)} on {m.validation_pictures} pictures.",
    ]
    if recipe.minutes is not None and m.steps < m.steps_per_epoch:
        said.append(
            f"{recipe.minutes:g} minutes leave no time for an epoch of {m.steps_per_epoch} steps: starting, scoring and"
            " the report take the most of them, and may take longer. Give more minutes, or --epochs."
        )
    return said


def peak_rss() -> float:
    """Return the most memory that this process has held so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
