"""What the report tells beyond accuracy: published figures, groups, matchers, all samples."""

import base64
import json
import re
import zlib
from collections import Counter
from pathlib import Path

import pytest
from large_run import CHECKPOINTS, SIZES, large_run
from report_pages import Elements, page, rewritten
from sample_run import document, finished_run, picture, summed

from coldstart.layout import RunLayout
from coldstart.report import write_report
from coldstart.report.anchors import anchors, mean_anchors
from coldstart.report.browser import BLOCK, CARRIED, Room, browser
from coldstart.report.confusion import Confusion, confusions
from coldstart.report.groups import facets
from coldstart.report.pictures import gallery
from coldstart.report.reading import RunRecord, read_run, samples
from coldstart.results import Agreement, Sample
from coldstart.run import ReasoningRun

ANSWER = Sample(
    id="1",
    problem="?",
    gold="1",
    response="",
    tokens=0,
    truncated=False,
    boxed=False,
    outcome="wrong",
)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """All of MathVista, and a part of MathVerse."""
    parent = tmp_path_factory.mktemp("runs")
    return large_run(parent, {"mathvista": SIZES["mathvista"], "mathverse": 30}, words=12)


@pytest.fixture(scope="module")
def held(large):
    """What its sample browser holds."""
    found = read_run(large)
    return browser(found, found.complete)


@pytest.fixture(scope="module")
def shown(large):
    """Its page."""
    return page(large)


def text_of(shown: str) -> str:
    return " ".join(Elements(shown).text.split())


def test_published_figures_stand_beside_whole_benchmarks_only(shown):
    text = text_of(shown)
    assert "Qwen2.5-VL-7B published 66.3 %no interval" in text
    assert "SFT+GRPO 7B published 73.4 %no interval" in text
    assert text.count("no interval") == 2, "MathVerse is partial, and the model has 7B parameters"
    assert "figure to within 0.05 points. It tells neither" in text
    assert "Published means" not in text


def scored(model: str, sizes: dict[str, int]) -> RunRecord:
    """A record of a run's results, of which only the numbers of problems matter."""
    told = document()
    told["spec"]["model"]["name"] = model
    told["spec"]["evaluation"]["benchmarks"] = [
        {"name": name} | ({} if name in SIZES else {"dataset": {"name": "x"}}) for name in sizes
    ]
    results = {
        ("sft", name): summed("sft", name, [ANSWER]).model_copy(
            update={"problems": count, "published": SIZES.get(name)}
        )
        for name, count in sizes.items()
    }
    return RunRecord(RunLayout(Path()), ReasoningRun.parse(told), results)


@pytest.mark.parametrize(
    ("benchmark", "model", "expected"),
    [
        ("wemath", "Qwen/Qwen2.5-VL-7B-Instruct", [0.6287, 0.704]),
        ("wemath", "Qwen/Qwen2.5-VL-3B-Instruct", [0.506, 0.641]),
        ("wemath", "another", [0.506, 0.641, 0.6287, 0.704]),
        ("held-out", "another", None),
    ],
)
def test_figures_are_those_of_the_benchmark_and_the_model(benchmark, model, expected):
    found = anchors(scored(model, {benchmark: SIZES.get(benchmark, 9)})).get(benchmark)
    assert found is None or [a.accuracy for a in found] == pytest.approx(expected)
    assert (found is None) == (expected is None)


def test_a_published_mean_is_of_its_four_benchmarks_as_wholes():
    model = "Qwen/Qwen2.5-VL-3B-Instruct"
    assert [a.accuracy for a in mean_anchors(scored(model, SIZES))] == [0.4, 0.508]
    fewer = {name: count for name, count in SIZES.items() if name != "wemath"}
    assert mean_anchors(scored(model, fewer)) == ()
    assert mean_anchors(scored(model, SIZES | {"held-out": 9})) == ()
    assert mean_anchors(scored(model, SIZES | {"wemath": 1739})) == ()
    assert "wemath" not in anchors(scored(model, SIZES | {"wemath": 1739}))


def test_groups_are_the_results_in_their_order(large, shown):
    found = read_run(large)
    made = facets(found)
    assert [(facet.benchmark, facet.name) for facet in made] == [
        ("mathvista", "subject"),
        ("mathvista", "level"),
        ("mathverse", "subject"),
        ("mathverse", "level"),
    ]
    assert [row.value for row in made[1].rows] == ["1", "2", "3", "4", "5"]
    assert sum(row.problems for row in made[0].rows) == SIZES["mathvista"]
    cells = dict(made[0].rows[0].cells)
    assert list(cells) == ["base", "sft", "grpo"]
    assert cells["sft"] == found.results["sft", "mathvista"].breakdown["subject"]["algebra"]
    assert "Subject · mathvista" in text_of(shown)
    assert "benchmark=mathvista&amp;subject=analytic+geometry" in shown


def test_a_run_without_groups_and_matchers_has_no_such_sections(tmp_path):
    run = finished_run(tmp_path, problems=3)
    found = {a["id"] for a in Elements(page(run)).named("section")}
    assert not found & {"groups", "matchers"}


def agreement(*counts: int) -> Confusion:
    both, first, second, neither = counts
    outcomes = {"correct": {"correct": both, "wrong": first}}
    outcomes["wrong"] = {"correct": second, "no_answer": neither}
    return Confusion(None, Agreement(matcher="rule", outcomes=outcomes))


@pytest.mark.parametrize(
    ("counts", "agreed", "kappa"),
    [
        ((20, 5, 10, 15), 0.7, 0.4),
        ((5, 0, 0, 5), 1.0, 1.0),
        ((0, 5, 5, 0), 0.0, -1.0),
        ((10, 0, 0, 0), 1.0, None),
    ],
)
def test_agreement_of_matchers(counts, agreed, kappa):
    found = agreement(*counts)
    assert found.cells == counts
    assert found.agreed == pytest.approx(agreed)
    assert found.kappa == (None if kappa is None else pytest.approx(kappa))


