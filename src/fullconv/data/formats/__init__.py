"""The formats of data sets, one small module each; `registry.FORMATS` lists them.

`detect` looks at file names (and the beginnings of annotation files) and returns its evidence; `read` pairs images with
masks. A format of drawn shapes has `find_files` and `parse` instead, and `drawn` does the rest.
"""

from fullconv.data.formats.format import FormatResult
from fullconv.data.formats.rasterize import DrawnMask
from fullconv.data.formats.registry import FORMATS, detect, enter_root, read
from fullconv.data.formats.shape_issues import BoundsCheck

__all__ = ["FORMATS", "BoundsCheck", "DrawnMask", "FormatResult", "detect", "enter_root", "read"]
