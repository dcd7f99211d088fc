"""The quickstart by `kubectl apply` on a real API server; pods are processes of this machine."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# A pod's log is its kubelet's, and there is none.
LOGS = ["test_status_and_logs_are_told", "test_the_report_says_what_is_on_the_storage"]
globals().update(same_tests("test_run_on_a_cluster", without=LOGS, room="e2e"))

from test_run_on_a_cluster import SECONDS, finished  # noqa: E402, F401 - once same_tests finds it

pytestmark += [pytest.mark.timeout(SECONDS + 60)]


@pytest.fixture(scope="module", autouse=True)
def real():
    with on(plane()):
        yield
