"""Errors of images and predictions as HTTP responses."""

from __future__ import annotations

import pytest

from fullconv.errors import InputError, MissingExtraError, ModelFileError
from fullconv.images import ImageError
from fullconv.serve.errors import to_api_error


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputError("x"), 422), (ImageError("not-a-picture", "x"), 415), (ImageError("truncated", "x"), 422),
     (ImageError("too-large", "x"), 413), (MissingExtraError("p", "formats", "x"), 415), (MemoryError(), 413),
     (ModelFileError("x"), 422), (ValueError("a bug"), 500)],
)  # fmt: skip
def test_an_error_of_an_image_has_its_status(error, status):
    assert to_api_error(error).status == status
