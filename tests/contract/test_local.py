"""The local engine, with real processes of a stand-in stage: order, resume, retry, refusal."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from builders import make_run

from coldstart.layout import RunLayout
from coldstart.local import Interrupted, LocalRun
from coldstart.order import build_order
from coldstart.process import end_orphans, log_tail, start
from coldstart.record import LocalRunError, locked, prepared, read, save
from coldstart.spec import Stage
from coldstart.status import ErrorCode, RunStatus, StageState, StageStatus

STAND_IN = Path(__file__).parents[1] / "stand_in_stage.py"
QUICK_RETRY = {"limit": 2, "backoffSeconds": 0}


def stand_in(_order) -> list[str]:
    return [sys.executable, str(STAND_IN)]


class Bench:
    """A storage and a workdir with a script for the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.workdir = folder / "work"
        self.workdir.mkdir()
        self.storage = folder / "runs"

    def layout(self, name="r") -> RunLayout:
        return RunLayout(self.storage / name)

    def script(self, **stages) -> None:
        (self.workdir / "script.json").write_text(json.dumps(stages))

    def go(self, wanted=None, *, fresh=False, only=(), observer=None):
        wanted = wanted or make_run(retry=QUICK_RETRY)
        layout = self.layout(wanted.metadata.name)
        with locked(layout):
            local = LocalRun(
                prepared(wanted, layout, fresh), layout, self.workdir, command=stand_in
            )
            if observer:
                local.observer = observer
            return local.execute(frozenset(only))

    def log(self, stage: str, attempt: int) -> str:
        return (self.layout().stage(stage).attempt(attempt) / "log.txt").read_text()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.script()
    return bench


def states(status) -> dict[str, str]:
    return {stage.name: stage.state.value for stage in status.stages}


def test_stages_run_in_order_and_each_is_told_the_digest_of_the_one_before(bench):
    status = bench.go()
    assert status.holds("Succeeded")
    order = json.loads((bench.layout().stage("grpo").attempt(1) / "order.json").read_text())
    [given] = order["inputs"]
    assert given == {
        "name": "sft",
        "location": "r/sft/final",
        "digest": status.stage("sft").checkpoint.digest,
    }
    assert order["storage"] == str(bench.storage)


def test_a_finished_run_is_left_alone(bench):
    bench.go()
    before = bench.layout().status.read_bytes()
    bench.go()
    assert json.loads(before)["status"] == json.loads(bench.layout().status.read_bytes())["status"]
    assert not bench.layout().stage("sft").attempt(2).exists()


def test_a_killed_stage_is_tried_again_and_goes_on_where_it_was(bench):
    bench.script(sft={"die": -9, "die_at": 2, "attempts_that_die": 1, "steps": 4})
    status = bench.go()
    assert status.holds("Succeeded")
    assert (status.stage("sft").attempt, status.stage("sft").failures) == (2, 1)
    assert "begins at step 2" in bench.log("sft", 2)


@pytest.mark.parametrize(
    ("die", "attempts", "code"),
    [
        ("DatasetInvalid", 1, ErrorCode.DATASET_INVALID),
        (1, 1, ErrorCode.INTERNAL),
        ("OutOfMemory", 3, ErrorCode.OUT_OF_MEMORY),
        (-11, 3, ErrorCode.WORKER_LOST),
    ],
)
def test_a_failure_is_final_or_tried_again_by_its_class(bench, die, attempts, code):
    bench.script(sft={"die": die, "steps": 9})
    status = bench.go()
    entry = status.stage("sft")
    assert (status.phase, entry.error.code, entry.attempt) == ("Failed", code, attempts)


def test_a_gate_that_refuses_ends_the_run_and_a_lower_threshold_goes_on_from_there(bench):
    def gated(threshold):
        return make_run(sft={"dataset": {"name": "d"}, "gate": {"minAccuracy": threshold}})

    bench.script(sft={"accuracy": 0.4})
    status = bench.go(gated(0.5))
    assert status.condition("Failed").reason == "GateRefused"
    assert "grpo" not in {p.name for p in bench.layout().root.iterdir()}
    status = bench.go(gated(0.3))
    assert status.holds("Succeeded")
    assert "begins at step 3" in bench.log("sft", 2)


