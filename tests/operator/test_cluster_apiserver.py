"""What the tests of the stand-in API server say of objects is true of a real server."""

import pytest
from apiserver import crds
from cluster_server import RealClient, serving
from cluster_world import same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

globals().update(
    same_tests(
        "test_apiserver",
        without=[
            "test_a_mistake_of_the_server_is_an_answer_and_kept",
            "test_events_are_one_kind_in_two_groups",  # names the namespace `default`
            "test_logs_are_what_the_test_says",
        ],
    )
)


@pytest.fixture
def server(request):
    if "namespace_takes" in request.node.name and not plane().managed:
        pytest.skip("no kube-controller-manager beside kube-apiserver")
    with serving(crds.pytorchjobs(), crds.reasoningruns()) as found:
        found.follow(found.registry.named("configmaps"))
        yield found


@pytest.fixture
def call(server):
    return RealClient(server)
