"""Predictions as annotations that labelling tools import, so that people correct instead of draw."""

from fullconv.annotations.outlines import Outline, outlines, simplify
from fullconv.annotations.tools import TOOLS, write_annotations

__all__ = ["TOOLS", "Outline", "outlines", "simplify", "write_annotations"]
