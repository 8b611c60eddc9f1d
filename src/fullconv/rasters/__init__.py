"""Rasters of any size in constant memory: read by windows, labelled in strips, written as they finish."""

from fullconv.images import import_rasterio, is_georeferenced
from fullconv.rasters.job import RasterResult, predict_raster
from fullconv.rasters.vector import check_polygons
from fullconv.rasters.writer import is_label_map

__all__ = ["RasterResult", "check_polygons", "import_rasterio", "is_georeferenced", "is_label_map", "predict_raster"]
