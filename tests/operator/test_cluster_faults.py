"""Operators that are many, late or kept to a namespace, on a real API server."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

# It needs a second namespace of the stand-ins'; test_cluster_api has its like.
globals().update(
    same_tests(
        "test_reconcile_faults", without=["test_only_its_namespaces_are_an_operators_business"]
    )
)


@pytest.fixture(autouse=True)
def real():
    with on(plane()):
        yield
