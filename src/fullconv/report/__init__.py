"""The report of a run: one page of HTML that needs nothing else, neither network nor scripts."""

from fullconv.report.facts import summarize_data
from fullconv.report.gallery import choose_pictures
from fullconv.report.overview import write_overview
from fullconv.report.page import write_report
from fullconv.report.panels import ReportPicture

__all__ = ["ReportPicture", "choose_pictures", "summarize_data", "write_overview", "write_report"]
