"""Specs as nobody would write them: a run comes out, or a line for each mistake, and nothing else.

The three that judge a spec (the file's reader, the API server, the operator) are held against
each other: what the first takes, the others take alike, and what passes the second by is told
with its field by the third.
"""

import copy
import json
import re
import time
from pathlib import Path

import pytest
import yaml
from apiserver.schema import admit, mistakes
from cel_rules import broken_rules
from child_objects import order_of
from hypothesis import example, given
from hypothesis import strategies as st
from kube_schema import as_pod, check, unknown_fields
from strategies import damaged, damaged_texts, documents, fuzzed, nested, text

from coldstart import preset, yamlfile
from coldstart.children.backend import BACKENDS
from coldstart.run import ReasoningRun
from coldstart.runfile import RunFileError, load
from coldstart.schema import MAX_PROBLEMS, MESSAGE, OPEN_DEPTH
from coldstart_operator.statuses import MESSAGE_CHARACTERS, InvalidRun, read_run

MANIFEST = Path(__file__).parents[2] / "manifests" / "crd.yaml"
VERSION = yaml.safe_load(MANIFEST.read_text())["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]

FIELD = re.compile(r"(spec|metadata|status|apiVersion|kind|document)\b.*: .|.{1,90}: unknown key")
"""How a mistake begins."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "run.yaml"


def read(file, words):
    """The run in a text, or the lines that say why there is none; whatever else is a defect."""
    file.write_bytes(words if isinstance(words, bytes) else words.encode("utf-8", "surrogatepass"))
    try:
        return load(file), []
    except RunFileError as error:
        lines = error.lines
    prefix = f"{file}: "
    assert lines
    assert all(line.startswith(prefix) for line in lines)
    return None, [line.removeprefix(prefix) for line in lines]


def told_well(lines):
    """Each mistake is one line of bounded length that a terminal can be given, with its field."""
    assert len(lines) <= MAX_PROBLEMS + 1
    for line in lines:
        assert line.isprintable(), line
        assert len(line) < MESSAGE + 1000, line
        if not line.startswith(("is not YAML: ", "is longer ", "holds ", "must be a mapping")):
            assert FIELD.match(line), line


def sent(value):
    """A document as the API server's JSON reader has it: what does not fit 64 bits is a float.

    Raises:
        OverflowError: nothing holds a number in it.
    """
    if isinstance(value, dict):
        return {key: sent(item) for key, item in value.items()}
    if isinstance(value, list):
        return [sent(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return float(value)
    return value


def stored(document):
    """A run as the API server would store it, what it does not know pruned; none if refused."""
    try:
        found, _ = admit(sent(document), SCHEMA)
    except OverflowError:
        return None
    if any(mistakes(found, SCHEMA)) or any(broken_rules(found, SCHEMA)):
        return None
    found["metadata"] = {**found["metadata"], "uid": "u", "namespace": "ml", "generation": 1}
    return found


def seen_by_the_operator(document):
    """The run that the operator reads, or what it says in `Accepted=False`."""
    try:
        return read_run(document), ""
    except InvalidRun as error:
        reason, message = error.reason, error.message
    assert reason == "InvalidSpec"
    assert message.isprintable()
    assert len(message) <= MESSAGE_CHARACTERS
    assert FIELD.match(message), message
    return None, message


def rendered(run):
    """The objects of a run's first attempts on both backends; what cannot be is said by field."""
    found, refused = [], []
    for kind in BACKENDS:
        for stage in run.spec.stages:
            try:
                found.append(kind.manifests(run, order_of(run, stage), "image"))
            except ValueError as error:
                refused.append(str(error))
    for message in refused:
        assert FIELD.match(message), message
        assert message.isprintable(), message
        assert len(message) < 1000
    return found


@pytest.mark.fault(39)
@fuzzed(12)
@given(documents())
def test_a_right_run_is_the_same_run_to_all_and_can_be_carried_out(file, document):
    run, lines = read(file, text(document))
    assert not lines
    there = stored(document)
    assert there is not None
    seen, message = seen_by_the_operator(there)
    assert not message
    assert seen.spec == run.spec
    for objects in rendered(seen):
        for item in objects:
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])", item["metadata"]["name"])
            for value in item["metadata"]["labels"].values():
                assert re.fullmatch(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]", value)
        fits(objects[-1])


