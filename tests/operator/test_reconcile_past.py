"""An operator that starts from what has passed: from a list of the past, or after it was away."""

from apiserver.faults import stale
from operating import SFT_ONLY, holds, stage
from walk.world import walked_world


def as_of(w, state):
    """The version at which the first stage of a run came into a state."""
    changes = w.server.store.collection(("coldstart.dev", "reasoningruns")).history
    return next(
        change.version
        for change in changes
        if stage(change.entry.object, "sft").get("state") == state
    )


def run_of(w):
    return w.server.get("reasoningruns", "r")


def again(w, seconds=5):
    """Have the operator begin anew after so long."""
    w.do(lambda: w.crash(w.alive[0], seconds))


def test_no_job_is_made_for_an_ended_run_that_is_listed_as_it_was_when_its_job_was_to_be_made():
    with walked_world() as w:
        w.apply("r", SFT_ONLY)
        w.let(60)
        assert holds(run_of(w), "Succeeded")
        w.do(lambda: w.server.delete("pytorchjobs", "r-sft-1"))
        again(w)
        w.server.faults.add(stale("reasoningruns", as_of(w, "Starting"), times=2))
        w.let(60)
        assert w.jobs() == []
        made = [one for one in w.server.requests.of("create", "pytorchjobs") if one.status == 201]
        assert len(made) == 1


def test_an_ended_run_that_was_edited_while_no_operator_was_there_is_seen_by_the_next():
    with walked_world() as w:
        w.apply("r", SFT_ONLY)
        w.let(60)
        again(w)
        w.patch_run("r", {"spec": {"retry": {"limit": 7}}})
        w.let(60)
        run = run_of(w)
        assert run["metadata"]["generation"] == 2
        assert run["status"]["observedGeneration"] == 2
        before = len(w.server.requests.writes())
        again(w)
        w.let(60)
        assert len(w.server.requests.writes()) == before