def test_the_page_shows_where_matchers_disagree(large, shown):
    item = confusions(read_run(large))[0]
    assert item.pair == ("judge", "rule")
    assert item.cells[1]
    assert f'to=base&amp;matchers=first">{item.cells[1]}</a>' in shown
    text = text_of(shown)
    assert "judge against rule" in text
    assert "rule: rules 2." in text


# What the sample browser reads


def unpacked(block: str) -> list:
    return json.loads(zlib.decompress(base64.b64decode(block)))


def test_the_browser_holds_every_response(large, held):
    found = read_run(large)
    cases, texts = held.index["cases"], [item for b in held.blocks for item in unpacked(b)]
    assert held.count == held.total == len(texts) == SIZES["mathvista"] + 30
    assert len(held.blocks) == -(-held.count // BLOCK)
    names = held.index["benchmarks"]
    places = {
        (names[benchmark], problem): number
        for number, (benchmark, problem) in enumerate(
            zip(cases["benchmark"], cases["id"], strict=True)
        )
    }
    for number, checkpoint in enumerate(CHECKPOINTS):
        answers = held.index["answers"][number]
        for sample in samples(found, checkpoint, "mathverse"):
            at = places["mathverse", sample.id]
            (problem, gold, _, images, missing), said = texts[at]
            assert (problem, gold, len(images), missing) == (sample.problem, sample.gold, 1, 0)
            assert "".join(text for text, _ in said[number][0]) == sample.response
            assert held.index["outcomes"][answers["outcome"][at]] == sample.outcome
            assert bool(answers["words"][at]) == ("Wait" in sample.response)


def test_more_responses_than_a_page_holds_are_drawn(large):
    found = read_run(large)
    some = browser(found, found.complete, Room(responses=10))
    assert (some.count, some.total) == (10, 1030)
    again = browser(found, found.complete, Room(responses=20))
    assert "1,000 of 1,030 responses" in text_of(write_report(large, room=CARRIED).read_text())
    kept = {key(some, at) for at in range(10)}
    assert kept < {key(again, at) for at in range(20)}


def key(held, at) -> tuple:
    cases = held.index["cases"]
    return cases["benchmark"][at], cases["id"][at], cases["number"][at]


def test_images_are_there_once_whatever_uses_them(held, shown):
    assert held.count == 1030
    assert len(held.gallery.copies) == 1000
    assert len(re.findall(r'id="sample-image-\d+"', shown)) == 1000


def test_images_that_are_not_shown_are_counted(tmp_path):
    data = [picture((1, 2, number)) for number in range(10)]
    names = [f"{number:064x}" for number in range(10)]
    for name, content in zip(names, data, strict=True):
        (tmp_path / f"{name}.png").write_bytes(content)
    (tmp_path / f"{'b' * 64}.png").write_bytes(b"<svg onload=alert(1)>")
    (tmp_path / f"{'d' * 64}.png").write_bytes(data[0][:30] + b"\0" * 9000)
    (tmp_path / "secret.png").write_bytes(data[0])
    asked = [*names, "b" * 64, "c" * 64, "d" * 64, "../secret", "secret"]
    found = gallery(tmp_path, asked, sum(map(len, data[:7])) + 5)
    assert len(found.copies) == 7
    assert found.left_out == Counter({"missing": 3, "no PNG": 2, "no room": 3})
    assert all(copy.uri.startswith("data:image/png;base64,") for copy in found.copies.values())


def test_large_images_are_made_smaller(tmp_path):
    image = pytest.importorskip("PIL.Image")
    name = "e" * 64
    image.effect_noise((384, 300), 90).save(tmp_path / f"{name}.png")
    copy = gallery(tmp_path, [name], 10**6).copies[name]
    assert copy.uri.startswith("data:image/webp;base64,")
    assert len(copy.uri) < (tmp_path / f"{name}.png").stat().st_size / 2
    assert (copy.width, copy.height) == (384, 300)
    assert gallery(tmp_path, [name], 100).left_out == Counter({"no room": 1})


def test_a_missing_image_is_counted_in_the_page(tmp_path):
    run = finished_run(tmp_path, problems=4)
    for file in sorted((run / "evaluation" / "images").iterdir())[:2]:
        file.unlink()
    assert "2 images are not shown: missing." in Elements(page(run)).text


def test_samples_of_one_checkpoint_are_right_or_wrong(tmp_path):
    run = finished_run(tmp_path, problems=4, stages=("evaluation",))
    changes = [a["value"] for a in Elements(page(run)).named("input") if a.get("name") == "change"]
    assert changes == ["", "kept", "missed"]


def test_responses_that_only_some_checkpoints_gave_are_left_out(tmp_path):
    run = finished_run(tmp_path, problems=6)
    path = run / "evaluation" / "sft" / "held-out" / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    found = read_run(run)
    assert browser(found, found.complete).count == 4
    assert "cannot be paired" in page(run)


def test_long_responses_are_shortened(tmp_path):
    run = finished_run(tmp_path, problems=1)
    long = "a" * 60_000 + "\\boxed{7}"
    rewritten(run, "sft", "held-out", lambda s: s.model_copy(update={"response": long}))
    found = read_run(run)
    ((_, said),) = unpacked(browser(found, found.complete).blocks[0])
    assert [role for _, role in said[1][0]] == [0, 2, 0, 1]
    assert sum(len(text) for text, _ in said[1][0]) < 5_000