def fits(job):
    """Hold a job against the strict schemas."""
    if job["kind"] == "Job":
        check(job)
        return
    assert unknown_fields(job) == []
    check(as_pod(job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]))


@fuzzed(12)
@given(documents())
def test_a_run_that_was_written_down_is_read_back(file, document):
    run, _ = read(file, text(document))
    again, lines = read(file, text(run.document()))
    assert not lines
    assert again == run
    assert ReasoningRun.parse(json.loads(json.dumps(run.document()))) == run


@fuzzed(40)
@given(damaged(within=()))
def test_a_damaged_run_is_read_or_its_mistakes_are_told(file, document):
    run, lines = read(file, text(document))
    told_well(lines)
    if run is not None:
        json.dumps(run.document(), allow_nan=False).encode()


@fuzzed(40)
@given(damaged())
def test_what_the_api_server_lets_pass_the_operator_reads_or_refuses_by_field(file, document):
    there = stored(document)
    if there is None:
        return
    run, message = seen_by_the_operator(there)
    if run is None:
        return
    rendered(run)
    on_one_machine, lines = read(file, text(document))
    # The file is read more strictly (unknown keys, nulls that a cluster drops), never otherwise.
    assert lines or on_one_machine.spec == run.spec, message


@fuzzed(40)
@given(damaged(within=()))
def test_what_no_schema_has_looked_at_does_not_break_the_operator(document):
    if not isinstance(document.get("metadata"), dict):
        return  # there is no object without
    run, _ = seen_by_the_operator(document)
    if run is not None:
        rendered(run)


@fuzzed(40)
@given(damaged_texts())
@example("")
@example("\0")
@example("a: [" * 3000)
@example("- " * 3000)
@example("? " * 3000)
@example("&a " * 100)
def test_a_damaged_text_is_read_or_its_mistakes_are_told(file, words):
    _, lines = read(file, words)
    told_well(lines)


@fuzzed(12)
@given(st.binary(max_size=60))
def test_no_bytes_are_more_than_no_run(file, data):
    _, lines = read(file, data)
    assert lines


HEAD = "apiVersion: coldstart.dev/v1alpha1\nkind: ReasoningRun\nmetadata: {name: r}\n"
SFT = HEAD + "spec: {model: {name: m}, sft: {dataset: {name: d}, %s}}\n"

TEXTS = {
    "a number of 5,000 digits": (SFT % f"epochs: {'9' * 5000}", "a number of 5000 characters"),
    "a number of 1,300 bits": (SFT % f"saveSteps: 0x{'f' * 330}", "a number of 1320 bits"),
    "a date": (SFT % "trainerArgs: {a: 2026-13-45}", None),
    "a time": (SFT % "trainerArgs: {a: 12:30:45}", None),
    "an integer that is none": (SFT % "epochs: !!int ''", "'' is no int"),
    "a switch that is none": (SFT % "epochs: !!bool x", "'x' is no bool"),
    "bytes": (SFT % "trainerArgs: {a: !!binary aGk=}", "the tag '!!binary' is not"),
    "a set": (SFT % "freeze: !!set {vision}", "the tag '!!set' is not"),
    "an object": (SFT % "epochs: !!python/object:os.system x", "the tag "),
    "not a number": (SFT % "trainerArgs: {a: [.nan]}", "spec.sft.trainerArgs.a[0]: must be a fin"),
    "beyond 64 bits": (SFT % f"trainerArgs: {{a: {2**63}}}", "trainerArgs.a: must fit into 64"),
    "a key that is a number": (SFT % "trainerArgs: {a: {1: b}}", "trainerArgs.a: the key 1 must"),
    "a key that is a list": (SFT % "? [a]\n : 1", "a key that is no plain text"),
    "a key twice": (SFT % "epochs: 1, 'epochs': 2", "the key 'epochs' is there twice"),
    "a deep list": (SFT % f"trainerArgs: {{a: {'[' * 2000}{']' * 2000}}}", "more than 50 deep"),
    "a rather deep list": (
        SFT % f"trainerArgs: {{a: {json.dumps(nested(30))}}}",
        f"spec.sft.trainerArgs.a: is nested more than {OPEN_DEPTH} deep",
    ),
    "an alias in itself": (SFT % "trainerArgs: &a {a: *a}", "an alias that holds itself"),
    "half a character": (SFT % 'trainerArgs: {a: "\\ud800"}', "half a character"),
    "a terminal's colours": (SFT % '"\\e[31mred": 1', r"spec.sft.\x1b[31mred: unknown key"),
    "a key of two lines": (SFT % '"a\\nb": 1', r"spec.sft.a\nb: unknown key"),
    "an expression too large": (
        SFT.replace("sft", "evaluation").replace("dataset: {name: d}, ", "")
        % (
            "benchmarks: [{dataset: {name: t}}], "
            "responseKinds: [{name: a, pattern: 'a{99999999999999999999}'}]"
        ),
        "pattern: is not a regular expression: the repetition number is too large",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_yaml_can_say_and_json_cannot_is_told_or_is_text(file, name):
    words, message = TEXTS[name]
    run, lines = read(file, words)
    told_well(lines)
    if message is None:
        assert isinstance(run.spec.sft.trainer_args["a"], str)
    else:
        assert message in "\n".join(lines)


def test_an_alias_bomb_is_refused_and_an_alias_is_not(file):
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(12)
    )
    begun = time.process_time()
    _, lines = read(file, bomb)
    assert "aliases included" in lines[0]
    assert time.process_time() - begun < 10
    chain = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(80))
    assert "levels" in read(file, chain)[1][0]
    shared = HEAD + (
        "spec: {model: {name: m}, sft: {dataset: &d {name: d}}, grpo: {dataset: *d},\n"
        "  evaluation: {benchmarks: [{dataset: {<<: *d, split: test}}]}}\n"
    )
    run, lines = read(file, shared)
    assert not lines
    assert run.spec.evaluation.benchmarks[0].dataset.split == "test"
    assert run.spec.grpo.dataset == run.spec.sft.dataset


