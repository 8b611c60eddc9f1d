"""Read any image as (height, width, channels) with the values of its file."""

from fullconv.images.limits import ImageError, check_pixels, max_pixels
from fullconv.images.png import SIGNATURE as PNG_SIGNATURE
from fullconv.images.read import (
    Source,
    decode,
    has_foreign_profile,
    image_size,
    open_source,
    read_image,
    to_array,
    to_hwc,
)
from fullconv.images.resize import resize_image, resize_mask
from fullconv.images.tiff import apply_orientation, count_pages

__all__ = [
    "PNG_SIGNATURE",
    "ImageError",
    "Source",
    "apply_orientation",
    "check_pixels",
    "count_pages",
    "decode",
    "has_foreign_profile",
    "image_size",
    "max_pixels",
    "open_source",
    "read_image",
    "resize_image",
    "resize_mask",
    "to_array",
    "to_hwc",
]
