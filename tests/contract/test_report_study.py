"""The page of a study: every arm and seed, published figures, safe against what it is told."""

from datetime import UTC, datetime

from report_pages import Elements

from coldstart.benchmarks.figures import figures
from coldstart.report import study_page
from coldstart.study.results import ArmPair, ArmRow, Measure, OverSeeds, SeedScore, StudyTable

NOW = datetime(2026, 9, 14, tzinfo=UTC)
HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"
FOUR = ("mathvision", "mathverse", "mathvista", "wemath")


def measure(benchmark: str | None, *seeds: float) -> Measure:
    mean = sum(seeds) / len(seeds)
    spread = OverSeeds(deviation=0.012, low=mean - 0.03, high=mean + 0.03)
    return Measure(
        benchmark=benchmark,
        accuracy=mean,
        low=mean - 0.02,
        high=mean + 0.02,
        responses=1000 * len(seeds),
        problems=1000,
        partial=False,
        seeds=tuple(
            SeedScore(seed=number, run=f"s-{number}", accuracy=value)
            for number, value in enumerate(seeds)
        ),
        over_seeds=spread if len(seeds) > 1 else None,
    )


def row(arm: str, stages: str, *seeds: float, benchmarks: tuple[str, ...] = FOUR) -> ArmRow:
    return ArmRow(
        arm=arm,
        stages=stages,
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        measures=tuple(measure(name, *seeds) for name in benchmarks),
        mean=measure(None, *seeds),
    )


def table(**update) -> StudyTable:
    rows = (
        row("base", "base", 0.49),
        row("sft", "sft", 0.50, 0.52, 0.51),
        row("grpo", "grpo", 0.53, 0.51, 0.52),
        row("both", "sft+grpo", 0.55, 0.56, 0.57),
    )
    pairs = (
        ArmPair(
            first="sft", second="both", difference=0.05, p=0.0004, seeds=3, better=3
        ).model_copy(update={"low": 0.03, "high": 0.07}),
        ArmPair(first="sft", second="grpo", message="no seed of both has scores"),
    )
    known = tuple(item for item in figures().figures if "7B" in item.name)
    made = StudyTable(
        study="arms",
        rows=rows,
        pairs=pairs,
        published=known,
        source=figures().source,
        notes=("p is not corrected for the number of pairs.",),
    )
    return made.model_copy(update=update)


def told(page: str) -> str:
    return " ".join(Elements(page).text.split())


def test_the_page_shows_arms_seeds_pairs_and_published_figures():
    page = study_page.render(table(), NOW)
    text = told(page)
    captions = [part.split("<")[0] for part in page.split("<caption>")[1:]]
    assert captions == ["Mean of the benchmarks", *FOUR]
    assert '<td class="num">56.0 %<small>54.0 to 58.0</small></td>' in page
    assert '<td class="num">sd 1.2<small>53.0 to 59.0</small></td>' in page
    assert "SFT+GRPO 7B published 55.7 %no interval" in text
    assert '<span class="up">+5.0 pts</span></td><td class="num">&lt; 0.001</td>' in page
    assert '<td class="num">3 of 3 seeds</td>' in page
    assert "no seed of both has scores" in text
    assert "p is not corrected" in text
    assert page.count('class="seed"') == 5 * 9, "three seeds of three arms on each board"


def test_published_means_stand_beside_the_same_benchmarks_only():
    two = FOUR[:2]
    rows = (row("base", "base", 0.4, benchmarks=two),)
    known = tuple(
        item.model_copy(update={"accuracy": {k: item.accuracy[k] for k in two}})
        for item in figures().figures
    )
    page = study_page.render(table(rows=rows, pairs=(), published=known), NOW)
    assert "Mean of the benchmarks" in page
    assert page.count("<small>published</small>") == 2 * len(known), "a mean of four is none of two"


def test_what_is_missing_is_said():
    rows = (
        row("base", "base", 0.4),
        ArmRow(arm="both", stages="sft+grpo", model="m", measures=(), missing=("seed 1: failed",)),
    )
    text = told(study_page.render(table(rows=rows, pairs=(), published=(), source=""), NOW))
    assert "both: seed 1: failed" in text
    assert "no scores" in text
    assert "Published" not in text


def test_what_a_study_is_told_stays_text():
    rows = (row(HOSTILE, "sft", 0.4),)
    pair = ArmPair(first=HOSTILE, second=HOSTILE, message=HOSTILE)
    page = study_page.render(table(study=HOSTILE, rows=rows, pairs=(pair,), notes=(HOSTILE,)), NOW)
    elements = Elements(page)
    assert not elements.named("script")
    assert not elements.named("img")
    assert "{{ 7 * 7 }}" in elements.text
    for _, attributes in elements.found:
        assert attributes.get("href", "#").startswith(("#", "data:"))
