"""The CustomResourceDefinition: what the API server takes is what the models take."""

import copy
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from apiserver.schema import admit, mistakes, unstructural
from cel_rules import ABSENT, broken_rules
from control_plane import control_plane
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sample_status import STATUS
from spec_cases import (
    ASCII,
    CASES,
    CHANGES,
    DATASET,
    NULLS,
    PYDANTIC_ONLY,
    SERVER_ONLY,
    document,
    place,
)

from coldstart import preset
from coldstart.generate.crd import DEFAULTED, crd_manifest, definition
from coldstart.generate.rules import MUTABLE, default
from coldstart.run import ReasoningRun, RunSpec
from coldstart.status import RunStatus

FILE = Path(__file__).parents[2] / "manifests" / "crd.yaml"
CRD = yaml.safe_load(FILE.read_text())
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC, STATUS_SCHEMA = SCHEMA["properties"]["spec"], SCHEMA["properties"]["status"]


def refusals(run, old=ABSENT):
    """What the API server would say to a run, in its order: schema first, then CEL."""
    found, unknown = admit(copy.deepcopy(run), SCHEMA)
    wrong = [f"unknown field {path}" for path in unknown]
    wrong += [item["message"] for item in mistakes(found, SCHEMA)]
    if wrong:
        return wrong
    before = old if old is ABSENT else admit(copy.deepcopy(old), SCHEMA)[0]
    broken = broken_rules(found, SCHEMA, "", before)
    return [f"{item['field']}: {item['message']}" for item in broken]


def complaints(run):
    """What the models say to a run."""
    try:
        ReasoningRun.parse(preset.resolve(run))
    except ValidationError as error:
        return [str(item) for item in error.errors()]
    return []


def nodes(schema, path=""):
    """Every schema in a schema, with its path; what stands in `not` apart."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def loose(schema, numbers=True):
    """The places of a schema that nothing bounds."""
    for path, node in nodes(schema):
        kind, fixed = node.get("type"), "enum" in node
        if kind == "string" and not fixed and "maxLength" not in node:
            yield path
        if kind == "array" and "maxItems" not in node:
            yield path
        if kind == "object" and "properties" not in node and "maxProperties" not in node:
            yield path
        bounded = {"minimum", "maximum"} <= node.keys()
        if (kind == "integer" and not bounded) or (kind == "number" and numbers and not bounded):
            yield path


def test_file_is_what_the_models_make():
    assert FILE.read_text() == crd_manifest()
    assert definition() == CRD


def test_plain_kubectl_apply_can_hold_it_in_an_annotation():
    size = len(FILE.read_bytes())
    print(f"manifests/crd.yaml: {size} bytes")
    assert size < 150_000


def test_is_a_definition_to_kubernetes():
    kubernetes_validate.validate(CRD, "1.37", strict=True)


def test_is_structural():
    assert list(unstructural(SCHEMA)) == []


@pytest.mark.parametrize(
    "flaw",
    [
        {"$ref": "#/definitions/x"},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"properties": {"a": {"description": "untyped"}}},
        {"type": "array"},
    ],
)
def test_a_schema_that_is_not_structural_is_seen(flaw):
    broken = copy.deepcopy(SCHEMA)
    broken["properties"]["spec"]["properties"]["image"] = flaw
    assert list(unstructural(broken))


def test_everything_is_bounded():
    assert list(loose(SPEC)) == []
    # A number that a stage reports must not make the status unwritable.
    assert list(loose(STATUS_SCHEMA, numbers=False)) == []


@pytest.mark.parametrize("path", [("image",), ("grpo", "rewards"), ("model", "name")])
def test_a_missing_bound_is_seen(path):
    broken = copy.deepcopy(SPEC)
    node = broken
    for name in path:
        node = node["properties"][name]
    node.pop("maxLength", None)
    node.pop("maxItems", None)
    assert list(loose(broken)) == ["." + ".".join(path)]


def test_bounds_are_whole_and_fit_64_bits():
    # The API server casts a bound to an integer when it judges a whole number.
    for path, node in nodes(SCHEMA):
        for key in ("minimum", "maximum"):
            assert node.get(key, 0) == int(node.get(key, 0)), path
            assert abs(node.get(key, 0)) < 2**63, path


def test_every_field_is_described():
    assert [path for path, node in nodes(SPEC) if _field(path) and "description" not in node] == []


def _field(path):
    return path and not path.endswith(("[]", "{}")) and "Properties" not in path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_api_server_and_models_agree(case):
    assert (not refusals(case.document), not complaints(case.document)) == (case.valid, case.valid)


@pytest.mark.parametrize("case", PYDANTIC_ONLY, ids=lambda case: case.name)
def test_what_only_the_models_refuse(case):
    assert complaints(case.document)
    assert not refusals(case.document)


@pytest.mark.parametrize("case", SERVER_ONLY, ids=lambda case: case.name)
def test_what_only_the_api_server_refuses(case):
    assert refusals(case.document)
    assert not complaints(case.document)


@pytest.mark.parametrize("case", NULLS, ids=lambda case: case.name)
def test_nulls_that_the_api_server_drops(case):
    assert not refusals(case.document)
    assert complaints(case.document)


EXAMPLES = sorted(
    path
    for path in (FILE.parents[1] / "examples").rglob("*.yaml")
    if "kind: ReasoningRun" in path.read_text()
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_accepted(path):
    assert refusals(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("name", preset.names())
def test_starters_are_accepted(name):
    assert refusals(yaml.safe_load(preset.starter(name))) == []


def _leaves():
    """Every scalar, list and map of a spec: its path and schema; below lists one item down."""
    for path, node in nodes(SPEC):
        if node.get("type") in ("string", "integer", "number", "array") and "{}" not in path:
            yield path.lstrip("."), node


def _limits(node):
    """Values at and just beyond the bounds of a field."""
    kind = node["type"]
    if "enum" in node:
        return [*node["enum"], "something else"]
    if kind in ("integer", "number"):
        step = 1 if kind == "integer" else 1e-6
        low, high = node["minimum"], node["maximum"]
        return [low - step, low, low + step, high - step, high, high + step]
    if kind == "array":
        fill = node["items"].get("enum", ["a"])[0]
        return [[fill] * node.get("minItems", 0), [fill] * (node["maxItems"] + 1)]
    longest = node["maxLength"]
    return ["", "a", "a" * longest, "a" * (longest + 1), "A b", "a:b", "a-1"]


_NO_BOUND_OF_THEIR_OWN = {
    "grpo.gate.maxLoss",
    "sft.gate.maxLoss",
    "grpo.rewards[].name",
    "evaluation.benchmarks[].name",
}
"""Fields whose bound is the schema's only."""


