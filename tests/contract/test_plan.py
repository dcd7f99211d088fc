"""`plan.next_step`: each situation once, by a table of stories told step by step."""

from datetime import timedelta

import pytest
from builders import NOW, child, make_run, result

from coldstart.order import build_order
from coldstart.plan import (
    Child,
    ChildState,
    Finished,
    Observation,
    Parent,
    Start,
    Stop,
    Wait,
    WaitsFor,
    next_step,
    reopened,
)
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.status import ErrorCode, RunStatus, StageState
from coldstart.uses import uses


class Story:
    """A run that is taken step by step, its status carried along."""

    def __init__(self, run: ReasoningRun) -> None:
        self.run, self.now = run, NOW

    def see(self, *children: Child, parents=None, after: float = 0):
        self.now += timedelta(seconds=after)
        step = next_step(self.run, Observation(children, parents or {}), self.now)
        self.run = self.run.model_copy(update={"status": step.status})
        return step.action

    def edit(self, **spec) -> None:
        spec = self.run.spec.model_copy(update=spec)
        self.run = self.run.model_copy(update={"spec": spec})

    @property
    def status(self) -> RunStatus:
        return self.run.status

    def state(self, stage: str) -> StageState:
        return self.status.stage(stage).state


def succeeded(stage=Stage.SFT, attempt=1, **metrics) -> Child:
    return child(ChildState.SUCCEEDED, stage, attempt, result=result(stage, attempt, **metrics))


def test_a_run_goes_through_its_stages_and_every_condition_is_there_from_the_first_status():
    story = Story(make_run())
    assert story.see() == Start(Stage.SFT, 1)
    types = {c.type for c in story.status.conditions}
    assert types == {"Accepted", "Queued", "Running", "Suspended", "Succeeded", "Failed"}
    running = child(ChildState.RUNNING)
    assert isinstance(story.see(running), Wait)
    assert (story.status.phase, story.status.holds("Running")) == ("SFTRunning", True)
    sft = succeeded(loss=1.0)
    assert story.see(sft) == Wait(0)
    assert story.status.stage("sft").metrics == {"loss": 1.0}
    assert story.see(sft) == Start(Stage.GRPO, 1)
    grpo = succeeded(Stage.GRPO)
    story.see(sft, child(ChildState.RUNNING, Stage.GRPO))
    assert story.see(sft, grpo) == Wait(0)
    assert story.see(sft, grpo) == Finished()
    assert (story.status.phase, story.status.holds("Succeeded")) == ("Succeeded", True)
    assert story.status.finished_at == NOW
    assert story.status.condition("Failed").status == "False"


DISTILL = {
    "dataset": {"name": "d.jsonl"},
    "teacher": {"baseUrl": "http://host/v1", "model": "m"},
    "gate": {"minYield": 0.5},
}


def test_four_stages_follow_each_other_and_fine_tuning_is_told_the_rows():
    evaluation = {"benchmarks": [{"dataset": {"name": "d"}}]}
    story = Story(make_run(distill=DISTILL, sft={}, evaluation=evaluation))
    seen = []
    for stage in Stage:
        assert story.see(*seen) == Start(stage, 1)
        seen.append(succeeded(stage, yield_share=0.5))
        assert story.see(*seen) == Wait(0)
    assert story.see(*seen) == Finished()
    assert story.status.holds("Succeeded")
    order = build_order(story.run, Stage.SFT, 1, {}, storage="/s", workdir="/w")
    assert [item.name for item in order.inputs] == ["base", "distill"]
    assert order.inputs[1].location == "r/distill/final"
    assert order.inputs[1].digest == story.status.stage("distill").checkpoint.digest
    unfinished = build_order(
        make_run(distill=DISTILL, sft={}), Stage.SFT, 1, {}, storage="/s", workdir="/w"
    )
    assert unfinished.inputs[1].digest is None
    first = build_order(story.run, Stage.DISTILL, 1, {}, storage="/s", workdir="/w")
    assert [item.name for item in first.inputs] == ["base"]
    # The questions are what the model learns from; there is no other data set of SFT to check.
    assert [use.role for use in uses(story.run.spec)] == ["distill", "grpo", "evaluation"]


