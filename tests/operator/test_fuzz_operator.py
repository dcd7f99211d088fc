"""The operator among runs that no schema has seen, of other versions, or with a made-up status.

Each ends in conditions that say what is wrong, none gets a second job, and none keeps a good run
from going through its stages.
"""

import copy
import time
from contextlib import contextmanager

import pytest
import yaml
from apiserver.crds import reasoningruns
from apiserver.faults import answer
from apiserver.schema import mistakes
from apiserver.scripts import FOREVER, Behaviour, scripted
from builders import NOW
from hypothesis import given
from operating import MANIFEST, SFT_ONLY, condition, ended, holds, run_starts, stage, world
from oracles import TYPES, at_rest, requests_per_run, violations
from sample_status import STATUS
from spec_cases import document
from strategies import broken, damaged, fuzzed

from coldstart.children import documents
from coldstart.children.backend import BACKENDS
from coldstart.plan import Child, ChildState
from coldstart.spec import Stage
from coldstart.status import StageState
from coldstart_operator.reconcile import decide
from coldstart_operator.sight import Found, Sight
from coldstart_operator.statuses import InvalidRun, complete, read_run, refused

CRD = yaml.safe_load(MANIFEST.read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


BAD_NAMES = ("a" * 41, "a.b", "1a")
"""Names that no job's name can begin with."""


def drawn(strategy, few):
    """Some values of a strategy, always the same."""
    found = []

    @fuzzed(few)
    @given(strategy)
    def collect(value):
        found.append(value)

    collect()
    return found


@contextmanager
def loose(directory, script=None):
    """A world whose API server takes any run."""
    with world(directory, script, crd=False) as w:
        w.server.create("customresourcedefinitions", reasoningruns())
        yield w


def put(w, name, spec, **more):
    """Create a run with whatever spec."""
    body = {"metadata": {"name": name, "namespace": "default"}, "spec": spec, **more}
    return w.server.create("reasoningruns", body)


def tamed(spec):
    """The spec with as many pods as a test can carry, and no waits that depend on its machine."""
    for name in ("sft", "grpo", "evaluation"):
        section = documents.value(spec, name)
        if documents.number(section, "timeoutSeconds") > 0:
            section["timeoutSeconds"] = 600
        if documents.number(section, "resources", "nodes") > 1:
            section["resources"]["nodes"] = 1
    if documents.number(spec, "retry", "backoffSeconds") > 0:
        spec["retry"]["backoffSeconds"] = 0
    return spec


def waits(run):
    """Whether a run has come to where only somebody else can bring it on."""
    status = (run or {}).get("status") or {}
    accepted = condition(run, "Accepted") or {}
    return (
        run is None  # its time to live was short
        or ended(run)
        or accepted.get("status") == "False"
        or holds(run, "Suspended")
        or "there is no such run" in status.get("message", "")
        or (condition(run, "Queued") or {}).get("reason") == "Rejected"
    )


def said(run):
    """The message of a run."""
    return ((run or {}).get("status") or {}).get("message", "")


def has_conditions(run):
    """Whether a run has conditions and not just anything under that name."""
    found = run["status"].get("conditions")
    return isinstance(found, list) and len(found) == len(TYPES)


def at_rest_soon(w, seconds=20):
    """The operator stops asking and writing, and no rule is broken then."""
    deadline = time.monotonic() + seconds
    while found := w.quiet(0.3):
        assert time.monotonic() < deadline, found
    assert at_rest(w.server) == []
    assert violations(w.server) == []


def is_told(run, message=""):
    """A run has all conditions, and `Accepted` says what is wrong with it."""
    accepted = condition(run, "Accepted")
    assert tuple(item["type"] for item in run["status"]["conditions"]) == TYPES
    assert accepted["status"] == "False"
    assert message in accepted["message"]
    assert accepted["message"].isprintable()
    return accepted


def test_runs_that_no_schema_has_looked_at_end_in_conditions_and_hold_up_nobody(tmp_path):
    runs = drawn(damaged(), 40)
    with loose(tmp_path) as w, w.operator():
        wrong = []
        for number, found in enumerate(runs):
            spec = found.get("spec")
            if not isinstance(spec, dict):
                continue  # not even this API server takes them
            try:
                made = put(w, f"f{number}", tamed(spec))
            except OverflowError:
                continue
            try:
                read_run(made)
            except InvalidRun:
                wrong.append(made["metadata"]["name"])
        for run in w.server.list("reasoningruns"):
            name = run["metadata"]["name"]
            there = w.until(waits, name, 30)
            # What only a pod's builder can tell is told when the first job would be made.
            refused_late = not holds(there, "Accepted")
            assert there is None or name in wrong or refused_late or there["status"]["stages"]
        assert wrong
        for name in BAD_NAMES:
            w.apply(name, **SFT_ONLY)
            is_told(w.until(waits, name), "metadata.name")
        for name in wrong:
            is_told(w.run(name), "spec")
            assert not [job for job in w.jobs() if job.startswith(f"{name}-")]
        w.apply("good")
        assert holds(w.end("good", 30), "Succeeded")
        at_rest_soon(w)
        assert requests_per_run(w.server).most_common(1)[0][1] < 60


LACKS = {
    "what was added to a status": [
        ["status", "backend"],
        ["status", "progress"],
        ["status", "finishedAt"],
        *(
            ["status", "stages", "[]", name]
            for name in ("child", "gpuSeconds", "wastedGpuSeconds", "gates", "attemptStartedAt")
        ),
    ],
    "what was added to a spec": [["spec", "scheduling"], ["spec", "ttlSecondsAfterFinished"]],
}


def older(paths):
    """The definition as it was when it did not have these fields."""
    crd = copy.deepcopy(CRD)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema.pop("x-kubernetes-validations")
    for *parents, last in paths:
        node = schema
        for part in parents:
            node = node["items"] if part == "[]" else node["properties"][part]
        del node["properties"][last]
        node["required"] = [name for name in node.get("required", ()) if name != last]
    return crd


def now(w):
    """Replace the definition by that of today."""
    versions = {"spec": {"versions": CRD["spec"]["versions"]}}
    w.server.patch("customresourcedefinitions", CRD["metadata"]["name"], versions)


@pytest.mark.fault(41)
@pytest.mark.parametrize("name", LACKS)
def test_an_older_definition_costs_fields_and_no_more(tmp_path, name):
    with world(tmp_path, crd=False) as w:
        w.server.create("customresourcedefinitions", older(LACKS[name]))
        with w.operator():
            w.apply(ttlSecondsAfterFinished=3600)
            assert holds(w.end(), "Succeeded")
            assert w.created() == ["r-sft-1", "r-grpo-1", "r-evaluation-1"]
            at_rest_soon(w)
        assert len(w.writes()) < 25


@pytest.mark.fault(14)
def test_a_definition_that_does_not_take_our_status_yet_is_told_of_and_no_hot_loop(tmp_path):
    crd = older([])
    states = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    states["properties"]["stages"]["items"]["properties"]["state"]["enum"].remove("Running")
    with world(tmp_path, scripted({}, FOREVER), crd=False) as w:
        w.server.create("customresourcedefinitions", crd)
        with w.operator():
            w.apply(**SFT_ONLY)
            run = w.until(
                lambda run: "cannot go on" in ((run or {}).get("status") or {}).get("message", "")
            )
            assert "state" in run["status"]["message"]
            assert tuple(item["type"] for item in run["status"]["conditions"]) == TYPES
            assert len(w.quiet(2.0)) < 40
            now(w)
            w.until(run_starts)
            assert w.created() == ["r-sft-1"]


@pytest.mark.fault(48)
def test_a_definition_that_is_replaced_under_a_run_does_not_end_it(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER}), crd=False) as w:
        w.server.create("customresourcedefinitions", older(LACKS["what was added to a status"]))
        with w.operator():
            w.apply(**SFT_ONLY)
            w.until(run_starts)
            now(w)
            w.controllers.finish("r-sft-1")
            run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 1
        assert violations(w.server) == []