@pytest.mark.parametrize(
    ("words", "number"),
    [("1e-5", 1e-5), ("1.0e-5", 1e-5), (".5", 0.5), ("1_000", 1000), ("0x10", 16), ("010", 8)],
)
def test_numbers_are_read_as_kubectl_reads_them(file, words, number):
    run, lines = read(file, SFT % f"trainerArgs: {{a: {words}}}")
    assert not lines
    assert run.spec.sft.trainer_args["a"] == number
    assert type(run.spec.sft.trainer_args["a"]) is type(number)


@pytest.mark.parametrize(
    "word",
    ["1e3", "1e-5", "12e4567", ".5", "y", "No", "12:30", "2026-01-01", "0x1", "1_0", "~", "="],
)
def test_texts_that_look_like_something_else_are_written_as_texts(word):
    document = {"a": word, word: [word], "n": 1e-5}
    words = yamlfile.written([document])
    assert yamlfile.documents(words) == [document]
    assert yaml.safe_load(words)["a"] == word


PRESET = HEAD + "spec: {preset: paper-7b, %s}\n"
EMPTY = {
    "a stage": (PRESET % "sft: , grpo: {}", "spec.sft: is empty"),
    "a stage without a preset": (
        HEAD + "spec: {model: {name: m}, sft: {dataset: {name: d}}, grpo: }",
        "spec.grpo: is empty",
    ),
    "a value of the preset": (PRESET % "sft: {evalSteps: }", "spec.sft.evalSteps: has no value"),
    "a section of the preset": (PRESET % "sft: {resources: }", None),
    "a default": (PRESET % "grpo: {loss: {dualClip: null}}", "spec.grpo.loss.dualClip: "),
    "a field that has neither": (PRESET % "sft: {maxSteps: , dataset: {limit: }}", None),
    "a value of its own": (PRESET % "sft: {trainerArgs: {a: }}", None),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_field_without_a_value_means_the_same_everywhere_or_is_refused(file, name):
    words, message = EMPTY[name]
    run, lines = read(file, words)
    if message is not None:
        assert len(lines) == 1
        assert lines[0].startswith(message)
        return
    assert not lines
    there = stored(yaml.safe_load(words))
    claimed = copy.deepcopy(there)
    claimed["spec"]["storage"] = {"claimName": "runs"}
    assert read_run(claimed).spec.sft == run.spec.sft


def test_a_stage_left_empty_does_vanish_on_a_cluster():
    # This is why the file's reader refuses it.
    words = PRESET % "sft: , grpo: {}"
    assert "sft" not in stored(yaml.safe_load(words))["spec"]
    assert "sft" in preset.resolve(yaml.safe_load(words))["spec"]


def test_letters_that_go_and_python_see_differently_are_in_no_pattern():
    patterns = list(strings(SCHEMA, "pattern"))
    assert patterns
    for pattern in patterns:
        assert not re.search(r"\\[wdsbWDSB]", pattern), pattern
        assert pattern.startswith("^")
        assert pattern.endswith("$")


def strings(schema, key):
    """Every text under a key, anywhere in a schema."""
    for name, value in schema.items():
        if name == key and isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from strings(value, key)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("grpo.rewards", [{"name": "mé"}]),
        ("grpo.rewards", [{"name": "m:é"}]),
        ("evaluation.benchmarks", [{"name": "aéa", "dataset": {"name": "d"}}]),
        ("evaluation.benchmarks", [{"name": "a" * 129, "dataset": {"name": "d"}}]),
    ],
)
def test_names_that_become_modules_and_directories_are_ascii_and_short(path, value):
    spec = {"model": {"name": "m"}, "grpo": {"dataset": {"name": "d"}}}
    stage, _, field = path.partition(".")
    spec.setdefault(stage, {})[field] = value
    head = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    document = {**head, "metadata": {"name": "r"}, "spec": spec}
    _, message = seen_by_the_operator({**document, "spec": {**spec, "storage": {"claimName": "c"}}})
    assert message.startswith(f"spec.{path}[0].name: ")
    assert stored(document) is None or "129" in str(value)


