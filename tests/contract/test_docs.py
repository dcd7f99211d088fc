"""What the documents show is true: every block is valid, every link leads somewhere."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import doc_commands
import kubernetes_validate
import pytest
import yaml
from doc_pages import PAGES, ROOT, blocks, name

from coldstart.children.backend import BACKENDS
from coldstart.children.pod import STORAGE
from coldstart.order import build_order
from coldstart.run import ReasoningRun, RunSpec
from coldstart.runfile import load

EXAMPLES = [
    path for path in ROOT.glob("examples/**/*.yaml") if "kind: ReasoningRun" in path.read_text()
]
LANGUAGES = {"json", "promql", "python", "sh", "text", "yaml"}
SECTIONS = {field.alias or key for key, field in RunSpec.model_fields.items()}
FOREIGN = {"monitoring.coreos.com"}
"""Groups whose schemas are not Kubernetes' own: such objects are only parsed."""

ROWS = {"dataset": {"name": "rows.jsonl"}}
REST: dict[str, Any] = {
    "model": {"name": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "main"},
    "storage": {"claimName": "runs"},
    "distill": ROWS,
    "sft": ROWS,
    "grpo": ROWS,
    "evaluation": {"benchmarks": [{"name": "test", **ROWS}]},
}
"""What a part of a spec is completed with."""

pages = pytest.mark.parametrize("page", PAGES, ids=name)


def completed(part: dict[str, Any]) -> dict[str, Any]:
    """The run that a part of a spec is shown of."""
    stages = {"distill", "sft", "grpo", "evaluation"} & part.keys()
    rest = {key: REST[key] for key in ("model", "storage", *(stages or {"sft"}))}
    if "distill" in part:
        rest |= {"sft": {}}
    if "preset" in part:
        rest = {}
    spec = {
        key: rest.get(key, {}) | part.get(key, {}) if key in rest else part[key]
        for key in [*rest, *(key for key in part if key not in rest)]
    }
    head = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    return {**head, "metadata": {"name": "shown"}, "spec": spec}


def check_document(document: Any, tmp_path) -> None:
    """Refuse a YAML document that is shown with a mistake in it."""
    if not isinstance(document, dict):
        return
    kind, group = document.get("kind"), str(document.get("apiVersion")).split("/")[0]
    if document.keys() == {"spec"}:
        document = completed(document["spec"])
    elif document and document.keys() <= SECTIONS:
        document = completed(document)
    if document.get("kind") == "ReasoningRun":
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
        check_run(load(tmp_path / "run.yaml"))
    elif kind and group not in FOREIGN and group != "coldstart.dev":
        kubernetes_validate.validate(document, "1.37", strict=True)


def check_run(run: ReasoningRun) -> None:
    """Refuse a run for a cluster whose pods no cluster takes."""
    for stage in run.spec.stages if run.spec.storage.claim_name else ():
        order = build_order(run, stage, 1, {}, storage=STORAGE, workdir=STORAGE)
        assert all(backend.manifests(run, order, "trainer:1") for backend in BACKENDS)


@pages
def test_yaml_is_valid(tmp_path, page):
    for block in blocks(page.read_text(), "yaml"):
        # Placeholders are in capitals, names are not.
        text = re.sub(r"\b(RUN|NAMESPACE)\b", lambda found: found[0].lower(), block.text)
        for document in yaml.safe_load_all(text):
            check_document(document, tmp_path)


@pages
def test_commands_exist_with_their_options(page):
    shown = [block.text for block in blocks(page.read_text(), "sh")]
    assert [mistake for text in shown for mistake in doc_commands.mistakes(text)] == []
    if shown:
        # Placeholders such as <commit> would be redirections.
        script = re.sub(r"<[\w-]+>", "x", "\n".join(shown))
        done = subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""


def objects(text: str) -> Iterator[Any]:
    """The JSON values of a text, one after the other."""
    while text := text.lstrip():
        value, end = json.JSONDecoder().raw_decode(text)
        yield value
        text = text[end:]


@pages
def test_json_is_such(page):
    assert all(list(objects(block.text)) for block in blocks(page.read_text(), "json"))


@pages
def test_python_runs(tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in blocks(page.read_text(), "python"):
        if module := re.match(r"# (\w+\.py)\n", block.text):
            (tmp_path / module[1]).write_text(block.text)
        else:
            exec(compile(block.text, name(page), "exec"), {})


@pytest.mark.parametrize("folder", ["decisions", "how-to", "runbooks"])
def test_an_index_has_every_page_of_its_folder(folder):
    index = (ROOT / "docs" / folder / "README.md").read_text()
    others = [p.name for p in PAGES if p.parent.name == folder and p.name != "README.md"]
    assert [page for page in others if f"]({page})" not in index] == []


@pages
def test_every_block_says_what_it_is(page):
    assert {block.language for block in blocks(page.read_text())} <= LANGUAGES


@pages
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pages
def test_tests_that_are_named_are_there(page):
    named = re.findall(r"`(tests/[\w/.]+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_there_are_pages_to_check():
    assert len(PAGES) >= 20
    assert sum(1 for page in PAGES for _ in blocks(page.read_text(), "yaml")) >= 20


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_every_example_is_valid(path):
    assert load(path).spec.stages


@pytest.mark.parametrize(
    "text",
    [
        "spec: {sftt: {}}",
        "sft: {dataset: {name: a.jsonl}, epoch: 3}",
        "spec: {grpo: {from: {run: a, stage: evaluation}}}",
        "spec: {podTemplate: {volumeMounts: [{name: bucket, mountPath: /bucket}]}}",
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {modes: []}}",
    ],
)
def test_a_mistake_in_yaml_is_seen(tmp_path, text):
    with pytest.raises((SystemExit, ValueError, kubernetes_validate.ValidationError)):
        check_document(yaml.safe_load(text), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("coldstart run run.yaml --frsh", "--frsh"),
        ("coldstart rn run.yaml", "no command rn"),
        ("coldstart run", "Missing"),
        ("coldstart run a.yaml b.yaml", "unexpected b.yaml"),
        ("X=1 coldstart run run.yaml \\\n  --stage sfx  # why", "sfx"),
        ("kubectl coldstart status r -n ml --watc", "--watc"),
        ("python -m coldstart_operator --nmespace ml", "--nmespace"),
        ("kubectl -n ml get rrun --follow", "get has no option --follow"),
        ("echo a | kubectl frobnicate", "echo is not in"),
        ("helm upgrade coldstart charts/coldstart --nmespace ml", "--nmespace"),
        ("make quikstart", "no target quikstart"),
        ("pip install 'coldstart-operator[traner]'", "no extra traner"),
    ],
)
def test_a_mistake_in_a_command_is_seen(text, words):
    assert words in " ".join(doc_commands.mistakes(text))