RENAMED = {
    "a field that a later version renamed": (
        {"sft": {"dataset": {"name": "d"}, "epoch": 3}},
        "epochs?",
    ),
    "a field of a later version": ({"study": {"teacher": "t"}}, "spec.study: unknown key"),
    "a value of a later version": ({"backend": "TrainJob"}, "spec.backend: "),
    "a section that became a list": ({"sft": [{"dataset": {"name": "d"}}]}, "spec.sft: "),
    "a null where a section is": ({"model": None}, "spec.model: "),
    "no spec to speak of": ({"model": {}, "sft": {}, "grpo": {}}, "spec.model.name: is required"),
}


@pytest.mark.fault(41)
def test_specs_of_other_versions_are_refused_by_field_and_mended_in_place(tmp_path):
    with loose(tmp_path) as w, w.operator():
        names = {f"v{number}": RENAMED[name] for number, name in enumerate(RENAMED)}
        for name, (changes, _) in names.items():
            put(w, name, {"model": {"name": "m"}, "storage": {"claimName": "c"}, **changes})
        for name, (_, message) in names.items():
            is_told(w.until(waits, name), message)
        assert w.jobs() == []
        right = {"model": {"name": "m"}, "sft": {"dataset": {"name": "d"}}}
        for name, (changes, _) in names.items():
            gone = dict.fromkeys(changes)
            w.server.patch("reasoningruns", name, {"spec": gone})
            w.server.patch("reasoningruns", name, {"spec": right})
        for name in names:
            run = w.end(name)
            assert holds(run, "Succeeded")
            assert holds(run, "Accepted")
        at_rest_soon(w)