def test_ctrl_c_saves_and_the_same_command_goes_on(bench):
    bench.script(sft={"steps": 60, "sleep": 0.05})

    def interrupt(local):
        saved = local.layout.stage("sft").root / "saved.json"
        if saved.exists() and not local.interrupts:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        bench.go(observer=interrupt)
    entry = read(bench.layout()).status.stage("sft")
    assert (entry.state, entry.failures) == (StageState.WAITING, 0)
    bench.script(sft={"steps": 60, "sleep": 0})
    assert bench.go().holds("Succeeded")
    begun = int(bench.log("sft", 2).split("step")[1])
    assert 0 < begun < 60


@pytest.mark.parametrize(
    ("change", "again"),
    [({}, False), ({"reflection": {"name": "own", "words": ["hmm"]}}, True)],
)
def test_other_words_have_only_the_evaluation_done_again(tmp_path, change, again):
    layout = RunLayout(tmp_path)
    evaluation = {"benchmarks": [{"dataset": {"name": "d"}}]}
    done = [
        StageStatus(name=name, state=StageState.SUCCEEDED) for name in ("sft", "grpo", "evaluation")
    ]
    run = make_run(evaluation=evaluation)
    save(run.model_copy(update={"status": RunStatus(stages=tuple(done))}), layout)
    found = states(prepared(make_run(evaluation=evaluation, **change), layout, False).status)
    assert (found["sft"], found["grpo"]) == ("Succeeded", "Succeeded")
    assert (found["evaluation"] != "Succeeded") == again


def leave_an_orphan(bench):
    """Have SFT at work, and its `coldstart run` killed."""
    bench.script(sft={"steps": 600, "sleep": 0.05})
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from builders import make_run\n"
        "from coldstart.layout import RunLayout\n"
        "from coldstart.local import LocalRun\n"
        "from coldstart.record import locked, prepared\n"
        f"layout = RunLayout(Path({str(bench.layout().root)!r}))\n"
        "with locked(layout):\n"
        "    run = prepared(make_run(), layout, False)\n"
        f"    LocalRun(run, layout, Path({str(bench.workdir)!r}),\n"
        f"             command=lambda _: [sys.executable, {str(STAND_IN)!r}]).execute()\n"
    )
    engine = subprocess.Popen([sys.executable, "-c", program])
    saved = bench.layout().stage("sft").root / "saved.json"
    while not saved.exists():
        time.sleep(0.02)
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    bench.script(sft={"steps": 3})


def was_told_to_end(stage):
    result = json.loads((stage / "attempt-1" / "result.json").read_text())
    return result["error"]["code"] == "Terminated"


def test_after_a_kill_of_coldstart_the_orphan_is_ended_and_the_run_goes_on(bench):
    leave_an_orphan(bench)
    status = bench.go(make_run())
    assert status.holds("Succeeded")
    assert (status.stage("sft").attempt, status.stage("sft").failures) == (2, 0)
    assert was_told_to_end(bench.layout().root / "sft")


@pytest.mark.parametrize("fresh", [True, Stage.SFT])
def test_the_orphan_is_ended_before_what_it_made_is_moved_aside(bench, fresh):
    """It knows its files by their paths, and would write into what begins again."""
    leave_an_orphan(bench)
    assert bench.go(make_run(), fresh=fresh).holds("Succeeded")
    assert was_told_to_end(bench.layout().root / "old-1" / "sft")
    logs = [path.read_text() for path in bench.layout().root.glob("sft/attempt-*/log.txt")]
    assert logs == ["begins at step 0\n"]


def killed_before_its_status(bench, monkeypatch, stage="sft", wanted=None):
    """The UID of a run whose stage has been started, and nothing been recorded of it."""
    record, order = LocalRun._record, bench.layout().stage(stage).attempt(1) / "order.json"

    def die(local, status):
        if order.exists():
            raise EOFError
        record(local, status)

    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "_record", die)
        with pytest.raises(EOFError):
            bench.go(wanted)
    return json.loads(order.read_text())["run"]["uid"]


def test_killed_before_its_first_status_a_run_goes_on_with_what_it_has_begun(bench, monkeypatch):
    uid = killed_before_its_status(bench, monkeypatch)
    status = bench.go()
    assert status.holds("Succeeded")
    assert status.stage("sft").failures == 0
    assert read(bench.layout()).metadata.uid == uid
    assert not (bench.layout().root / "old-1").exists()


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_what_was_begun_before_a_kill_is_not_taken_for_that_of_another_spec(
    bench, monkeypatch, stage
):
    before, after = (
        make_run(retry=QUICK_RETRY, **{stage: {"dataset": {"name": "d"}, "epochs": epochs}})
        for epochs in (3, 4)
    )
    uid = killed_before_its_status(bench, monkeypatch, stage, before)
    with pytest.raises(LocalRunError, match=rf"spec\.{stage}\.epochs was 3.*, is 4"):
        bench.go(after)
    status = bench.go(before)
    assert status.holds("Succeeded")
    assert status.stage(stage).failures == 0
    assert read(bench.layout()).metadata.uid == uid
    assert not (bench.layout().root / "old-1").exists()


