"""Releases of the chart as Helm makes them, on a real API server."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

globals().update(same_tests("test_chart_release"))


@pytest.fixture(autouse=True)
def real():
    found = plane()
    if not found.ours:
        pytest.skip("installs a definition: not in a cluster that is lent")
    with on(found):
        yield