STATUSES = {
    "conditions that are a text": {"conditions": "x"},
    "conditions that are texts": {"conditions": ["x", None, {"type": 7}, {"type": "Accepted"}]},
    "stages that are a map": {"stages": {"sft": {}}},
    "a stage that is none": {"stages": [{"name": "study", "state": "Running"}]},
    "a state that is none": {"stages": [{"name": "sft", "state": "Dancing", "attempt": 1}]},
    "an attempt below zero": {"stages": [{"name": "sft", "attempt": -1}]},
    "a time that is none": {"startedAt": "yesterday"},
    "a text that is endless": {"message": "\x1b[31m" * 5000},
    "everything at once": {"stages": 7, "conditions": {}, "phase": [], "observedGeneration": "x"},
}


def test_statuses_that_somebody_made_up_are_refused_and_hold_up_nobody(tmp_path):
    with loose(tmp_path) as w:
        names = {f"s{number}": status for number, status in enumerate(STATUSES.values())}
        for name, status in names.items():
            w.apply(name, **SFT_ONLY)
            w.server.set_status("reasoningruns", name, status)
        with w.operator():
            for name, status in names.items():
                run = w.until(has_conditions, name)
                assert is_told(run)["reason"] == "StatusUnreadable"
                assert run["status"].get("stages") == status.get("stages")
            assert w.jobs() == []
            w.apply("good", **SFT_ONLY)
            assert holds(w.end("good"), "Succeeded")
            # A person takes the nonsense away.
            for name in names:
                w.server.set_status("reasoningruns", name, None)
                w.server.patch("reasoningruns", name, {"spec": {"suspend": True}})
            for name in names:
                w.until(lambda run: holds(run, "Suspended"), name)
            at_rest_soon(w)


