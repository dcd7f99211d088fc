"""What a user does to a run with the real kubectl, and sees, from `apply` to `delete`."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from apiserver.scripts import FOREVER, Behaviour, failing, scripted, success
from kube_schema import VERSIONS, check
from kubectl import Kubectl
from operating import SFT_ONLY, ended, run_starts, spec, stage, world
from pod_security import violations
from spec_cases import document

from coldstart.children.pod import STORAGE, USER_ID
from coldstart.spec import GRPO

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart" / "run.yaml"


def file(directory, name="r", **changes):
    """A run.yaml in a directory: three stages, retried at once, some of its fields changed."""
    run = document(name=name)
    run["spec"] = spec(**changes)
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def rows(kubectl, *options):
    """The table of the runs: a mapping from heading to cell for each of them."""
    head, *lines = kubectl("get", "rrun", *options).splitlines()
    starts = [found.start() for found in re.finditer(r"\S+", head)]
    spans = list(zip(head.split(), starts, [*starts[1:], None], strict=True))
    return [{name: line[start:end].strip() for name, start, end in spans} for line in lines]


def row(kubectl, *options):
    """The only row of the table, without the age."""
    (found,) = rows(kubectl, *options)
    found.pop("AGE")
    return found


def version(w, name="r"):
    """What every write of a run changes."""
    return w.run(name)["metadata"]["resourceVersion"]


def names(w, kind, **options):
    """The names of the objects of a kind."""
    return [item["metadata"]["name"] for item in w.server.list(kind, **options)]


def children(w):
    """What there is of jobs, pods and services."""
    return [*w.jobs(), *names(w, "pods"), *names(w, "services")]


def applied(w, kubectl, directory, **changes):
    """Apply a run of one stage, and wait until it runs."""
    kubectl("apply", "-f", file(directory, **(SFT_ONLY | changes)))
    return w.until(run_starts)


def until(test, seconds=20.0):
    """Wait until a test passes."""
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        time.sleep(0.02)


# Looking


def test_the_example_goes_to_its_end(tmp_path):
    told = Behaviour(message=lambda attempt: success(attempt, probe_boxed_share=0.9))
    with world(tmp_path, scripted({}, told)) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        applying = ["apply", "-f", QUICKSTART]
        assert kubectl(*applying) == "reasoningrun.coldstart.dev/quickstart created\n"
        waiting = kubectl("wait", "--for=condition=Succeeded", "--timeout=30s", "rrun/quickstart")
        assert "condition met" in waiting
        before = version(w, "quickstart")
        assert "unchanged" in kubectl(*applying)
        assert kubectl("diff", "-f", QUICKSTART) == ""
        assert version(w, "quickstart") == before
        assert w.run("quickstart")["metadata"]["generation"] == 1
        assert row(kubectl, "-o", "wide") == {
            "NAME": "quickstart",
            "STAGE": "",
            "PHASE": "Succeeded",
            "PROGRESS": "",
            "REWARD": "",
            "QUEUE": "",
            "BACKEND": "PyTorchJob",
            "MESSAGE": w.run("quickstart")["status"]["message"],
        }
        gate = stage(w.run("quickstart"), "sft")["gates"][1]
        found = (gate["name"], gate["observed"], gate["threshold"])
        assert found == ("minBoxedShare", 0.9, 0.8)


def test_columns_while_it_waits_and_runs(tmp_path):
    stuck = Behaviour(unschedulable="0/3 nodes are available: insufficient nvidia.com/gpu")
    with world(tmp_path, scripted({("sft", 1): stuck})) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        kubectl("apply", "-f", file(tmp_path, scheduling={"queueName": "team"}))
        w.until(lambda run: "insufficient" in ((run or {}).get("status") or {}).get("message", ""))
        found = row(kubectl, "-o", "wide")
        assert (found["STAGE"], found["QUEUE"], found["BACKEND"]) == ("sft", "team", "PyTorchJob")
        assert "insufficient nvidia.com/gpu" in found["MESSAGE"]
        assert "MESSAGE" not in row(kubectl)


PROGRESS = {"stage": "grpo", "done": 12, "total": 40, "text": "12/40", "reward": 0.5}


def test_columns_in_the_middle_of_a_stage(tmp_path):
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        kubectl("apply", "-f", file(tmp_path))
        assert set(row(kubectl, "-o", "wide").values()) == {"r", ""}
        states = (("sft", "Succeeded"), ("grpo", "Running"), ("evaluation", "Waiting"))
        stages = [{"name": name, "state": state} for name, state in states]
        status = {"phase": "Running", "progress": PROGRESS, "stages": stages}
        w.server.set_status("reasoningruns", "r", status)
        assert row(kubectl) == {
            "NAME": "r",
            "STAGE": "grpo",
            "PHASE": "Running",
            "PROGRESS": "12/40",
            "REWARD": "0.5",
        }


def test_explain_has_the_words_of_the_models(tmp_path):
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        text = " ".join(kubectl("explain", "rrun.spec.grpo").split())
        for name, field in GRPO.model_fields.items():
            first = field.description.partition(".")[0].split()
            assert f"{field.alias or name} <" in text
            assert " ".join(first) in text
        assert "groupSize <integer>" in text
        unknown = kubectl("explain", "rrun.spec.grpo.group", code=1)
        assert 'field "group" does not exist' in unknown


def test_describe_shows_conditions_and_events(tmp_path):
    with world(tmp_path, scripted({("sft", 1): failing(2, "DatasetInvalid")})) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        kubectl("apply", "-f", file(tmp_path, **SFT_ONLY))
        w.end()
        assert w.has_events("DatasetInvalid")
        text = kubectl("describe", "rrun", "r")
        for type_ in ("Accepted", "Queued", "Running", "Suspended", "Succeeded", "Failed"):
            assert f"Type:                  {type_}\n" in text
        events = text.partition("\nEvents:")[2]
        assert "Warning  DatasetInvalid" in events
        assert "sft failed: as the script says" in events


def test_the_example_s_claim_is_that_of_its_run(tmp_path):
    claim, pod = yaml.safe_load_all((QUICKSTART.parent / "claim.yaml").read_text())
    for manifest in (claim, pod):
        for version_ in VERSIONS:
            check(manifest, version_)
    assert violations(pod) == []
    user = pod["spec"]["securityContext"]
    assert (user["runAsUser"], user["fsGroup"]) == (USER_ID, USER_ID)
    assert pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == STORAGE
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "coldstart"}
    storage = yaml.safe_load(QUICKSTART.read_text())["spec"]["storage"]
    assert storage == {"claimName": claim["metadata"]["name"]}
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        kubectl("apply", "-f", QUICKSTART.parent / "claim.yaml", "-f", QUICKSTART)
        assert len(w.server.list("reasoningruns")) == 1


# Waiting


@pytest.mark.parametrize(("code", "type_"), [(0, "Succeeded"), (2, "Failed")])
def test_wait_sees_the_end_when_it_comes(tmp_path, code, type_):
    with world(tmp_path, scripted({}, FOREVER)) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        applied(w, kubectl, tmp_path, retry={"limit": 0})
        early = kubectl("wait", f"--for=condition={type_}", "--timeout=1s", "rrun/r", code=1)
        assert "timed out waiting for the condition" in early
        w.server.requests.clear()
        with kubectl.meanwhile("wait", f"--for=condition={type_}", "--timeout=30s", "rrun/r"):
            until(lambda: w.server.requests.of("watch", "reasoningruns", agent="kubectl"))
            w.controllers.finish("r-sft-1", failing(code) if code else None)
        spent = stage(w.run(), "sft")
        assert spent["gpuSeconds"] >= 1
        assert spent["wastedGpuSeconds"] == (spent["gpuSeconds"] if code else 0)


# Bad files


BAD = {
    "unknown field": ({"spec.grpo.groupsize": 8}, 'unknown field "spec.grpo.groupsize"'),
    "type": (
        {"spec.grpo.groupSize": "many"},
        "spec.grpo.groupSize in body must be of type integer",
    ),
    "bound": ({"spec.sft.epochs": 0}, "spec.sft.epochs in body should be greater than 0"),
    "choice": ({"spec.grpo.loss": {"type": "ppo"}}, "spec.grpo.loss.type: Unsupported value"),
    "rule": (
        {"spec.sft.batchSize": 5, "spec.sft.microBatchSize": 2},
        "batchSize is not a multiple of microBatchSize",
    ),
    "no model": ({"spec.model": {"revision": "main"}}, "spec.model"),
    "no stage": ({"spec.sft": None, "spec.grpo": None, "spec.evaluation": None}, "spec: "),
    "name": ({"metadata.name": "r" * 41}, "metadata.name"),
    "kind": ({"kind": "ReasoningRuns"}, 'no matches for kind "ReasoningRuns"'),
    "version": ({"apiVersion": "coldstart.dev/v1"}, 'in version "coldstart.dev/v1"'),
}


def test_a_bad_file_is_refused_by_its_field(tmp_path):
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        for name, (changes, expected) in BAD.items():
            run = document()
            for path, value in changes.items():
                *parents, last = path.split(".")
                node = run
                for part in parents:
                    node = node[part]
                node[last] = value
                if value is None:
                    del node[last]
            assert expected in kubectl("apply", "-f", "-", given=run, code=1), name
        assert w.server.list("reasoningruns") == []


def test_text_that_is_no_yaml_is_refused(tmp_path):
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        text = QUICKSTART.read_text().replace("  sft: #", " sft: #")
        assert "error converting YAML to JSON" in kubectl("apply", "-f", "-", given=text, code=1)


def test_unknown_fields_are_let_pass_where_the_user_says_so(tmp_path):
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        run = document({"sft.epoch": 3})
        text = kubectl("apply", "--validate=warn", "-f", "-", given=run)
        assert 'Warning: unknown field "spec.sft.epoch"' in text
        assert "epoch" not in w.run()["spec"]["sft"]


# Changing


@pytest.mark.fault(52)
def test_apply_while_it_runs_is_no_change(tmp_path):
    with world(tmp_path, scripted({}, FOREVER)) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        applied(w, kubectl, tmp_path)
        before = version(w)
        assert "unchanged" in kubectl("apply", "-f", tmp_path / "r.yaml")
        assert kubectl("diff", "-f", tmp_path / "r.yaml") == ""
        assert version(w) == before
        assert w.created() == ["r-sft-1"]


@pytest.mark.fault(52)
def test_two_managers_that_say_the_same_do_not_flap(tmp_path):
    with world(tmp_path) as w:
        kubectl = Kubectl(w.server, tmp_path)
        path = file(tmp_path)

        def apply(manager, **more):
            options = ("--server-side", f"--field-manager={manager}")
            return kubectl("apply", *options, "-f", path, **more)

        managers = ("flux", "argocd")
        for manager in managers:
            apply(manager)
        before = version(w)
        for manager in (*managers, *managers):
            apply(manager)
        assert version(w) == before
        path.write_text(path.read_text() + "  suspend: true\n")
        apply("flux")
        path.write_text(path.read_text().replace("suspend: true", "suspend: false"))
        refusal = apply("argocd", code=1)
        assert 'conflict with "flux"' in refusal
        assert ".spec.suspend" in refusal
        assert w.run()["spec"]["suspend"]


def test_patch_suspends_and_resumes(tmp_path):
    first = Behaviour(running=None, shutdown=0.1)
    with world(tmp_path, scripted({("sft", 1): first})) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        applied(w, kubectl, tmp_path)

        def suspend(value):
            patch = json.dumps({"spec": {"suspend": value}})
            kubectl("patch", "rrun", "r", "--type=merge", "-p", patch)

        suspend(True)
        kubectl("wait", "--for=condition=Suspended", "--timeout=20s", "rrun/r")
        assert row(kubectl)["PHASE"] == "Suspended"
        assert children(w) == []
        suspend(False)
        kubectl("wait", "--for=condition=Succeeded", "--timeout=20s", "rrun/r")
        assert w.created() == ["r-sft-1", "r-sft-2"]


def test_what_is_fixed_once_it_has_started(tmp_path):
    with world(tmp_path, scripted({}, FOREVER)) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        path = file(tmp_path, **SFT_ONLY)
        kubectl("apply", "-f", path)
        w.until(run_starts)
        before = w.run()["spec"]
        path.write_text(path.read_text().replace("d.jsonl", "other.jsonl"))
        refusal = kubectl("apply", "-f", path, code=1)
        assert "spec.sft" in refusal
        assert "cannot change after the run has started" in refusal
        # An editor that kubectl opens again, with the refusal in it, until nothing is changed.
        script = "sed -i -e 's/name: d.jsonl/name: other.jsonl/'"
        kubectl("edit", "rrun", "r", code=1, KUBE_EDITOR=script, TMPDIR=str(tmp_path))
        shown = [path.read_text() for path in tmp_path.glob("kubectl-edit-*.yaml")]
        assert any("cannot change after the run has started" in text for text in shown)
        assert w.run()["spec"] == before
        kubectl("patch", "rrun", "r", "--type=merge", "-p", '{"spec":{"retry":{"limit":7}}}')
        w.until(lambda run: run["status"]["observedGeneration"] == 2)
        assert w.created() == ["r-sft-1"]


def test_a_plain_apply_does_not_touch_the_status(tmp_path):
    with world(tmp_path) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        kubectl("apply", "-f", file(tmp_path, **SFT_ONLY))
        before = w.end()
        edited = yaml.safe_load(kubectl("get", "rrun", "r", "-o", "yaml"))
        for entry in edited["status"]["conditions"]:
            entry["status"] = "True"
        edited["status"]["stages"] = []
        del edited["metadata"]["resourceVersion"]
        kubectl("apply", "-f", "-", given=edited)
        del edited["status"]
        kubectl("apply", "-f", "-", given=edited)
        assert w.run()["status"] == before["status"]
        assert w.created() == ["r-sft-1"]


# Deleting


WHEN = {"pending": Behaviour(pending=None), "running": FOREVER, "ended": Behaviour()}
PAIR = {"dataset": {"name": "d.jsonl"}, "resources": {"nodes": 2, "gpusPerNode": 1}}


@pytest.mark.fault(46)
@pytest.mark.parametrize("pytorch", [True, False], ids=["PyTorchJob", "Job"])
def test_delete_leaves_no_orphan(tmp_path, pytorch):
    with world(tmp_path, lambda one: WHEN[one.run], pytorch=pytorch) as w, w.operator():
        kubectl = Kubectl(w.server, tmp_path)
        for name in WHEN:
            kubectl("apply", "-f", file(tmp_path, name, sft=PAIR, **SFT_ONLY))
        w.until(ended, "ended")
        w.until(run_starts, "running")
        until(lambda: len(names(w, "pods", labels="coldstart.dev/run=pending")) == 2)
        assert {name.partition("-")[0] for name in names(w, "services")} == WHEN.keys()
        kubectl("delete", "rrun", "ended", "running", "--timeout=20s")
        kubectl("delete", "rrun", "pending", "--cascade=foreground", "--timeout=20s")
        until(lambda: children(w) == [])
        assert "No resources found" in kubectl("get", "rrun")
        created = w.created("pytorchjobs" if pytorch else "jobs")
        assert sorted(created) == sorted(f"{name}-sft-1" for name in WHEN)
