"""Models as files of other runtimes, whose labels are compared with the model's before they are written."""

from fullconv.exports.exporter import FORMATS, Exported, export_model

__all__ = ["FORMATS", "Exported", "export_model"]