@fuzzed(80)
@given(broken(document() | {"status": STATUS}, ("status",)))
def test_no_status_that_is_made_up_breaks_the_reading_of_it(run):
    run["spec"]["storage"] = {"claimName": "c"}
    run["metadata"] |= {"generation": 3}
    schema, told = SCHEMA["properties"]["status"], None
    try:
        new = decide(read_run(run), Sight((), (), {}, ()), NOW).status.document()
        # What could be stored can be stored again.
        assert list(mistakes(run.get("status"), schema)) or not list(mistakes(new, schema))
    except InvalidRun as error:
        told = error
    assert told is None or (told.reason == "StatusUnreadable" and told.message.isprintable())
    for status in (refused(run, "False", "InvalidSpec", "x\ny", NOW), complete(run, NOW)):
        assert tuple(item["type"] for item in status["conditions"]) == TYPES


TIMES = ("2026-01-01T00:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00")


@pytest.mark.fault(44)
@pytest.mark.parametrize("time_", TIMES)
@pytest.mark.parametrize("state", [item.value for item in StageState])
def test_no_time_that_an_api_server_takes_breaks_a_decision(time_, state):
    run = document() | {"status": copy.deepcopy(STATUS)}
    run["spec"] |= {"storage": {"claimName": "c"}, "retry": {"backoffSeconds": 9}}
    run["spec"]["grpo"]["timeoutSeconds"] = 5
    run["spec"]["ttlSecondsAfterFinished"] = 5
    status = run["status"]
    status |= {"startedAt": time_, "finishedAt": time_}
    for item in status["conditions"]:
        item["lastTransitionTime"] = time_
    for entry in status["stages"]:
        entry.update(dict.fromkeys(("startedAt", "attemptStartedAt", "retryAt"), time_))
    status["stages"][1]["state"] = state
    found = read_run(run)
    child = Child(Stage.GRPO, 1, ChildState.RUNNING)
    sight = Sight((Found(BACKENDS[0], {}, child),), (), {}, ())
    for seen in (sight, Sight((), (), {}, ())):
        decision = decide(found, seen, NOW)
        assert not list(mistakes(decision.status.document(), SCHEMA["properties"]["status"]))
    refused(run, "False", "InvalidSpec", "x", NOW)


def test_an_ended_run_whose_spec_goes_wrong_keeps_its_end(tmp_path):
    with loose(tmp_path) as w, w.operator():
        w.apply(**SFT_ONLY)
        before = w.end()["status"]
        w.server.patch("reasoningruns", "r", {"spec": {"sft": {"epoch": 3}}})
        run = w.until(waits_for_spec)
        assert holds(run, "Succeeded")
        assert is_told(run, "spec.sft.epoch")
        assert (run["status"]["phase"], run["status"]["message"]) == (
            before["phase"],
            before["message"],
        )
        w.server.patch("reasoningruns", "r", {"spec": {"sft": {"epoch": None}}})
        run = w.until(lambda run: holds(run, "Accepted"))
        assert holds(run, "Succeeded")
        far = {"finishedAt": "9999-12-31T23:59:59Z"}
        w.server.patch("reasoningruns", "r", {"status": far}, subresource="status")
        w.server.patch("reasoningruns", "r", {"spec": {"ttlSecondsAfterFinished": 10**6}})
        w.until(lambda run: run["status"]["observedGeneration"] == 4)
        at_rest_soon(w)
        assert w.created() == ["r-sft-1"]


def waits_for_spec(run):
    return (condition(run, "Accepted") or {}).get("status") == "False"


def test_words_of_the_api_server_are_told_on_one_printable_line(tmp_path):
    words = "\x1b[31mdenied\x1b[0m\nby a webhook\u202e" + "x" * 10_000
    with world(tmp_path) as w, w.operator():
        w.server.faults.add(answer("create", "pytorchjobs", 422, message=words, times=3))
        w.apply(**SFT_ONLY)
        run = w.until(lambda run: (condition(run, "Queued") or {}).get("reason") == "Rejected")
        assert "denied" in run["status"]["message"]
        assert holds(w.end(), "Succeeded")
        for change in list(w.server.store.collection(("coldstart.dev", "reasoningruns")).history):
            message = (change.entry.object.get("status") or {}).get("message", "")
            assert message.isprintable()
            assert len(message) <= 4096


