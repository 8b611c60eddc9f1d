"""Rasters of any size in constant memory: read by windows, labelled in bands, written as they finish."""

from fullconv.rasters.job import RasterResult, predict_raster
from fullconv.rasters.polygons import check_polygons
from fullconv.rasters.result import is_label_map
from fullconv.rasters.source import is_georeferenced

__all__ = ["RasterResult", "check_polygons", "is_georeferenced", "is_label_map", "predict_raster"]
