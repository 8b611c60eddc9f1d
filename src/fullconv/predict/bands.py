"""Extra bands of images from a second folder, as `bands_from` of data.toml adds them for training."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.data import Folder, add_bands
from fullconv.errors import DataError, InputError
from fullconv.images import read_image
from fullconv.preprocess import select_bands


class ExtraBands:
    """Images of the same names in a second folder.

    Args:
        folder: Laid out as the inputs are, or flat.

    Raises:
        InputError: The folder is missing, or contains no images.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"--bands-from {folder}: no such folder.")
        self.folder = folder
        self._files = Folder(folder).images("").files
        if not self._files:
            raise InputError(f"--bands-from {folder}: contains no images.")

    def read(self, path: str, name: str, card: Card) -> NDArray[Any]:
        """Read an image with its extra bands, and select those that a model takes: (H, W, C).

        Args:
            path: Of the image.
            name: Its name relative to what was given, with or without its ending.
            card: Of the model.

        Raises:
            InputError: It has no partner, the two differ in size, or the model takes other bands.
        """
        plain = PurePosixPath(name)
        keys = (name, plain.with_suffix("").as_posix(), Path(path).stem)
        extra = next((self._files[key] for key in keys if key in self._files), None)
        if extra is None:
            raise InputError(f"{path}: no image of the same name in {self.folder}, where its extra bands are expected.")
        try:
            stacked = add_bands(read_image(path), read_image(extra), extra, Path(path).name)
        except DataError as error:
            raise InputError(str(error)) from error
        return select_bands(stacked, card, path, stored=True)
