"""What a run has shown: results as JSON, as tables, and as a self-contained page.

Everything here reads a run's directory; the page is the only thing written, and no model is run.
"""

from coldstart.report.arms import Comparison, compare
from coldstart.report.page import write_report
from coldstart.report.scores import RunResults, Score, run_results
from coldstart.report.tables import results_table

__all__ = [
    "Comparison",
    "RunResults",
    "Score",
    "compare",
    "results_table",
    "run_results",
    "write_report",
]
