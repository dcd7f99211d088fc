"""Every state between two writes, on a real API server."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

globals().update(same_tests("test_intermediate", room="faults"))


@pytest.fixture(autouse=True)
def real():
    with on(plane()):
        yield
