"""When clocks run and what attempts cost."""

from datetime import timedelta

import pytest
from builders import NOW, child, make_run

from coldstart.plan import ChildState
from coldstart.spec import Stage
from coldstart.status import RunStatus, StageState, StageStatus
from coldstart_operator.accounts import charged, clocked, pod_seconds, unclocked

LATER = NOW + timedelta(seconds=100)
GPUS = {"sft": {"dataset": {"name": "d"}, "resources": {"gpusPerNode": 4, "nodes": 2}}}


def status(state, attempt=1, **more):
    more = {"attempt_started_at": NOW} | more
    return RunStatus(stages=(StageStatus(name="sft", state=state, attempt=attempt, **more),))


def pod(name, started, finished, attempt="1", container="pytorch", uid="u"):
    ended = {"startedAt": started, "finishedAt": finished, "exitCode": 0}
    return {
        "metadata": {
            "name": name,
            "labels": {
                "coldstart.dev/run-uid": uid,
                "coldstart.dev/stage": "sft",
                "coldstart.dev/attempt": attempt,
            },
        },
        "status": {"containerStatuses": [{"name": container, "state": {"terminated": ended}}]},
    }


@pytest.mark.parametrize(
    ("state", "seen", "begins"),
    [
        (StageState.STARTING, ChildState.PENDING, LATER),
        (StageState.STARTING, ChildState.QUEUED, LATER),
        (StageState.STARTING, ChildState.RUNNING, LATER),
        (StageState.STARTING, ChildState.SUCCEEDED, NOW),
        (StageState.RUNNING, ChildState.RUNNING, NOW),
        (StageState.RUNNING, ChildState.PENDING, NOW),
        (StageState.RUNNING, ChildState.QUEUED, LATER),
        (StageState.STOPPING, ChildState.STOPPING, NOW),
    ],
)
def test_the_clock_of_an_attempt_runs_from_when_it_runs(state, seen, begins):
    found = clocked(status(state), [child(seen)], LATER)
    assert found.stages[0].attempt_started_at == begins


def test_an_attempt_that_begins_in_the_future_begins_now():
    """A clock that was ahead has written it; its deadline would be put off."""
    earlier = NOW - (LATER - NOW)
    found = clocked(status(StageState.RUNNING), [child(ChildState.RUNNING)], earlier)
    assert found.stages[0].attempt_started_at == earlier


def test_an_attempt_that_was_put_back_into_its_queue_is_starting_again():
    found = clocked(status(StageState.RUNNING), [child(ChildState.QUEUED)], LATER)
    assert found.stages[0].state is StageState.STARTING


def test_waiting_does_not_change_what_is_recorded():
    recorded = status(StageState.STARTING)
    shown = clocked(recorded, [child(ChildState.PENDING)], LATER)
    assert unclocked(recorded, shown) == recorded
    running = shown.model_copy(
        update={"stages": (shown.stages[0].model_copy(update={"state": StageState.RUNNING}),)}
    )
    assert unclocked(recorded, running).stages[0].attempt_started_at == LATER


RUNNING, SUCCEEDED = StageState.RUNNING, ChildState.SUCCEEDED


@pytest.mark.parametrize(
    ("before", "after", "seen", "used", "wasted"),
    [
        (RUNNING, status(StageState.SUCCEEDED), SUCCEEDED, 800, 0),
        (RUNNING, status(StageState.FAILED), SUCCEEDED, 800, 0),  # a gate refused
        (RUNNING, status(StageState.FAILED), ChildState.FAILED, 800, 800),
        (RUNNING, status(StageState.BACKOFF), ChildState.FAILED, 800, 800),
        (RUNNING, status(StageState.WAITING), ChildState.PREEMPTED, 800, 800),
        (RUNNING, status(StageState.STARTING, 2), ChildState.PREEMPTED, 800, 800),
        (RUNNING, status(StageState.STARTING), ChildState.QUEUED, 800, 800),
        (RUNNING, status(RUNNING), ChildState.RUNNING, 0, 0),
        (RUNNING, status(StageState.STOPPING), ChildState.STOPPING, 0, 0),
        (StageState.STARTING, status(StageState.BACKOFF), ChildState.FAILED, 0, 0),
        (StageState.STARTING, status(RUNNING), ChildState.RUNNING, 0, 0),
        (StageState.BACKOFF, status(StageState.STARTING, 2), ChildState.FAILED, 0, 0),
    ],
)
def test_an_attempt_is_charged_once_when_it_ends(before, after, seen, used, wasted):
    run = make_run(**GPUS)
    entry = charged(run, status(before), after, [child(seen)], [], LATER).stages[0]
    assert (entry.gpu_seconds, entry.wasted_gpu_seconds) == (used, wasted)


def test_pods_that_tell_their_times_are_believed_rather_than_the_clock():
    pods = [
        pod("a", "2026-01-01T00:00:10Z", "2026-01-01T00:00:40Z"),
        pod("b", "2026-01-01T00:00:10Z", "2026-01-01T00:00:30Z"),
        pod("other attempt", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", attempt="2"),
        pod("other run", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", uid="v"),
        pod("sidecar", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", container="proxy"),
    ]
    run, before = make_run(**GPUS), status(RUNNING, gpu_seconds=7.0)
    after = status(StageState.SUCCEEDED, gpu_seconds=7.0)
    entry = charged(run, before, after, [child(SUCCEEDED)], pods, LATER).stages[0]
    assert entry.gpu_seconds == 7 + 50 * 4


@pytest.mark.parametrize(
    ("started", "finished", "seconds"),
    [
        ("2026-01-01T00:00:40Z", "2026-01-01T00:00:10Z", 0.0),  # a clock that was set back
        ("yesterday", "2026-01-01T00:00:10Z", None),
        (None, "2026-01-01T00:00:10Z", None),
        (1, 2, None),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:10Z", 10.0),  # no zone is UTC
    ],
)
def test_times_that_make_no_sense_cost_nothing(started, finished, seconds):
    assert pod_seconds("u", Stage.SFT, 1, [pod("a", started, finished)]) == seconds