@pytest.mark.parametrize(("path", "node"), [pytest.param(*leaf, id=leaf[0]) for leaf in _leaves()])
def test_bounds_of_every_field_agree(path, node):
    for value in _limits(node):
        run = document(_around(path))
        _put(run["spec"], path, value)
        beyond = path in _NO_BOUND_OF_THEIR_OWN and refusals(run) and not complaints(run)
        assert beyond or bool(refusals(run)) == bool(complaints(run)), (value, refusals(run))


def _around(path):
    """What a field needs beside it to be right."""
    changes = {}
    if path.startswith("grpo.from"):
        changes |= {"sft": {}, "grpo.from": {"run": "other"}}
    if path.startswith("evaluation.from"):
        changes["evaluation.from"] = {"run": "other"}
    if "probe.dataset" in path:
        changes[path[: path.index("probe.dataset")] + "probe.dataset"] = DATASET
    if "rewards[]" in path:
        changes["grpo.rewards"] = [{"name": "accuracy"}]
    if "responseKinds[]" in path:
        changes["evaluation.responseKinds"] = [{"name": "k", "pattern": "a"}]
    return changes


def _put(spec, path, value):
    """Put a value at a path, into the first item of each list on the way."""
    *lists, last = path.split("[]")
    for name in lists:
        *parents, key = name.strip(".").split(".")
        for parent in parents:
            spec = spec.setdefault(parent, {})
        items = spec.setdefault(key, [{}])
        if not last:
            items[:] = [value]
            return
        spec = items[0]
    place(spec, last.strip(".").split("."), value)


@given(cases=st.lists(st.sampled_from(CASES), min_size=2, max_size=4))
def test_cases_agree_together(cases):
    changes = {path: value for case in cases for path, value in case.spec.items()}
    try:
        run = document(changes)
    except (AttributeError, TypeError):
        return  # one case replaces the section that another reaches into
    assert bool(refusals(run)) == bool(complaints(run)), (changes, refusals(run), complaints(run))


