"""What keeps a run from going on, on a real API server."""

import pytest
from cluster_world import on, same_tests
from control_plane import plane

pytestmark = pytest.mark.cluster

# The real garbage collector learns of new kinds, and forgets old ones, every 30 s: until then
# the pods of a kind that is gone stay, and the run rightly waits for them.
globals().update(
    same_tests("test_refusals", without=["test_a_backend_that_is_taken_away_is_waited_for"])
)


@pytest.fixture(autouse=True)
def real(request):
    if plane().pytorchjobs and request.node.name.endswith(("[quota]", "[PodSecurity]")):
        pytest.skip("refused by a stand-in's script; test_cluster_api has real refusals")
    with on(plane()):
        yield
