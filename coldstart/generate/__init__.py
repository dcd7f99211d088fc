"""Files that are made from the models, so that each fact has one source."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coldstart.generate import chart
from coldstart.generate.alerts import alerts_page, operator_rules, training_rules
from coldstart.generate.crd import crd_manifest
from coldstart.generate.dashboards import runs_dashboard, training_dashboard
from coldstart.generate.memory import memory_page
from coldstart.generate.reference import metrics_page, run_page, study_page

FILES: Mapping[str, Callable[[], str]] = {
    "manifests/crd.yaml": crd_manifest,
    "docs/reference/run.md": run_page,
    "docs/reference/study.md": study_page,
    "docs/reference/metrics.md": metrics_page,
    "docs/reference/memory.md": memory_page,
    f"{chart.FOLDER}/Chart.yaml": chart.chart_metadata,
    f"{chart.FOLDER}/values.yaml": chart.values_file,
    f"{chart.FOLDER}/values.schema.json": chart.values_schema,
    f"{chart.FOLDER}/README.md": chart.readme,
    f"{chart.FOLDER}/files/crd-spec.yaml": chart.definition_spec,
    "docs/runbooks/README.md": alerts_page,
    "charts/coldstart/rules/training.yaml": training_rules,
    "charts/coldstart/rules/operator.yaml": operator_rules,
    "charts/coldstart/dashboards/runs.json": runs_dashboard,
    "charts/coldstart/dashboards/training.json": training_dashboard,
}
"""Each generated file, relative to the repository, and what makes its text."""
