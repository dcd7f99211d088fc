"""The operator as a process, on a real API server."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

# Their servers stand in for the API server, without TLS.
OF_OTHERS = [
    "test_every_request_says_who_asks",
    "test_told_to_end_just_when_the_watch_is_lost_it_ends",
]
globals().update(same_tests("test_operator_process", without=OF_OTHERS))


@pytest.fixture(autouse=True)
def real():
    with on(plane()):
        yield