def test_a_later_stage_that_cannot_be_is_told_of_before_the_first_one_starts(tmp_path):
    grpo = {"dataset": {"name": "d"}, "resources": {"cpu": "a lot"}}
    with world(tmp_path, scripted({}, Behaviour())) as w, w.operator():
        w.apply(grpo=grpo)
        is_told(w.until(waits), "spec.grpo.resources.cpu")
        assert w.jobs() == []


EDITS = {
    "the running stage goes": {"sft": None},
    "a stage comes": {"evaluation": {"benchmarks": [{"dataset": {"name": "t"}}]}},
    "another data set": {"sft": {"dataset": {"name": "other"}}},
    "an option under another name": {"sft": {"trainerArgs": {"x": None, "y": 1}}},
    "nonsense": {"sft": {"epochs": -1}},
    "no storage": {"storage": None},
    "another backend": {"backend": "Job"},
    "fewer retries": {"retry": {"limit": 0}},
    "suspended and nonsense": {"suspend": True, "grpo": {"epochs": "x"}},
}


def test_no_change_of_a_running_spec_makes_a_second_job(tmp_path):
    script = scripted({("sft", 1): FOREVER, ("sft", 2): Behaviour()})
    names = {f"e{number}": changes for number, changes in enumerate(EDITS.values())}
    with loose(tmp_path, script) as w, w.operator():
        for name in names:
            w.apply(name, evaluation=None, sft={"dataset": {"name": "d"}, "trainerArgs": {"x": 1}})
        for name in names:
            w.until(run_starts, name)
        before = {name: w.run(name)["spec"] for name in names}
        for name, changes in names.items():
            w.server.patch("reasoningruns", name, {"spec": changes})
        time.sleep(0.5)
        for name in names:
            w.controllers.finish(f"{name}-sft-1")
        time.sleep(0.5)
        for name in names:  # put back what was there
            there = w.server.get("reasoningruns", name)["spec"]
            gone = {key: None for key in there if key not in before[name]}
            w.server.patch("reasoningruns", name, {"spec": {**before[name], **gone}})
            w.server.patch("reasoningruns", name, {"spec": {"suspend": False}})
            sft = {"sft": before[name]["sft"] | {"epochs": None}, "grpo": {"epochs": None}}
            w.server.patch("reasoningruns", name, {"spec": sft})
        for name in names:
            assert ended(w.end(name, 30))
        assert violations(w.server) == []
        assert at_rest(w.server) == []


def test_a_job_that_somebody_labels_as_anothers_holds_up_neither(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operator(resync=0.5):
        w.apply("a", **SFT_ONLY)
        w.until(run_starts, "a")
        label = {"metadata": {"labels": {"coldstart.dev/run": "b"}}}
        w.server.patch("pytorchjobs", "a-sft-1", label)
        w.apply("b", **SFT_ONLY)
        w.until(run_starts, "b")
        for name in ("a", "b"):
            w.controllers.finish(f"{name}-sft-1")
        for name in ("a", "b"):
            assert holds(w.end(name, 30), "Succeeded")
        assert violations(w.server) == []
        assert at_rest(w.server) == []


def test_long_words_of_another_run_do_not_make_a_status_unwritable(tmp_path):
    arm = {
        "sft": None,
        "evaluation": None,
        "grpo": {"dataset": {"name": "d"}, "from": {"run": "r"}},
    }
    with loose(tmp_path) as w, w.operator():
        put(w, "r", {"model": {"name": "m"}, "sft": {f"{n}" * 90: 1 for n in range(50)}})
        w.apply("arm", **arm)
        run = w.until(lambda run: "it is not valid" in said(run), "arm")
        assert len(run["status"]["message"]) < 1000
