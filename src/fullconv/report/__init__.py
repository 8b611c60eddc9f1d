"""The report of a run: one page of HTML that needs nothing else, neither network nor scripts."""

from fullconv.report.gallery import choose_pictures
from fullconv.report.panels import ReportPicture
from fullconv.report.run_page import write_report
from fullconv.report.runs_page import write_overview
from fullconv.report.setup import summarize_data

__all__ = ["ReportPicture", "choose_pictures", "summarize_data", "write_overview", "write_report"]
