"""Further bands from a second folder: depth or HHA beside colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fullconv.data.files import Folder, Pictures, is_glob
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.errors import DataError


def with_more_bands(
    folder: Folder, where: str, images: str, pictures: Pictures, samples: Sequence[tuple[str, Sample]]
) -> tuple[list[Sample], list[Problem]]:
    """Give each sample the picture of its name in a second folder.

    Args:
        folder: The data folder.
        where: `bands_from` of data.toml: a folder laid out as that of the pictures, or a glob.
        images: Folder or glob of the pictures.
        pictures: What is there.
        samples: By key.

    Returns:
        The samples that have one, and what is wrong with the others.

    Raises:
        DataError: There is no such folder.
    """
    place = _place(folder, where, images)
    more = folder.pictures(place)
    found = [replace(sample, more=more.files[key]) for key, sample in samples if key in more.files]
    alone = [(key, sample) for key, sample in samples if key not in more.files]
    if not alone:
        return found, []
    names = [pictures.files[key].relative_to(folder.root).as_posix() for key, _ in alone]
    words = f"pictures in {images}/ have no further bands in {place}/"
    remedy = f"Add a picture of the same name to {place}/, or move the picture away."
    return found, [problem("missing-bands", "error", names, words, remedy, [sample.stem for _, sample in alone])]


def _place(folder: Folder, where: str, images: str) -> str:
    """Return the folder of further bands that belongs to a folder of pictures: `hha/train`, `train/hha` or `hha`."""
    if is_glob(where):
        return where
    parts = images.split("/")
    for place in (f"{where}/{parts[-1]}", f"{parts[0]}/{where}", where):
        if (folder.root / place).is_dir():
            return place
    raise DataError(
        f'{folder.root / "data.toml"}: bands_from = "{where}", but there is no such folder for the pictures in'
        f" {images}/. Name a folder with a picture of the same name for each of them."
    )
