"""Write predictions as annotations that labeling tools import, for people to correct."""

from fullconv.annotations.outlines import Outline, outlines, simplify
from fullconv.annotations.writers import TOOLS, write_annotations

__all__ = ["TOOLS", "Outline", "outlines", "simplify", "write_annotations"]
