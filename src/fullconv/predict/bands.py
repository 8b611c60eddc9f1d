"""Further bands of pictures from a second folder, as `bands_from` of data.toml has it for training."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.data.dataset import add_bands
from fullconv.data.files import Folder
from fullconv.errors import DataError, InputError
from fullconv.images import read_image
from fullconv.preprocess import select_bands


class MoreBands:
    """Pictures of the same names in a second folder.

    Args:
        folder: Laid out as the inputs are, or flat.

    Raises:
        InputError: There is no such folder, or no picture in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"--bands-from {folder}: there is no such folder.")
        self.folder = folder
        self._files = Folder(folder).pictures("").files
        if not self._files:
            raise InputError(f"--bands-from {folder}: holds no picture.")

    def read(self, path: str, name: str, card: Card) -> NDArray[Any]:
        """Read a picture with its further bands, and take those that a model wants: (H, W, C).

        Args:
            path: Of the picture.
            name: Its name relative to what was given, with or without its ending.
            card: The model's.

        Raises:
            InputError: It has no partner, the two differ in size, or the model wants other bands.
        """
        plain = PurePosixPath(name)
        keys = (name, plain.with_suffix("").as_posix(), Path(path).stem)
        more = next((self._files[key] for key in keys if key in self._files), None)
        if more is None:
            raise InputError(f"{path}: has no picture of its name in {self.folder}, where its further bands should be.")
        try:
            whole = add_bands(read_image(path), read_image(more), more, Path(path).name)
        except DataError as error:
            raise InputError(str(error)) from error
        return select_bands(whole, card, path, stored=True)
