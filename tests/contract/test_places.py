"""What a user sees of a run on this machine: status, log, report; and a report without a status."""

import fcntl
import json
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_run import DIGEST, START, failed, finished_run

from coldstart import parcel
from coldstart.checkpoint import manifest_digest
from coldstart.cli import main
from coldstart.files import append_json_line
from coldstart.layout import RunLayout
from coldstart.parcel import ParcelError
from coldstart.record import read, save
from coldstart.report import told_results, traced_run, write_report
from coldstart.report.scores import run_results, score_metrics
from coldstart.results import BenchmarkResult
from coldstart.stage import RunRef, StageOrder
from coldstart.status import StageState, StageStatus


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A finished run, below the directory where the commands look."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    return finished_run(tmp_path / "runs", problems=8)


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result.output


def running(root, name="grpo"):
    """Turn a finished run into one whose stage runs."""
    layout = RunLayout(root)
    run = read(layout)
    update = {"state": StageState.RUNNING, "finished_at": None, "checkpoint": None, "gates": ()}
    at = [entry.name for entry in run.status.stages].index(name)
    stages = (
        *run.status.stages[:at],
        run.status.stages[at].model_copy(update=update),
        *(StageStatus(name=entry.name) for entry in run.status.stages[at + 1 :]),
    )
    status = run.status.model_copy(update={"stages": stages, "conditions": (), "phase": "Running"})
    save(run.model_copy(update={"status": status}), layout)
    return layout


def test_status_shows_a_finished_run_and_its_document(root):
    text = call("status", "digits")
    for words in ("digits  runs/digits  Succeeded", "loss 0.61", "minBoxedShare", "passed"):
        assert words in text
    assert call("status", root).splitlines()[1:] == text.splitlines()[1:]
    assert json.loads(call("status", "digits", "--json")) == read(RunLayout(root)).status.document()
    assert "Succeeded" in call("status", "digits", "--watch")


def test_status_of_a_failed_run_says_why(root):
    failed(root)
    text = call("status", "digits", "--watch", code=1)
    assert "GRPO failed (DatasetInvalid): row 17: the image cannot be decoded" in text


def test_status_shows_how_far_a_running_stage_is_and_whether_anybody_works_on_it(root):
    layout = running(root)
    line = {"time": 1.0, "attempt": 1, "phase": "train", "done": 81, "total": 99}
    append_json_line(layout.stage("grpo").metrics, line | {"values": {"reward_total_mean": 0.5}})
    append_json_line(layout.stage("grpo").metrics, line | {"done": 82, "values": {"loss": 1.0}})
    text = call("status", "digits")
    assert "82/99" in text
    assert "reward 0.5" in text
    assert "No `coldstart run` works on it" in text
    with layout.lock.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert "No `coldstart run`" not in call("status", "digits")


def test_a_damaged_status_is_named(root):
    RunLayout(root).status.write_text("{")
    assert "status.json: is not JSON" in call("status", "digits", code=2)


def test_the_log_is_the_latest_attempts(root):
    running(root)
    directory = RunLayout(root).stage("grpo").attempt(1)
    directory.mkdir()
    (directory / "log.txt").write_bytes(b"".join(b"%d\n" % n for n in range(100_000)))
    assert len(call("logs", "digits").splitlines()) == 100_000
    assert call("logs", "digits", "--tail", "3") == "99997\n99998\n99999\n"
    assert call("logs", "digits", "--tail", "0") == ""
    assert len(call("logs", "digits", "--tail", "50000").splitlines()) == 50_000
    assert len(call("logs", "digits", "--tail", "200000").splitlines()) == 100_000
    assert "node 0 only" in call("logs", "digits", "--node", "1", code=2)
    assert "has made 1 so far" in call("logs", "digits", "--attempt", "2", code=2)


def test_a_log_that_is_gone_is_told_with_what_the_status_knows(root):
    failed(root)
    assert call("logs", "digits", code=1) == (
        "the log of grpo attempt 1 is gone; it ended with DatasetInvalid: row 17: the image "
        "cannot be decoded\n"
    )


def test_a_log_is_followed_until_nobody_works_on_it(root):
    stage = running(root).stage("grpo")
    path = stage.attempt(1) / "log.txt"
    path.parent.mkdir()
    path.write_text("one\n")
    locked, seen = threading.Event(), threading.Event()

    def work():
        with stage.alive.open("ab") as alive, path.open("a") as log:
            fcntl.flock(alive, fcntl.LOCK_SH)
            locked.set()
            seen.wait(20)
            time.sleep(0.4)  # so that the follower has looked; if not, it reads all at once
            log.write("two\n")

    worker = threading.Thread(target=work)
    worker.start()
    assert locked.wait(20)
    seen.set()
    assert call("logs", "digits", "-f") == "one\ntwo\n"
    worker.join(20)


def test_report_writes_where_it_is_told(root, tmp_path):
    assert "report: here.html" in call("report", "digits", "--output", "here.html")
    assert (tmp_path / "here.html").read_text() == (root / "report.html").read_text()
    (root / "report.html").unlink()
    assert "report:" not in call("report", "digits", "--table")
    assert not (root / "report.html").exists()
    assert "no/where.html: cannot be written" in call(
        "report", "digits", "--output", "no/where.html", code=2
    )


