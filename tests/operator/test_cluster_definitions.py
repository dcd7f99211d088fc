"""What the tests of the stand-in API server say of definitions is true of a real server."""

import pytest
from cluster_server import RealClient, serving
from cluster_world import same_tests

pytestmark = pytest.mark.cluster

globals().update(same_tests("test_apiserver_definitions"))


@pytest.fixture
def server(request):
    from test_apiserver_definitions import definition

    if "spec.size" in request.node.name:
        pytest.skip("a real server adds which of the alternatives do not fit")
    with serving(definition()) as found:
        yield found


@pytest.fixture
def call(server):
    return RealClient(server)
