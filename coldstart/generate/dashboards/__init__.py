"""The Grafana dashboards: what is drawn, and how Grafana wants it written."""

from __future__ import annotations

import json

from coldstart.generate.dashboards import runs, training
from coldstart.generate.dashboards.grafana import document


def training_dashboard() -> str:
    """The stages' own numbers."""
    return _text(document(training.DASHBOARD))


def runs_dashboard() -> str:
    """What the operator tells of runs and of itself."""
    return _text(document(runs.DASHBOARD))


def _text(found: object) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