def test_fine_tuning_does_not_start_below_the_least_yield():
    story = Story(make_run(distill=DISTILL, sft={}))
    story.see()
    short = succeeded(Stage.DISTILL, yield_share=0.49)
    assert story.see(short) == Wait(0)
    assert story.see(short) == Finished()
    assert story.status.stage("distill").error.code is ErrorCode.GATE_REFUSED
    assert "minYield: 0.49 is below 0.5" in story.status.message
    assert story.state("sft") is StageState.WAITING


def test_a_finished_stage_is_not_run_again_when_its_child_is_deleted():
    story = Story(make_run())
    story.see()
    story.see(succeeded())
    assert story.see() == Start(Stage.GRPO, 1)


def test_an_absent_stage_is_skipped():
    assert Story(make_run(sft=None)).see() == Start(Stage.GRPO, 1)


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("gate", "metrics", "passes", "reason"),
    [
        ({}, {}, True, ""),
        ({"minAccuracy": 0.5}, {"probe_accuracy": 0.5}, True, ""),
        ({"minAccuracy": 0.5}, {"probe_accuracy": 0.49}, False, "minAccuracy: 0.49 is below 0.5"),
        ({"minAccuracy": 0.5}, {}, False, "no finite number"),
        ({"minBoxedShare": 0.9}, {"probe_boxed_share": 0.1}, False, "minBoxedShare"),
        ({"maxLoss": 1.0}, {"loss": 1.1}, False, "maxLoss: 1.1 is above 1"),
    ],
)
def test_the_gate_judges_once_and_the_next_stage_starts_only_if_it_passes(
    gate, metrics, passes, reason
):
    story = Story(make_run(sft={"dataset": {"name": "d"}, "gate": gate}))
    story.see()
    done = succeeded(**metrics)
    story.see(done)
    verdicts = story.status.stage("sft").gates
    action = story.see(done)
    assert story.status.stage("sft").gates == verdicts
    if passes:
        assert action == Start(Stage.GRPO, 1)
        return
    assert action == Finished()
    assert story.status.condition("Failed").reason == "GateRefused"
    assert reason in story.status.message


@pytest.mark.fault(36)
def test_a_result_without_a_checkpoint_is_refused():
    story = Story(make_run())
    story.see()
    done = child(ChildState.SUCCEEDED, result=result(checkpoint=False))
    story.see(done)
    assert story.see(done) == Finished()
    assert "no checkpoint" in story.status.message


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        ({"exit_code": 137}, ErrorCode.WORKER_LOST),
        ({}, ErrorCode.WORKER_LOST),
        (
            {"result": result(error=ErrorCode.OUT_OF_MEMORY), "exit_code": 1},
            ErrorCode.OUT_OF_MEMORY,
        ),
    ],
)
def test_a_retryable_failure_is_tried_again_with_backoff_up_to_the_limit(failed, code):
    story = Story(make_run())
    story.see()
    first = child(ChildState.FAILED, **failed)
    assert story.see(first) == Wait(10, WaitsFor.TIME)
    assert story.status.stage("sft").error.code is code
    assert story.see(first, after=9) == Wait(1, WaitsFor.TIME)
    assert story.see(first, after=1) == Start(Stage.SFT, 2)
    second = child(ChildState.FAILED, attempt=2, exit_code=137)
    assert story.see(first, second) == Wait(15, WaitsFor.TIME)
    assert story.see(first, second, after=15) == Start(Stage.SFT, 3)
    third = child(ChildState.FAILED, attempt=3, exit_code=137)
    story.see(first, second, third)
    assert story.see(first, second, third) == Finished()
    assert "retry.limit" in story.status.message


@pytest.mark.parametrize(
    "failed",
    [
        {"exit_code": 1},
        {"exit_code": 2, "result": result(error=ErrorCode.DATASET_INVALID)},
        {"exit_code": 1, "result": result(error=ErrorCode.NON_FINITE)},
    ],
)
def test_a_permanent_failure_ends_the_run_at_once(failed):
    story = Story(make_run())
    story.see()
    story.see(child(ChildState.FAILED, **failed))
    assert story.see(child(ChildState.FAILED, **failed)) == Finished()
    assert story.state("sft") is StageState.FAILED
    assert (story.status.phase, story.status.finished_at) == ("Failed", NOW)


@pytest.mark.parametrize(
    "liar",
    [
        result(uid="another"),
        result(attempt=7),
        result(stage=Stage.GRPO),
    ],
)
def test_a_result_of_another_attempt_is_not_believed(liar):
    story = Story(make_run())
    story.see()
    story.see(child(ChildState.SUCCEEDED, result=liar))
    assert story.state("sft") is StageState.BACKOFF
    assert story.status.stage("sft").error.code is ErrorCode.NO_RESULT


