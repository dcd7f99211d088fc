"""What a run has shown: results as JSON, as tables, and as a self-contained page.

Everything here reads a run's directory; the page is the only thing written, and no model is run.
"""

from coldstart.report.arms import Comparison, compare
from coldstart.report.browser import CARRIED
from coldstart.report.page import write_report
from coldstart.report.scores import RunResults, Score, run_results, told_results
from coldstart.report.tables import results_table, told_table
from coldstart.report.traces import traced_run

__all__ = [
    "CARRIED",
    "Comparison",
    "RunResults",
    "Score",
    "compare",
    "results_table",
    "run_results",
    "told_results",
    "told_table",
    "traced_run",
    "write_report",
]