@pytest.mark.parametrize("started", [True, False], ids=["started", "before"])
@pytest.mark.parametrize(("what", "changes", "allowed"), CHANGES, ids=lambda item: str(item)[:30])
def test_what_may_change(what, changes, allowed, started):
    status = {"status": {"startedAt": "2026-01-01T00:00:00Z"} if started else {"phase": "Pending"}}
    old, new = document() | status, document(changes) | status
    wrong = refusals(new, old)
    assert (not wrong) == (allowed or not started), (what, wrong)
    if wrong:
        assert "cannot change after the run has started" in wrong[0]


def test_every_field_of_a_spec_is_fixed_or_mutable():
    fixed = {
        rule["fieldPath"].removeprefix(".spec.")
        for rule in SCHEMA["x-kubernetes-validations"]
        if "oldSelf" in rule["rule"]
    }
    assert fixed | set(MUTABLE) == SPEC["properties"].keys()
    assert not fixed & set(MUTABLE)


def test_a_status_may_be_written_whatever_the_spec():
    old = document()
    new = document() | {"status": STATUS}
    assert refusals(new, old) == []
    RunStatus.parse(STATUS)


def test_status_lists_are_maps():
    for name, key in (("conditions", "type"), ("stages", "name")):
        status = copy.deepcopy(STATUS)
        status[name].append(copy.deepcopy(status[name][0]))
        assert [key in text for text in refusals(document() | {"status": status})] == [True]


def test_defaults_are_the_models_and_no_presets():
    for path in DEFAULTED:
        node = SPEC
        for name in path:
            node = node["properties"][name]
        model = default(path)
        assert node["default"] == (model if not hasattr(model, "document") else {})
        for name in preset.names():
            assert path[0] not in preset.load(name)
    written = admit(document(), SCHEMA)[0]["spec"]
    assert RunSpec.parse(written) == RunSpec.parse(document()["spec"])
    others = {path for path, node in nodes(SPEC) if "default" in node}
    assert others == {"." + ".".join(path) for path in DEFAULTED}


def test_number_literals_are_typed():
    # CEL knows no number that is both: `self.epochs > 0` is a type error on a real API server.
    numbers = {
        path.rpartition(".")[2] for path, node in nodes(SPEC) if node.get("type") == "number"
    }
    for path, node in nodes(SCHEMA):
        for rule in node.get("x-kubernetes-validations", ()):
            found = re.findall(r"\.(\w+) : ([\d.]+)\)(?: (?:==|[<>]=?) ([\d.]+))?", rule["rule"])
            for name, *literals in found:
                for literal in filter(None, literals):
                    assert ("." in literal) == (name in numbers), (path, rule["rule"])


def test_columns_name_fields_that_there_are():
    columns = VERSION["additionalPrinterColumns"]
    assert [column["name"] for column in columns if "priority" not in column] == [
        "Stage",
        "Phase",
        "Progress",
        "Reward",
        "Age",
    ]
    assert [column["name"] for column in columns if column.get("priority") == 1] == [
        "Queue",
        "Backend",
        "Message",
    ]
    for column in columns:
        assert "[-1" not in column["jsonPath"]
        if column["jsonPath"] == ".metadata.creationTimestamp":
            continue
        node = SCHEMA
        for name in re.sub(r"\[[^]]*\]", "[]", column["jsonPath"]).strip(".").split("."):
            node = node["properties"][name.removesuffix("[]")]
            node = node["items"] if name.endswith("[]") else node
        assert node["type"] == column["type"]


def test_names():
    names = CRD["spec"]["names"]
    assert CRD["metadata"]["name"] == "reasoningruns.coldstart.dev"
    assert (names["shortNames"], names["categories"]) == (["rrun"], ["all", "coldstart"])
    assert VERSION["subresources"] == {"status": {}}


@pytest.fixture(scope="module")
def server():
    with control_plane() as running:
        running.install(CRD)
        yield running


@pytest.mark.cluster
def test_real_api_server_agrees_on_every_case(server):
    expected = [(case, case.valid) for case in (*CASES, *SERVER_ONLY, *ASCII, *NULLS)]
    expected += [(case, True) for case in PYDANTIC_ONLY]
    wrong = {}
    for case, valid in expected:
        answer = server.dry_run(case.document)
        if (answer == "") != valid:
            wrong[case.name] = answer
    assert wrong == {}


@pytest.mark.cluster
def test_real_api_server_fixes_a_started_run(server):
    server.create(document(name="fixed"))
    assert server.change("fixed", document({"sft.epochs": 4})["spec"]) == ""
    server.patch_status("fixed", STATUS)
    for what, changes, allowed in CHANGES:
        answer = server.change("fixed", document(changes)["spec"])
        assert (answer == "") == allowed, (what, answer)
    server.delete("fixed")
