"""The stand-in API server serves definitions as a real one does: schemas, rules, versions."""

import pytest
from apiserver import crds
from apiserver.client import RUNS, Client
from apiserver.threaded import running_server
from apiserver.wire import within


def definition():
    crd = crds.reasoningruns()
    integer = {"type": "integer", "minimum": 1}
    spec = {
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": {"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"},
            "epochs": {**integer, "default": 3},
            "kind": {"type": "string", "enum": ["a", "b"]},
            "share": {"type": "number", "maximum": 1, "exclusiveMaximum": True},
            "names": {
                "type": "array",
                "maxItems": 2,
                "items": {"type": "string"},
                "x-kubernetes-list-type": "set",
            },
            "size": {
                "x-kubernetes-int-or-string": True,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
            },
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "nested": {
                "type": "object",
                "properties": {"on": {"type": "boolean", "default": False}},
            },
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    version = crd["spec"]["versions"][0]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec
    crd["spec"]["names"]["shortNames"] = ["rrun"]
    return crd


@pytest.fixture
def server():
    with running_server() as server:
        server.create("customresourcedefinitions", definition())
        yield server


@pytest.fixture
def call(server):
    return Client(server.port)


def run(name="r", **more):
    kind = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    return {**kind, "metadata": {"name": name}, "spec": {"model": "m"}, **more}


MISTAKES = {
    "spec": (None, "FieldValueRequired"),
    "spec.model": ({}, "FieldValueRequired"),
    "spec.epochs": ({"model": "m", "epochs": 0}, "FieldValueInvalid"),
    "spec.kind": ({"model": "m", "kind": "c"}, "FieldValueNotSupported"),
    "spec.share": ({"model": "m", "share": 1}, "FieldValueInvalid"),
    "spec.names": ({"model": "m", "names": ["a", "b", "c"]}, "FieldValueTooMany"),
    "spec.names[1]": ({"model": "m", "names": ["a", "a"]}, "FieldValueDuplicate"),
    "spec.size": ({"model": "m", "size": True}, "FieldValueTypeInvalid"),
    "spec.labels.a": ({"model": "m", "labels": {"a": 1}}, "FieldValueTypeInvalid"),
    "spec.nested.on": ({"model": "m", "nested": {"on": "yes"}}, "FieldValueTypeInvalid"),
}


def refused(call, *request, **options):
    """What is said to a request that is refused, once a definition that refuses it holds.

    A real API server goes by a new one a moment after it has taken it.
    """
    answers = []

    def asked():
        answers.append(call(*request, **options))
        return answers[-1][0] == 422

    within(10, asked, "the new definition to hold")
    return answers[-1][1]


@pytest.mark.parametrize("field", MISTAKES)
def test_the_schema_refuses_with_causes(server, call, field):
    crd = definition()
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["required"] = ["spec"]
    server.patch("customresourcedefinitions", "reasoningruns.coldstart.dev", {"spec": crd["spec"]})
    spec, reason = MISTAKES[field]
    document = run(spec=spec)
    if spec is None:
        del document["spec"]
    status = refused(call, "POST", RUNS, document, dryRun="All")
    causes = status["details"]["causes"]
    assert [(one["field"], one["reason"]) for one in causes] == [(field, reason)]
    assert status["message"].startswith('ReasoningRun.coldstart.dev "r" is invalid: ' + field)


def test_the_schema_prunes_and_defaults(call):
    spec = {"model": "m", "kind": None, "nested": {"x": 1}, "free": {"a": [1]}, "no": 1}
    headers = {"User-Agent": "x"}
    code, made = call("POST", RUNS, run(spec=spec), headers=headers)
    assert code == 201
    expected = {"model": "m", "epochs": 3, "nested": {"on": False}, "free": {"a": [1]}}
    assert made["spec"] == expected
    code, status = call("POST", RUNS, run("s", spec=spec), fieldValidation="Strict")
    assert code == 400
    assert 'unknown field "spec.no"' in status["message"]


def test_a_status_that_the_schema_refuses_is_not_written(server, call):
    crd = definition()
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["status"] = {"type": "object", "properties": {"phase": {"type": "string"}}}
    server.patch("customresourcedefinitions", "reasoningruns.coldstart.dev", {"spec": crd["spec"]})
    call("POST", RUNS, run())
    refused(call, "PATCH", RUNS + "/r/status", {"status": {"phase": 1}}, patch="merge")


def test_rules_are_evaluated_on_create_and_between_versions(server, call):
    crd = definition()
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["x-kubernetes-validations"] = [
        {"rule": "self.model == oldSelf.model", "message": "model cannot change"},
        {"rule": "!has(self.kind) || self.epochs > 1", "message": "kind needs epochs"},
    ]
    server.patch("customresourcedefinitions", "reasoningruns.coldstart.dev", {"spec": crd["spec"]})
    document = run(spec={"model": "m", "kind": "a", "epochs": 1})
    status = refused(call, "POST", RUNS, document, dryRun="All")
    assert status["details"]["causes"][0]["field"] == "spec"
    assert status["message"].endswith("spec: Invalid value: kind needs epochs")
    assert call("POST", RUNS, run())[0] == 201
    code, status = call("PATCH", RUNS + "/r", {"spec": {"model": "n"}}, patch="merge")
    assert code == 422
    assert "model cannot change" in status["message"]
    assert call("PATCH", RUNS + "/r", {"spec": {"epochs": 9}}, patch="merge")[0] == 200


BAD_SCHEMAS = {
    "untyped": {"properties": {"a": {}}},
    "union": {"anyOf": [{"type": "object"}]},
    "reference": {"$ref": "#/definitions/x"},
    "both": {"properties": {}, "additionalProperties": True},
    "default": {"properties": {"a": {"type": "integer", "default": "x"}}},
    "itemless": {"properties": {"a": {"type": "array"}}},
}


@pytest.mark.parametrize("case", BAD_SCHEMAS)
def test_an_unstructural_definition_is_refused(call, case):
    crd = crds.minimal("x.dev", "Thing", "things")
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] |= BAD_SCHEMAS[case]
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    code, status = call("POST", path, crd)
    assert code == 422, status


