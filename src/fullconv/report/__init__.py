"""HTML pages of runs and data sets: one file each, which loads nothing, neither network nor scripts."""

from fullconv.report.check_page import write_check_page
from fullconv.report.run_page import choose_images, summarize_data, write_report
from fullconv.report.runs_page import write_runs_page
from fullconv.report.thumbnails import ReportImage

__all__ = ["ReportImage", "choose_images", "summarize_data", "write_check_page", "write_report", "write_runs_page"]
