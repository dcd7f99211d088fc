"""The page of run directories that are built by hand: whole, safe, honest, whatever is missing."""

import base64
import hashlib
import html
import json
import re

import pytest
import yaml
from report_pages import Elements, page, printed, rewritten
from sample_run import (
    START,
    document,
    failed,
    finished_run,
    write_line,
    write_status,
)

from coldstart import layout
from coldstart.files import append_json_line
from coldstart.layout import RunLayout
from coldstart.report import results_table, write_report
from coldstart.report.cases import EACH, case_groups
from coldstart.report.reading import grades, read_run
from coldstart.run import ReasoningRun
from coldstart.status import RunStatus, StageStatus

HOSTILE = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}[bold]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs"))


def test_the_page_asks_for_nothing(finished):
    text = page(finished)
    elements = Elements(text)
    assert elements.scripts() == [{}]
    assert {attributes["rel"] for attributes in elements.named("link")} == {"icon"}
    for _, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(http" not in text
    policy = elements.named("meta")[2]["content"]
    assert policy.startswith("default-src 'none'")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; require-trusted-types-for 'script'" in policy


def test_a_page_without_samples_runs_no_script(tmp_path):
    text = page(finished_run(tmp_path, stages=("sft", "grpo")))
    assert not Elements(text).named("script")
    assert "script-src" not in text


def test_the_page_has_every_part(finished):
    elements = Elements(page(finished))
    sections = [attributes["id"] for attributes in elements.named("section")]
    assert sections == [
        "result",
        "gain",
        "learning",
        "reflection",
        "samples",
        "stages",
        "provenance",
        "notes",
    ]
    text = " ".join(elements.text.split())
    for words in (
        "Wrong, then right",
        "MAYE list",
        "became right",
        "141 to 300",
        "12 response too long",
        "2.13.0+cpu",
        "coldstart run run.yaml --dir",
        "learningRate: 0.001",
        "Nothing here claims to reproduce the paper",
    ):
        assert words in text, words
    plots = [a for a in elements.named("svg") if a.get("class") == "plot"]
    assert len(plots) == 4 + 9
    assert all(a["role"] == "img" and a["aria-label"] for a in plots)
    assert all(a["alt"] for a in elements.named("img"))


def test_the_resolved_spec_is_a_run_again(finished):
    text = page(finished)
    shown = re.findall(r"<pre[^>]*>(apiVersion.*?)</pre>", text, re.DOTALL)[0]
    again = ReasoningRun.parse(yaml.safe_load(html.unescape(shown)))
    assert again.spec == read_run(finished).run.spec


def test_what_a_model_wrote_stays_text(tmp_path):
    spec = {"model": {"name": HOSTILE}, "conversation": {"system": HOSTILE}}
    run = finished_run(tmp_path, problems=3, spec=spec)
    for checkpoint in ("base", "sft", "grpo"):
        rewritten(
            run,
            checkpoint,
            "held-out",
            lambda sample: sample.model_copy(
                update={
                    "response": HOSTILE
                    + "\\boxed{"
                    + HOSTILE.replace("}", "").replace("{", "")
                    + "}",
                    "problem": HOSTILE,
                    "gold": HOSTILE,
                    "extracted": HOSTILE,
                    "choices": (HOSTILE,),
                    "outcome": HOSTILE,
                    "facets": {"subject": f"{HOSTILE}{int(sample.id) % 2}"},
                    "other_outcomes": {HOSTILE: HOSTILE},
                }
            ),
        )
    failed(run, HOSTILE)
    status = json.loads((run / "status.json").read_text())
    status["status"]["stages"][0]["gates"][0] |= {"message": HOSTILE, "passed": False}
    (run / "status.json").write_text(json.dumps(status))
    elements = Elements(page(run))
    assert elements.scripts() == [{}]
    assert all("onerror" not in attributes for _, attributes in elements.found)
    assert "<script>alert(1)</script>" in elements.text
    assert "{{ 7 * 7 }}" in elements.text
    assert "[bold]" in printed(results_table(run), width=400)


def test_a_response_of_a_hundred_thousand_characters_is_shortened(tmp_path):
    run = finished_run(tmp_path, problems=2)
    long = "a" * 50_000 + "b" * 50_000 + "\\boxed{7}"
    for checkpoint in ("base", "sft", "grpo"):
        rewritten(run, checkpoint, "held-out", lambda s: s.model_copy(update={"response": long}))
    text = page(run)
    assert len(text) < 1_000_000
    assert "96,009 characters are not shown" in text
    assert "<mark>\\boxed{7}</mark>" in text


def test_samples_are_a_few_of_each_transition(tmp_path):
    run = finished_run(tmp_path, problems=60)
    found = read_run(run)
    groups = case_groups(found, found.complete)
    assert [group.transition for group in groups] == ["gained", "lost", "kept", "missed"]
    assert sum(group.count for group in groups) == 60
    for group in groups:
        assert len(group.cases) == min(EACH, group.count)
        for case in group.cases:
            first, last = case.answers[0].sample, case.answers[-1].sample
            assert [answer.checkpoint for answer in case.answers] == ["base", "sft", "grpo"]
            assert (first.correct, last.correct) == {
                "gained": (False, True),
                "lost": (True, False),
                "kept": (True, True),
                "missed": (False, False),
            }[group.transition]
            assert len(case.images) == 1
    assert case_groups(found, found.complete) == groups


def test_a_response_written_twice_counts_as_written_first(tmp_path):
    run = finished_run(tmp_path, problems=4)
    found = read_run(run)
    before = grades(found, "sft", "held-out")
    path = layout.samples(found.layout.benchmark("sft", "held-out"))
    for line in [json.loads(text) for text in path.read_text().splitlines()]:
        flipped = "wrong" if line["outcome"] == "correct" else "correct"
        append_json_line(path, line | {"outcome": flipped})
    assert grades(found, "sft", "held-out") == before


def test_a_missing_image_is_said(tmp_path):
    run = finished_run(tmp_path, problems=3)
    for image in RunLayout(run).images.iterdir():
        image.unlink()
    text = page(run)
    assert "1 image is not shown" in text
    assert not Elements(text).named("img")


@pytest.mark.parametrize(
    ("stages", "present", "absent"),
    [
        (("sft",), ["learning"], ["result", "gain", "samples", "reflection"]),
        (("grpo", "evaluation"), ["learning", "result", "samples"], []),
        (("evaluation",), ["result", "samples"], ["learning"]),
        (("sft", "grpo"), ["learning"], ["result"]),
    ],
)
def test_a_run_of_some_stages_has_their_parts(tmp_path, stages, present, absent):
    run = finished_run(tmp_path, stages=stages)
    found = {attributes["id"] for attributes in Elements(page(run)).named("section")}
    assert found >= {*present, "stages", "provenance", "notes"}
    assert not found & set(absent)
    printed(results_table(run))


def test_grpo_from_the_base_is_called_grpo(tmp_path):
    run = finished_run(tmp_path, stages=("grpo", "evaluation"))
    assert "SFT + GRPO" not in page(run)


def test_a_run_that_has_not_started_has_a_page(tmp_path):
    where = RunLayout(tmp_path)
    where.status.write_text(json.dumps(ReasoningRun.parse(document()).document()))
    text = Elements(page(tmp_path)).text
    assert "The run has not started." in text
    assert "Pending" in text


def test_a_running_stage_says_how_far_it_is(tmp_path):
    where = RunLayout(tmp_path)
    for step in (1, 2, 3):
        write_line(where, "sft", 1, step, 300, {"loss": 1.0 / step})
    sft = StageStatus(name="sft", state="Running", attempt=1, started_at=START)
    status = RunStatus(phase="SFTRunning", message="sft attempt 1 is running", stages=(sft,))
    write_status(where, ReasoningRun.parse(document()), status)
    text = Elements(page(tmp_path)).text
    assert "3 of 300" in text
    assert "sft attempt 1 is running" in text


def test_a_failed_run_says_why(tmp_path):
    run = finished_run(tmp_path)
    failed(run)
    text = Elements(page(run)).text
    assert "DatasetInvalid" in text
    assert "row 17: the image cannot be decoded" in text


def test_results_without_their_responses_still_make_a_page(tmp_path):
    run = finished_run(tmp_path, problems=5)
    layout.samples(RunLayout(run).benchmark("sft", "held-out")).unlink()
    text = page(run)
    assert "No samples are shown" in text
    assert "cannot be paired" in text
    assert 'id="result"' in text


def test_a_torn_manifest_leaves_a_page(tmp_path):
    run = finished_run(tmp_path, problems=5)
    (RunLayout(run).stage("sft").final / "coldstart.json").write_text('{"run":')
    assert "not finished yet" in page(run)


def test_a_page_is_replaced_whole(tmp_path):
    run = finished_run(tmp_path, problems=3)
    first = write_report(run)
    assert first == run / "report.html"
    assert write_report(run) == first
    assert not list(run.glob("*.partial"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ["its file's own", "MAYE list (arXiv 2504.02587)", "one seed"]),
        ({"preset": "paper-7b"}, ["preset paper-7b, as far as the file leaves them"]),
        (
            {
                "evaluation": document()["spec"]["evaluation"]
                | {
                    "decoding": {"samples": 4},
                    "benchmarks": [{"name": "held-out", "dataset": {"name": "t", "limit": 9}}],
                }
            },
            ["4 responses", "a draw of 9 rows"],
        ),
        (
            {
                "grpo": document()["spec"]["grpo"]
                | {"dataset": {"name": "WaltonFuture/Multimodal-RL-Data"}}
            },
            ["CC BY-NC 4.0"],
        ),
    ],
)
def test_honesty_notes_follow_the_run(tmp_path, spec, words):
    run = finished_run(tmp_path, problems=3, spec=spec)
    text = " ".join(Elements(page(run)).text.split())
    for sentence in ["Nothing here claims to reproduce the paper", *words]:
        assert sentence in text
    assert "reproduces the paper" not in text