def test_a_definition_serves_its_versions_until_it_is_deleted(server, call):
    crd = crds.minimal("x.dev", "Thing", "things", version="v1alpha1")
    older = {**crd["spec"]["versions"][0], "name": "v1", "storage": False}
    crd["spec"]["versions"].append(older)
    made = server.create("customresourcedefinitions", crd)
    assert {one["type"] for one in made["status"]["conditions"]} >= {"Established"}
    kind = {"apiVersion": "x.dev/v1alpha1", "kind": "Thing"}
    thing = {**kind, "metadata": {"name": "t"}, "spec": {"a": 1}}
    assert call("POST", "/apis/x.dev/v1alpha1/namespaces/default/things", thing)[0] == 201
    _, same = call("GET", "/apis/x.dev/v1/namespaces/default/things/t")
    assert (same["apiVersion"], same["spec"]) == ("x.dev/v1", {"a": 1})
    server.delete("customresourcedefinitions", "things.x.dev")
    assert call("GET", "/apis/x.dev/v1/namespaces/default/things/t")[0] == 404
    assert call("GET", "/apis/x.dev")[0] == 404


def test_what_is_stored_is_read_by_the_definition_of_today(server, call):
    _, made = call("POST", RUNS, run(spec={"model": "m", "kind": "a"}))
    crd = definition()
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del properties["spec"]["properties"]["kind"]
    properties["spec"]["properties"]["new"] = {"type": "integer", "default": 7}
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/reasoningruns.coldstart.dev"
    _, current = call("GET", path)
    assert call("PUT", path, {**current, "spec": crd["spec"]})[0] == 200
    # A real API server serves by the new one a moment after it has taken it.
    read = {"model": "m", "epochs": 3, "new": 7}
    within(10, lambda: call("GET", RUNS + "/r")[1]["spec"] == read, "the new definition to hold")
    _, found = call("GET", RUNS + "/r")
    assert found["metadata"] == made["metadata"]
