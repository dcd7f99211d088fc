"""The operator as a process, on a real API server."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

# It stands between the operator and the server, without TLS.
globals().update(same_tests("test_operator_process", without=["test_every_request_says_who_asks"]))


@pytest.fixture(autouse=True)
def real():
    with on(plane()):
        yield
