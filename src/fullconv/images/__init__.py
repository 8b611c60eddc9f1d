"""Read any picture as (height, width, channels) with the numbers that its file holds."""

from __future__ import annotations

from fullconv.images.limits import PictureError, max_pixels
from fullconv.images.read import Source, image_size, read_image
from fullconv.images.resize import resize_image, resize_mask

__all__ = ["PictureError", "Source", "image_size", "max_pixels", "read_image", "resize_image", "resize_mask"]