def test_what_a_cluster_needs_is_not_loaded_for_a_run_on_this_machine(root):
    program = (
        "import sys; from coldstart.cli import main\n"
        "try: main(['status', 'digits'])\n"
        "except SystemExit: print({'kubernetes', 'kopf', 'aiohttp', 'torch'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "set()"


def test_suspend_is_of_a_cluster(root):
    assert "Ctrl-C on its `coldstart run`" in call("suspend", "digits", code=2)


# A report without a status, as on a cluster


def order_of(root):
    run = read(RunLayout(root))
    return StageOrder(
        run=RunRef(name="digits", uid="4f7e"),
        stage="evaluation",
        attempt=2,
        spec=run.spec,
        inputs=({"name": "base", "location": "model"},),
        storage=str(root.parent),
        workdir=str(root.parent),
    )


def test_a_run_is_told_by_its_files(root):
    layout = RunLayout(root)
    order, known = order_of(root), read(layout).status
    digests = {}
    for name in ("sft", "grpo"):
        path = layout.stage(name).final / "coldstart.json"
        manifest = json.loads(path.read_text()) | {
            "metrics": {"probe_boxed_share": 1.0, "loss": 0.6, "probe_accuracy": 0.7}
        }
        path.write_text(json.dumps(manifest))
        digests[name] = manifest_digest(path.parent)
        for found in (layout.root / "evaluation" / name).glob("*/results.json"):
            found.write_text(found.read_text().replace(DIGEST, digests[name]))
    layout.status.unlink()
    now = START + timedelta(hours=1)
    run = traced_run(order, {"accuracy_base": 0.5}, now)
    status = run.status
    assert status.holds("Succeeded")
    assert status.finished_at == now
    assert [entry.attempt for entry in status.stages] == [1, 1, 2]
    assert [entry.checkpoint.digest for entry in status.stages[:2]] == list(digests.values())
    for entry, other in zip(status.stages, known.stages, strict=True):
        assert [verdict.name for verdict in entry.gates] == [item.name for item in other.gates]
        assert all(verdict.passed for verdict in entry.gates)
    page = write_report(root, run).read_text()
    for words in ("85", "minBoxedShare"[:3], "SFT + GRPO", "What these numbers are not"):
        assert words in page
    assert "belong to another checkpoint" not in page


def test_a_run_without_checkpoints_of_its_own_is_told(root):
    """What an evaluation has of stages whose files are gone."""
    layout = RunLayout(root)
    for name in ("sft", "grpo"):
        (layout.stage(name).final / "coldstart.json").unlink()
    run = traced_run(order_of(root), {}, START)
    assert [entry.checkpoint for entry in run.status.stages] == [None, None, None]
    assert write_report(root, run).exists()


def test_what_a_status_tells_of_the_scores_is_what_the_files_do(root):
    layout = RunLayout(root)
    metrics = {}
    for name in ("base", "sft", "grpo"):
        paths = (layout.root / "evaluation" / name).glob("*/results.json")
        metrics |= score_metrics(
            name, [BenchmarkResult.parse(json.loads(path.read_text())) for path in paths]
        )
    status = read(layout).status
    entry = status.stage("evaluation").model_copy(update={"metrics": metrics})
    status = status.model_copy(update={"stages": (entry,)})
    assert told_results(status) == run_results(root)
    assert told_results(status.model_copy(update={"stages": ()})).checkpoints == {}


# Parcels


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=20_000), st.sampled_from(["", "a warning\n"]))
def test_a_parcel_carries_any_file(data, noise):
    assert parcel.unpacked(noise + parcel.packed(data) + noise) == data


PACKED = parcel.packed(bytes(range(256)) * 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the log holds no file"),
        (PACKED[: len(PACKED) // 2], "was cut short: the end of the file is missing"),
        (PACKED.replace("\nH4sI", "\nH4sJ"), "the SHA-256 of the file differs"),
        (PACKED.replace("\nH4sI", "\n*4sI"), "it is not base64"),
        (PACKED.replace("\nH4sI", "\n"), "was cut short: it holds"),
        (parcel.REFUSAL.format(reason="/x: Permission denied"), "/x: Permission denied"),
    ],
)
def test_a_parcel_that_is_not_whole_is_refused(text, message):
    with pytest.raises(ParcelError, match=message):
        parcel.unpacked(text)


def test_a_parcel_runs_where_only_python_is(tmp_path):
    (tmp_path / "page").write_bytes(b"page \xff")

    def sent(path):
        command = [sys.executable, "-I", "-S", "-c", parcel.source(), str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert parcel.unpacked(sent(tmp_path / "page").stdout) == b"page \xff"
    gone = sent(tmp_path / "gone")
    assert gone.returncode == 1
    with pytest.raises(ParcelError, match="gone: No such file or directory"):
        parcel.unpacked(gone.stdout)
