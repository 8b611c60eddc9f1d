"""Models as files of other runtimes, whose answers were compared with the model's before they were written."""

from fullconv.exports.exporter import FORMATS, Exported, export_model

__all__ = ["FORMATS", "Exported", "export_model"]
