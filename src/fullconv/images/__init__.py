"""Read any image as (height, width, channels) with the values of its file."""

from fullconv.images.colour import has_foreign_profile
from fullconv.images.gdal import import_rasterio, nearest_pixels, quiet, raster_errors, raster_reason
from fullconv.images.limits import ImageError, check_pixels, max_pixels
from fullconv.images.pixels import Grid, ImageFile, Pixels, apply_orientation, to_hwc
from fullconv.images.png import SIGNATURE as PNG_SIGNATURE
from fullconv.images.read import (
    Source,
    as_array,
    count_frames,
    decode,
    from_layers,
    image_size,
    is_raster,
    open_image_file,
    open_source,
    read_image,
    read_pages,
    read_pixels,
    to_layers,
)
from fullconv.images.resize import resize_image, resize_mask
from fullconv.images.tiff import SampleImage, count_pages, is_georeferenced, is_tiff, open_raster, read_grid

__all__ = [
    "PNG_SIGNATURE",
    "Grid",
    "ImageError",
    "ImageFile",
    "Pixels",
    "SampleImage",
    "Source",
    "apply_orientation",
    "as_array",
    "check_pixels",
    "count_frames",
    "count_pages",
    "decode",
    "from_layers",
    "has_foreign_profile",
    "image_size",
    "import_rasterio",
    "is_georeferenced",
    "is_raster",
    "is_tiff",
    "max_pixels",
    "nearest_pixels",
    "open_image_file",
    "open_raster",
    "open_source",
    "quiet",
    "raster_errors",
    "raster_reason",
    "read_grid",
    "read_image",
    "read_pages",
    "read_pixels",
    "resize_image",
    "resize_mask",
    "to_hwc",
    "to_layers",
]
