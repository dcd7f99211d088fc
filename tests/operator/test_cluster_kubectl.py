"""What a user does with kubectl, on a real API server."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

# It looks into the server's record of requests.
globals().update(same_tests("test_kubectl", without=["test_wait_sees_the_end_when_it_comes"]))


@pytest.fixture(autouse=True)
def real():
    with on(plane()):
        yield