def huge(kind):
    """A run of nearly one MiB."""
    words = "ä" * 400_000
    section = {
        "one text": {"dataset": {"name": "d"}, "trainerArgs": {"a": words}},
        "one key": {"dataset": {"name": "d"}, words: 1},
        "many keys": {"dataset": {"name": "d"}, **{f"k{n}": 1 for n in range(8_000)}},
        "many values": {"dataset": {"name": "d"}, "trainerArgs": {"a": list(range(8_000))}},
        "many of a list": {"dataset": {"name": "d"}, "freeze": ["vision"] * 8_000},
    }[kind]
    document = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    document |= {"metadata": {"name": "r"}}
    return document | {
        "spec": {"model": {"name": "m"}, "storage": {"claimName": "c"}, "sft": section}
    }


@pytest.mark.fault(42)
@pytest.mark.parametrize(
    ("kind", "right"),
    [
        ("one text", True),
        ("one key", False),
        ("many keys", False),
        ("many values", True),
        ("many of a list", False),
    ],
)
def test_a_huge_run_is_judged_in_time_that_grows_with_its_size(file, kind, right):
    document = huge(kind)
    begun = time.process_time()
    run, lines = read(file, json.dumps(document, ensure_ascii=False))
    told_well(lines)
    assert (run is not None) == right
    seen, message = seen_by_the_operator(sent(document))
    assert (seen is not None) == right
    if kind == "one text":
        with pytest.raises(ValueError, match=r"spec: takes \d+ bytes"):
            BACKENDS[0].manifests(seen, order_of(seen), "image")
    assert message.startswith("" if right else "spec.sft")
    assert time.process_time() - begun < 20


def can_be_told(letters):
    """For each stage of a run with so many letters in it whether an order holds it."""
    options = {"trainerArgs": {"a": "é" * letters}}
    spec = {
        "model": {"name": "m"},
        "storage": {"claimName": "c"},
        "sft": {"dataset": {"name": "d"}, **options},
        "grpo": {"dataset": {"name": "d"}},
        "evaluation": {"benchmarks": [{"name": "t", "dataset": {"name": "t"}}]},
    }
    head = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    document = {**head, "metadata": {"name": "r" * 40, "uid": "u"}, "spec": spec}
    run, _ = seen_by_the_operator(document)
    found = []
    for stage in run.spec.stages:
        try:
            BACKENDS[0].manifests(run, order_of(run, stage, 10**6), "image")
            found.append(True)
        except ValueError:
            found.append(False)
    return found


def test_a_spec_that_fits_the_first_order_fits_all():
    found = {tuple(can_be_told(letters)) for letters in range(20_000, 21_000, 25)}
    assert found == {(True, True, True), (False, False, False)}


def test_a_file_that_is_no_run_at_all_is_not_read_to_its_end(file):
    _, lines = read(file, b"\xff" * (yamlfile.MAX_BYTES + 1))
    assert lines == [f"is longer than {yamlfile.MAX_BYTES} bytes: no ReasoningRun is"]