def test_preemption_spends_no_retry():
    story = Story(make_run(retry={"limit": 0}))
    story.see()
    for attempt in range(1, 5):
        gone = child(ChildState.PREEMPTED, attempt=attempt)
        story.see(gone)
        assert story.see(gone) == Start(Stage.SFT, attempt + 1)
    assert story.status.stage("sft").failures == 0


def test_suspend_stops_the_child_and_resume_starts_the_next_attempt():
    story = Story(make_run())
    story.see()
    story.see(child(ChildState.RUNNING))
    story.edit(suspend=True)
    assert isinstance(story.see(child(ChildState.RUNNING)), Stop)
    assert isinstance(story.see(child(ChildState.STOPPING)), Wait)
    stopped = child(ChildState.FAILED, exit_code=143)
    story.see(stopped)
    assert story.see(stopped) == Wait(None, WaitsFor.USER)
    assert story.status.holds("Suspended")
    story.edit(suspend=False)
    assert story.see(stopped) == Start(Stage.SFT, 2)
    assert story.status.stage("sft").failures == 0


def test_a_child_that_was_created_but_not_recorded_is_adopted():
    story = Story(make_run())
    assert isinstance(story.see(child(ChildState.RUNNING)), Wait)
    assert story.status.stage("sft").attempt == 1
    assert story.state("sft") is StageState.RUNNING


def test_a_child_that_was_recorded_but_not_created_is_created_under_the_same_number():
    story = Story(make_run())
    assert story.see() == Start(Stage.SFT, 1)
    assert story.see() == Start(Stage.SFT, 1)


def test_a_child_that_is_deleted_while_it_runs_costs_one_retry():
    story = Story(make_run())
    story.see()
    story.see(child(ChildState.RUNNING))
    assert story.see() == Wait(10, WaitsFor.TIME)
    assert "deleted" in story.status.message
    assert story.see(after=10) == Start(Stage.SFT, 2)


def test_an_attempt_that_runs_too_long_is_stopped_and_counts_as_a_failure():
    story = Story(make_run(sft={"dataset": {"name": "d"}, "timeoutSeconds": 60}))
    story.see()
    assert story.see(child(ChildState.RUNNING), after=20) == Wait(40)
    assert isinstance(story.see(child(ChildState.RUNNING), after=40), Stop)
    story.see(child(ChildState.FAILED, exit_code=143))
    entry = story.status.stage("sft")
    assert (entry.error.code, entry.failures) == (ErrorCode.DEADLINE_EXCEEDED, 1)


def test_a_stage_from_another_run_waits_for_it_and_says_so():
    spec = {"sft": None, "grpo": {"dataset": {"name": "d"}, "from": {"run": "other"}}}
    story = Story(make_run(**spec))
    assert story.see() == Wait(None, WaitsFor.RUN)
    assert "no such run" in story.status.message
    assert story.see(parents={("other", "sft"): Parent(finished=False)}).waits_for is WaitsFor.RUN
    ready = Parent(finished=True, checkpoint=result().checkpoint)
    assert story.see(parents={("other", "sft"): ready}) == Start(Stage.GRPO, 1)


def test_what_should_not_run_is_stopped():
    story = Story(make_run())
    story.see()
    story.see(succeeded())
    stray = child(ChildState.RUNNING, Stage.SFT, 1)
    assert story.see(stray) == Stop(Stage.SFT, 1, "it is not the attempt that runs")
    story.see(child(ChildState.FAILED, Stage.GRPO, 1, exit_code=2))
    assert isinstance(story.see(child(ChildState.RUNNING, Stage.GRPO, 1)), Stop)


def test_a_failed_run_that_its_user_starts_again_keeps_what_has_succeeded():
    story = Story(make_run())
    story.see()
    story.see(succeeded())
    story.see(succeeded(), child(ChildState.FAILED, Stage.GRPO, 1, exit_code=1))
    assert story.status.holds("Failed")
    story.run = story.run.model_copy(update={"status": reopened(story.status)})
    assert story.see(child(ChildState.FAILED, Stage.GRPO, 1, exit_code=1)) == Start(Stage.GRPO, 2)
    assert story.state("sft") is StageState.SUCCEEDED
