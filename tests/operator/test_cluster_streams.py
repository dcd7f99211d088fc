"""What the tests of the stand-in API server say of lists and watches is true of a real server."""

import pytest
from apiserver import crds
from cluster_server import RealClient, serving
from cluster_world import same_tests

pytestmark = pytest.mark.cluster

globals().update(
    same_tests(
        "test_apiserver_streams",
        without=[
            # Bookmarks come every minute, and times are whole seconds.
            "test_a_selector_turns_changes_into_arrivals_and_departures",
            "test_a_watch_ends_in_time_and_bookmarks_where_it_was",
            # What only the stand-in has.
            "test_history_is_bounded",
            "test_a_restart_cuts_connections_keeps_objects_and_goes_on_collecting",
            "test_rules_refuse_what_they_do_not_name",
            "test_the_record_knows_every_request",
        ],
    )
)


@pytest.fixture
def server():
    with serving(crds.pytorchjobs(), crds.reasoningruns()) as found:
        yield found


@pytest.fixture
def call(server):
    return RealClient(server)