def test_a_changed_spec_is_recorded_before_a_stage_is_begun_under_it(bench, monkeypatch):
    first, second = (
        make_run(retry=QUICK_RETRY, grpo={"dataset": {"name": "d"}, "epochs": epochs})
        for epochs in (3, 4)
    )
    bench.go(first, only=[Stage.SFT])
    killed_before_its_status(bench, monkeypatch, "grpo", second)
    assert bench.go(second).holds("Succeeded")


def test_two_at_once_on_one_run_is_refused(bench):
    with (
        locked(bench.layout()),
        pytest.raises(LocalRunError, match=f"works here \\(process {os.getpid()}\\)"),
        locked(bench.layout()),
    ):
        pass


def test_only_one_stage_and_a_stage_whose_input_is_missing(bench):
    status = bench.go(only=[Stage.SFT])
    assert states(status) == {"sft": "Succeeded", "grpo": "Waiting"}
    assert bench.go(only=[Stage.GRPO]).holds("Succeeded")


def test_a_stage_before_its_input_is_refused(bench):
    with pytest.raises(LocalRunError, match="--stage grpo: stage sft has not finished"):
        bench.go(only=[Stage.GRPO])


def test_fresh_moves_the_old_aside_and_loses_nothing(bench):
    bench.go()
    uid = read(bench.layout()).metadata.uid
    bench.go(fresh=True)
    old = json.loads((bench.layout().root / "old-1" / "status.json").read_text())
    assert old["metadata"]["uid"] == uid != read(bench.layout()).metadata.uid
    bench.go(fresh=Stage.GRPO)
    assert (bench.layout().root / "old-2" / "grpo" / "attempt-1").is_dir()
    assert read(bench.layout()).status.stage("sft").attempt == 1


def test_a_changed_spec_of_what_has_begun_is_refused_with_the_field(bench):
    bench.go()
    changed = make_run(sft={"dataset": {"name": "d.jsonl"}, "learningRate": 0.5})
    with pytest.raises(LocalRunError, match=r"spec\.sft\.learningRate was 1e-05, is 0\.5.*--fresh"):
        bench.go(changed)
    moved = make_run(model={"name": "other"})
    with pytest.raises(LocalRunError, match=r"spec\.model\.name was 'm', is 'other'"):
        bench.go(moved)


def test_what_decides_no_weight_may_change_and_so_may_a_stage_that_has_not_begun(bench):
    bench.go(only=[Stage.SFT])
    changed = make_run(
        sft={"dataset": {"name": "d.jsonl"}, "saveSteps": 7},
        grpo={"dataset": {"name": "d.jsonl"}, "learningRate": 0.5},
    )
    assert bench.go(changed).holds("Succeeded")
    assert read(bench.layout()).metadata.generation == 2


def test_a_stage_of_another_run_is_started_from(bench):
    bench.go(only=[Stage.SFT])
    arm = make_run(sft=None, grpo={"dataset": {"name": "d"}, "from": {"run": "r"}})
    arm = arm.model_copy(update={"metadata": arm.metadata.model_copy(update={"name": "arm"})})
    assert bench.go(arm).holds("Succeeded")
    order = json.loads((bench.layout("arm").stage("grpo").attempt(1) / "order.json").read_text())
    assert order["inputs"][0]["location"] == "r/sft/final"


def test_fine_tuning_learns_the_rows_that_another_run_has_made(bench):
    teacher = {"baseUrl": "http://h/v1", "model": "t"}
    rows = make_run(sft=None, grpo=None, distill={"dataset": {"name": "q"}, "teacher": teacher})
    digest = bench.go(rows).stage("distill").checkpoint.digest
    arm = make_run(sft={"from": {"run": "r"}}, grpo=None)
    arm = arm.model_copy(update={"metadata": arm.metadata.model_copy(update={"name": "arm"})})
    assert bench.go(arm).holds("Succeeded")
    order = json.loads((bench.layout("arm").stage("sft").attempt(1) / "order.json").read_text())
    told = {"name": "distill", "location": "r/distill/final", "digest": digest}
    assert order["inputs"] == [{"name": "base", "location": "m"}, told]


