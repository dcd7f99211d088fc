"""The wall clock, set back an hour or forward a year: in a stage, between attempts, in a wait."""

import random
from datetime import timedelta

import pytest
from builders import NOW, make_run
from faults.engine import Project
from faults.interposing import Action, Fault, Operation, happened, recorded
from faults.undisturbed import goes_on, log, result_file
from stage_attempts import again, read_result

from coldstart.plan import Observation, Start, Wait, next_step
from coldstart.status import RunStatus, StageState, StageStatus

JUMPS = {"back": -3600, "forward": 365 * 86400}
STAGES = ("distill", "sft", "grpo", "evaluation")


@pytest.mark.parametrize("way", JUMPS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_whose_clock_jumps_ends_as_ever(stage, way, disturb, tmp_path):
    case, whole = disturb(stage)
    operation = random.Random(f"{stage} {way}").choice(whole.operations)
    fault = Fault(operation, Action.JUMP, seconds=JUMPS[way])
    given = case.order(tmp_path / "runs")
    assert case.attempt(given, fault) == 0, log(given)
    assert happened(result_file(given))
    assert case.outcome(given, read_result(result_file(given))) == whole.outcome


@pytest.mark.parametrize("way", JUMPS)
@pytest.mark.parametrize("stage", STAGES)
def test_an_attempt_of_another_time_goes_on_where_the_last_one_was(stage, way, disturb, tmp_path):
    case, whole = disturb(stage)
    given = case.order(tmp_path / "runs")
    middle = whole.operations[len(whole.operations) // 2]
    assert case.attempt(given, Fault(middle, Action.KILL_BEFORE)) == -9, log(given)
    given = again(given)
    first = Operation("open", "run/" + stage + "/alive.lock")
    assert case.attempt(given, Fault(first, Action.JUMP, seconds=JUMPS[way])) == 0, log(given)
    assert case.outcome(given, read_result(result_file(given))) == whole.outcome
    goes_on(case, again(given), whole)


TRIED_TWICE = {"sft": {"die": "WorkerLost", "attempts_that_die": 1}}


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("way", JUMPS)
def test_a_run_whose_clock_jumps_at_a_status_goes_on(way, number, tmp_path):
    """At each of its first records: before a stage, in it, in the wait for the next attempt."""
    project = Project(tmp_path / "project", TRIED_TWICE)
    fault = Fault(Operation("rename", "status.json", number), Action.JUMP, seconds=JUMPS[way])
    assert project.run(fault=fault) == 0, project.said()
    assert happened(project.record)
    found = project.stages()
    assert [entry["state"] for entry in found.values()] == ["Succeeded"] * 2
    assert project.layout.report.exists()
    assert recorded(project.record)


@pytest.mark.parametrize(
    ("since", "starts"),
    [
        (timedelta(0), False),
        (timedelta(seconds=9), False),
        (timedelta(seconds=10), True),
        (-timedelta(seconds=5), False),
        (-timedelta(hours=1), True),
    ],
)
def test_a_retry_waits_no_longer_than_the_longest_wait_of_the_spec(since, starts):
    """It is due 10 seconds after it was planned; waits are 15 seconds at the most."""
    retry = NOW + timedelta(seconds=10)
    entry = StageStatus(name="sft", state=StageState.BACKOFF, attempt=1, failures=1, retry_at=retry)
    run = make_run().model_copy(update={"status": RunStatus(stages=(entry,))})
    action = next_step(run, Observation(), NOW + since).action
    assert isinstance(action, Start if starts else Wait)
