"""One self-contained HTML page about one run, or several compared."""

from fedwave.results.report.page import write_report
from fedwave.results.report.runs import load, totals

__all__ = ["load", "totals", "write_report"]