def test_waiting_for_a_run_that_nobody_makes_is_an_error(bench):
    arm = make_run(sft=None, grpo={"dataset": {"name": "d"}, "from": {"run": "absent"}})
    with pytest.raises(LocalRunError, match=r"spec\.grpo: run 'absent', stage sft: there is no"):
        bench.go(arm)


def test_a_suspended_run_starts_nothing(bench):
    status = bench.go(make_run(suspend=True))
    assert status.phase == "Suspended"
    assert not bench.layout().stage("sft").root.exists()


def test_suspended_runs_go_on(bench):
    bench.go(make_run(suspend=True))
    assert bench.go(make_run(suspend=False)).holds("Succeeded")


def test_a_damaged_status_is_named_and_left(bench):
    bench.layout().root.mkdir(parents=True)
    bench.layout().status.write_text("{")
    with pytest.raises(LocalRunError, match=r"status\.json: is not JSON"):
        bench.go()
    assert bench.layout().status.read_text() == "{"


def test_an_unwritable_directory_is_named(tmp_path, bench):
    bench.storage = tmp_path / "file"
    bench.storage.write_text("")
    with pytest.raises(LocalRunError, match="cannot be written"):
        bench.go()


def test_the_engine_may_run_beside_other_threads(bench):
    """Signals are its own; a thread that logs beside it is not disturbed."""
    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.01):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        assert bench.go().holds("Succeeded")
    finally:
        done.set()
        thread.join()
    assert ticks


def test_the_tail_of_a_log_is_the_stage_s_own(tmp_path):
    noise = "E1121 10:11:35.5 24856 torch/distributed/elastic/multiprocessing/api.py:1002] failed\n"
    (tmp_path / "log.txt").write_text("first\n" + "line\n" * 30 + "last\n" + noise + "more\n" * 40)
    tail = log_tail(tmp_path)
    assert tail.splitlines()[-1] == "last"
    assert len(tail.splitlines()) == 20
    (tmp_path / "log.txt").write_text(noise + "only torchrun spoke\n")
    assert "only torchrun spoke" in log_tail(tmp_path)
    assert log_tail(tmp_path / "absent") == ""


def test_an_attempt_is_known_to_live_from_its_first_moment_and_is_ended(tmp_path):
    order = build_order(make_run(), Stage.SFT, 1, {}, storage=str(tmp_path), workdir=str(tmp_path))
    place = RunLayout(tmp_path / "r").stage("sft")
    attempt = start(order, place, ["sleep", "600"])
    assert end_orphans(place)
    assert attempt.process.wait(timeout=10) == -signal.SIGTERM
    assert not end_orphans(place)


def test_one_that_has_only_begun_is_ended_as_soon_as_it_says_whom_to_end(tmp_path):
    order = build_order(make_run(), Stage.SFT, 1, {}, storage=str(tmp_path), workdir=str(tmp_path))
    place = RunLayout(tmp_path / "r").stage("sft")
    attempt = start(order, place, ["sleep", "600"])
    signed = place.attempt(1) / "process-launcher.json"
    hidden = signed.rename(signed.with_suffix(".partial"))
    threading.Timer(0.5, hidden.rename, [signed]).start()
    assert end_orphans(place)
    assert attempt.process.wait(timeout=10) == -signal.SIGTERM


def test_the_attempt_that_is_left_is_found_though_the_clock_was_set_back(tmp_path):
    first = build_order(make_run(), Stage.SFT, 1, {}, storage=str(tmp_path), workdir=str(tmp_path))
    place = RunLayout(tmp_path / "r").stage("sft")
    assert start(first, place, ["true"]).process.wait(timeout=10) == 0
    left = start(first.model_copy(update={"attempt": 2}), place, ["sleep", "600"])
    later = time.time() + 3600
    os.utime(place.attempt(1), (later, later))
    assert end_orphans(place)
    assert left.process.wait(timeout=10) == -signal.SIGTERM


def test_an_attempt_is_told_where_to_serve_its_numbers(tmp_path, monkeypatch):
    monkeypatch.delenv("COLDSTART_METRICS_PORT", raising=False)
    order = build_order(make_run(), Stage.SFT, 1, {}, storage=str(tmp_path), workdir=str(tmp_path))
    place = RunLayout(tmp_path / "r").stage("sft")
    show = ["sh", "-c", "echo port=$COLDSTART_METRICS_PORT"]
    for port in (9400, None):
        assert start(order, place, show, port).process.wait(timeout=10) == 0
    told = (place.attempt(1) / "log.txt").read_text()
    assert told.splitlines() == ["port=9400", "port="]
