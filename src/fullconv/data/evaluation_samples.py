"""Heads, classes and images of a data set on which a model is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fullconv.card import Card
from fullconv.data.dataset import Dataset
from fullconv.data.samples import Sample
from fullconv.errors import DataError, plural


def match_heads(card: Card, dataset: Dataset, head: str | None) -> list[tuple[str | None, str]]:
    """Match heads of a model with heads of a data set.

    Args:
        card: The model's.
        dataset: The data set.
        head: The model's head to evaluate; None for all that the data set has masks of, the model's first one first.

    Returns:
        Pairs of the model's head (None for the only one) and the data set's, at least one.

    Raises:
        ModelFileError: The model has no such head.
    """
    labels = dataset.labels
    if card.heads is None:
        own = card.labels(head).classes
        same = [name for name, theirs in labels.items() if theirs.classes == own]
        return [(None, (same or list(labels))[0])]
    if head is not None:
        card.labels(head)
    names = [head] if head is not None else [name for name in card.heads if name in labels] or [next(iter(card.heads))]
    return [(name, name if name in labels else next(iter(labels))) for name in names]


def check_classes(model: Sequence[str], data: Sequence[str], where: str) -> None:
    """Require that a model and a data set have the same classes in the same order.

    Raises:
        DataError: They differ.
    """
    if tuple(model) == tuple(data):
        return
    only_model = [name for name in model if name not in data]
    only_data = [name for name in data if name not in model]
    listed = "[" + ", ".join(f'"{name}"' for name in model) + "]"
    if not only_model and not only_data:
        k = next(k for k, names in enumerate(zip(model, data, strict=True)) if names[0] != names[1])
        difference = f"class {k} is '{model[k]}' in the model and '{data[k]}' in the data"
    else:
        parts = [f"only in the {what}: {', '.join(names)}" for what, names in
                 (("model", only_model), ("data", only_data)) if names]  # fmt: skip
        difference = "; ".join(parts)
    raise DataError(
        f"{where}: classes of model and data differ: {difference}. If the masks mean the model's classes,"
        f" write in data.toml: classes = {listed}"
    )


def choose_samples(data: Dataset, card: Card, split: str) -> tuple[list[Sample], list[str]]:
    """Return the samples of a split; where the data set is that of the training, as the training split it.

    The card keeps the split of the training. With another fold or hash, the data set's present split could hold images that
    the model was trained on.

    Returns:
        The samples, and notes for the user.

    Raises:
        DataError: There is no such split.
    """
    own = data.samples(split)
    splits = card.data.get("splits")
    if split == "all" or not isinstance(splits, Mapping):
        return own, []
    trained = {stem: name for name, stems in splits.items() for stem in stems}
    present = {sample.stem: sample for sample in data.samples("all")}
    # Equal but for a few that were added or removed; a foreign data set may share some names.
    if not (trained.keys() <= present.keys() and len(trained) >= 0.9 * len(present)):
        return own, []
    unknown = {sample.stem for sample in own} - trained.keys()
    kept = [sample for stem, sample in sorted(present.items()) if trained.get(stem) == split or stem in unknown]
    if not kept or {sample.stem for sample in kept} == {sample.stem for sample in own}:
        return own, []
    return kept, [
        f"split '{split}' is that of the model's training ({plural(len(kept), 'image')}), not the data set's own"
    ]
