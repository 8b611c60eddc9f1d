"""Models as files of other runtimes, whose answers were compared with the model's before they were written."""

from fullconv.export.make import FORMATS, Exported, export_model

__all__ = ["FORMATS", "Exported", "export_model"]
