"""What a user sees of a cluster's runs: status, logs, suspend; as coldstart and as kubectl."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading

import command_world
import pytest
import yaml
from apiserver.authorization import allowing
from apiserver.faults import Fault
from apiserver.scripts import FOREVER, KILLED, Behaviour, scripted, success
from click.testing import CliRunner
from command_world import SCORES, call, ends, pod, put, stage, until
from operating import SFT_ONLY, run_starts, spec

from coldstart.cli import kubectl, main
from coldstart.run import ReasoningRun
from coldstart.status import RunStatus

w = command_world.w
place = command_world.place
pytestmark = pytest.mark.usefixtures("place")


# Status


def test_a_run_is_watched_to_its_end(w):
    def evaluation(attempt):
        return success(attempt, **SCORES)

    table = {("sft", 1): KILLED, ("evaluation", 1): Behaviour(message=evaluation)}
    w.controllers.script = scripted(table, Behaviour(running=0.3))
    with w.operator():
        w.apply("watched")
        lines = call("status", "watched", "--watch", "--json").splitlines()
    last = json.loads(lines[-1])
    stored = w.run("watched")["status"]
    assert RunStatus.parse(last) == RunStatus.parse(stored)
    assert [entry["attempt"] for entry in last["stages"]] == [2, 1, 1]
    text = call("status", "watched", "--conditions")
    for words in ("namespace default of test", "Succeeded", "watched-sft-2", "PyTorchJob"):
        assert words in text
    assert re.search(r"Evaluation +Succeeded +1 .*grpo 82.5 %", text)
    assert re.search(r"SFT +checkpoint .* passed", text)
    assert re.search(r"Failed +False .*AllStagesSucceeded", text)
    assert "AttemptFailed" in text
    assert json.loads(call("report", "watched", "--json"))["checkpoints"]["grpo"]["n"] == 40


def test_a_watch_of_a_failed_run_ends_with_1(w):
    error = {"code": "DatasetInvalid", "message": "row 17 [red]is[/red] \x1b[31m torn"}
    verdict = {"name": "minAccuracy", "observed": 0.1, "threshold": 0.5, "passed": False}
    failed = stage("sft", "Failed", error=error, gates=[verdict | {"message": "0.1 is below"}])
    put(w, "failed", failed, holds="Failed", phase="Failed")
    text = call("status", "failed", "--watch", code=1)
    assert "SFT failed (DatasetInvalid): row 17 [red]is[/red] [31m torn" in text
    assert re.search(r"minAccuracy +0.1 +0.5 +refused: 0.1 is below", text)
    call("status", "failed")


def test_a_running_stage_shows_progress_reward_and_cost(w):
    progress = {"stage": "grpo", "done": 120, "total": 496, "text": "120/496", "reward": 0.61}
    grpo = stage("grpo", "Running", 3, gpuSeconds=7200.0, wastedGpuSeconds=90.0)
    put(w, "busy", stage("sft"), grpo, progress=progress, phase="GRPORunning")
    text = call("status", "busy")
    assert re.search(r"GRPO +Running +3 +120/496 +reward 0.61 +2 h 0 min +1 min 30 s", text)


def test_what_an_operator_has_not_seen_is_said(w):
    w.apply("new")
    assert "Nothing has looked at it yet" in call("status", "new")
    put(w, "changed", stage("sft", "Running"))
    w.server.patch("reasoningruns", "changed", {"spec": {"suspend": True}})
    assert "has not seen the latest change" in call("status", "changed")


def test_a_status_of_another_version_is_shown_as_far_as_it_can_be_read(w):
    put(w, "other", stage("sft", "Running"))
    known = w.run("other")["status"]
    definition = w.server.get("customresourcedefinitions", "reasoningruns.coldstart.dev")
    fields = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    fields["properties"]["later"] = {"type": "string"}
    w.server.patch("customresourcedefinitions", "reasoningruns.coldstart.dev", definition)
    w.server.set_status("reasoningruns", "other", known | {"later": "x"})
    text = call("status", "other")
    assert re.search(r"SFT +Running", text)
    assert "status.later: unknown key" in text


def test_events_that_may_not_be_seen_do_not_hide_the_run(w):
    put(w, "quiet", stage("sft", "Running"))
    runs = {"apiGroups": ["coldstart.dev"], "resources": ["reasoningruns"], "verbs": ["get"]}
    w.server.authorize = allowing([runs])
    text = call("status", "quiet")
    assert "Its events cannot be shown" in text
    assert re.search(r"SFT +Running", text)


# Which place


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["absent"], "absent: no such run in runs, and no directory with a status.json; and in a "),
        (["absent"], "and in a cluster: absent: no such run in namespace default of test"),
        (["absent", "-n", "ml"], "absent: no such run in namespace ml of test"),
        (["absent", "--context", "prod"], "has no context 'prod' (has: test)"),
        (["absent", "--kubeconfig", "gone"], "there is no kubeconfig (gone)"),
        (["absent", "--dir", ".", "-n", "ml"], "--dir is on this machine"),
        (["a/path"], "a/path: no such run in runs, and no directory with a status.json"),
        (["rrun/absent"], "no such run in namespace default"),
        (["Absent?x=y", "-n", "ml"], "is not the name of a run"),
    ],
)
def test_a_run_that_is_nowhere_is_looked_for_where_it_was_said(options, message):
    assert message in call("status", *options, code=2)


def test_every_command_says_that_a_run_is_nowhere():
    for command in ("logs", "report", "suspend", "resume"):
        assert "absent: no such run in namespace default" in call(command, "absent", code=2)
        assert "absent: no such run" in call(command, "absent", code=2, command=kubectl)


def test_a_run_on_this_machine_goes_before_one_of_the_cluster(w, tmp_path):
    put(w, "both", stage("sft", "Running"), phase="SFTRunning")
    (tmp_path / "runs" / "both").mkdir(parents=True)
    document = {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": "both"},
        "spec": spec(),
        "status": {"phase": "Local"},
    }
    (tmp_path / "runs" / "both" / "status.json").write_text(json.dumps(document))
    assert json.loads(call("status", "both", "--json"))["phase"] == "Local"
    for options in (["-n", "default"], ["--context", "test"]):
        assert json.loads(call("status", "both", "--json", *options))["phase"] == "SFTRunning"
    assert json.loads(call("status", "both", "--json", command=kubectl))["phase"] == "SFTRunning"
    local = call("status", "both", "--json", "--dir", "runs", command=kubectl)
    assert json.loads(local)["phase"] == "Local"


def test_kubectl_coldstart_takes_the_namespace_of_the_context(w, tmp_path, monkeypatch):
    w.server.create("namespaces", {"metadata": {"name": "ml"}})
    w.apply("mine", namespace="ml")
    assert "namespace default" in call("status", "mine", command=kubectl, code=2)
    call("-n", "ml", "status", "mine", command=kubectl)
    monkeypatch.setenv("KUBECONFIG", str(w.server.kubeconfig(tmp_path / "other", "ml")))
    assert "namespace ml of test" in call("status", "rrun/mine", command=kubectl)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a kubeconfig"),
        ("- a\n- b\n", "is not a kubeconfig"),
        ("{", "kubeconfig broken: "),
        ("current-context: x\ncontexts: []\nclusters: []\nusers: []\n", "kubeconfig broken: "),
    ],
)
def test_a_broken_kubeconfig_is_named(tmp_path, text, message):
    (tmp_path / "broken").write_text(text)
    assert message in call("status", "r", "--kubeconfig", "broken", code=2)


def test_an_api_server_that_does_not_answer_is_named(w, tmp_path):
    config = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    for command in ("status", "logs", "report"):
        text = call(command, "r", "-n", "default", code=1)
        assert text.startswith("the API server http://127.0.0.1:1 does not answer: ")
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (401, "does not know you: log in again", 2),
        (403, "you have no right to this: injected", 2),
        (404, "does not serve ReasoningRuns: `kubectl apply -f manifests/crd.yaml`", 2),
        (503, "answers with 503: injected", 1),
    ],
)
def test_a_refusal_is_a_sentence(w, status, message, code):
    w.server.faults.add(Fault("get", "reasoningruns", status=status, message="injected"))
    assert message in call("status", "r", "-n", "default", code=code)


def test_a_watch_outlives_a_silence(w):
    put(w, "long", stage("sft"), holds="Succeeded", phase="Succeeded")
    w.server.faults.add(Fault("get", "reasoningruns", status=503, message="busy"))
    text = call("status", "long", "--watch")
    assert "answers with 503: busy; asks again" in text
    assert "long: Succeeded" in text


# Logs


def test_the_log_of_the_latest_attempt_is_printed(w):
    run = put(w, "logged", stage("sft"), stage("grpo", "Running", 2))
    w.controllers.script = lambda attempt: Behaviour(
        running=None, log=f"{attempt.stage} {attempt.number}\none\ntwo\n"
    )
    for name, attempt in (("sft", 1), ("grpo", 1), ("grpo", 2)):
        found = pod(w, run, name, attempt)
        w.server.wait("pods", found, lambda p: p["status"]["phase"] == "Running")
    assert call("logs", "logged") == "grpo 2\none\ntwo\n"
    assert call("logs", "logged", "--tail", "1") == "two\n"
    assert call("logs", "logged", "--stage", "sft").startswith("sft 1\n")
    assert call("logs", "logged", "--attempt", "1").startswith("grpo 1\n")
    asked = w.server.requests.of("get", "pods/log")[-1]
    assert asked.query["container"] == "pytorch"
    assert "has no such stage (has: sft, grpo)" in call(
        "logs", "logged", "--stage", "evaluation", code=2
    )
    assert "has made 2 so far" in call("logs", "logged", "--attempt", "9", code=2)
    assert "there are pods of node 0 only" in call("logs", "logged", "--node", "3", code=2)


def test_a_log_is_followed_from_before_its_pod_to_its_end(w):
    w.controllers.script = scripted({}, FOREVER)
    run = put(w, "followed", stage("sft", "Starting"), message="waits for a quota")
    refused = 'container "pytorch" in pod is waiting to start: ContainerCreating'

    def happen():
        until(lambda: w.server.requests.of("list", "pods"))
        w.server.faults.add(Fault("get", "pods/log", status=400, message=refused))
        name = pod(w, run)
        try:
            w.server.wait("pods", name, lambda p: p["status"]["phase"] == "Running")
            w.server.set_log(name, "one\n")
            until(lambda: len(w.server.requests.of("get", "pods/log")) > 1)
            w.server.set_log(name, "one\ntwo\n")
        finally:
            ends(w, name)

    w.server.requests.clear()
    meanwhile = threading.Thread(target=happen)
    meanwhile.start()
    result = CliRunner().invoke(main, ["logs", "followed", "-f"])
    meanwhile.join(20)
    assert (result.exit_code, result.stdout) == (0, "one\ntwo\n"), result.output
    assert "sft attempt 1 has no pod yet: waits for a quota" in result.stderr
    assert "ContainerCreating" in result.stderr


def test_all_pods_of_an_attempt_are_told_apart(w):
    w.controllers.script = scripted({}, FOREVER)
    run = put(w, "several", stage("sft", "Running"))
    names = [pod(w, run, index=0, kind="master"), pod(w, run, index=0), pod(w, run, index=1)]
    for number, name in enumerate(names):
        w.server.wait("pods", name, lambda p: p["status"]["phase"] == "Running")
        w.server.set_log(name, f"a{number}\nb{number}")
    assert call("logs", "several") == "a0\nb0"
    assert call("logs", "several", "--node", "2") == "a2\nb2"
    lines = call("logs", "several", "--all-nodes").splitlines()
    assert sorted(lines) == [f"[{n}] {word}{n}" for n in range(3) for word in "ab"]
    w.server.delete("pods", names[1], grace=0)
    w.server.faults.add(Fault("get", "pods/log", status=400, message="waits to start", times=None))
    text = call("logs", "several", "--all-nodes")
    assert "node 0: pod several-sft-1-master-0: waits to start" in text


def test_of_a_log_that_is_gone_the_status_tells_what_it_knows(w):
    error = {"code": "WorkerLost", "message": "the node\n\x1b[2J is gone"}
    put(w, "bygone", stage("sft", "Failed", 2, error=error), holds="Failed")
    text = call("logs", "bygone", code=1)
    assert text == (
        "every pod of sft attempt 2 is gone; it ended with WorkerLost: the node [2J is gone\n"
    )
    text = call("logs", "bygone", "--attempt", "1", "-f", code=1)
    assert "knows of attempt 2 only" in text
    put(w, "waits", stage("sft", "Waiting", 0), message="waits for run 'x'")
    assert "no stage has started: waits for run 'x'" in call("logs", "waits", code=1)
    put(w, "begins", stage("sft", "Starting"), message="waits for a quota")
    assert "has no pod yet: waits for a quota" in call("logs", "begins", code=1)


# The rest


def test_a_run_is_suspended_and_goes_on(w):
    w.controllers.script = scripted({("sft", 1): FOREVER})
    with w.operator():
        w.apply("halted", **SFT_ONLY)
        w.until(run_starts, "halted")
        assert "is to be suspended" in call("suspend", "halted", command=kubectl)
        w.until(lambda run: run["status"]["phase"] == "Suspended", "halted")
        assert "already" in call("suspend", "halted")
        assert "goes on" in call("resume", "halted")
        w.end("halted")
    assert "has ended (Succeeded)" in call("suspend", "halted", code=2)


def test_what_a_cluster_needs_and_is_not_installed_is_named(tmp_path):
    program = (
        "import sys; sys.modules['kubernetes'] = None\n"
        "from coldstart.cli import main; main(['status', 'x', '-n', 'y'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert found.stderr == (
        "a cluster cannot be asked without kubernetes: install coldstart-operator[operator]\n"
    )


def test_kubectl_finds_the_plugin(w, tmp_path):
    program, plugin = shutil.which("kubectl"), shutil.which("kubectl-coldstart", path=_scripts())
    if program is None or plugin is None:
        pytest.skip("no kubectl on PATH, or this project is not installed")
    put(w, "plugged", stage("sft", "Running"), phase="SFTRunning")
    environ = os.environ | {"PATH": f"{_scripts()}{os.pathsep}{os.environ['PATH']}"}

    command = [program, "coldstart", "-n", "default", "status", "rrun/plugged", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["phase"] == "SFTRunning"


def _scripts():
    return os.path.dirname(sys.executable)  # noqa: PTH120 - a symlink's own place


def test_kubectl_coldstart_validates_and_renders(w, tmp_path):
    run = w.apply("file")
    ReasoningRun.parse({key: run[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    document = {"apiVersion": run["apiVersion"], "kind": run["kind"], "spec": spec()}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document | {"metadata": {"name": "file"}}))
    assert "valid" in call("validate", "run.yaml", command=kubectl)
    found = list(yaml.safe_load_all(call("render", "run.yaml", command=kubectl)))
    assert [item["kind"] for item in found] == ["PyTorchJob"] * 3
    assert call("version", command=kubectl).strip()
