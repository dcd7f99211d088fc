"""A run of published benchmarks built by hand, as large as one likes: subjects, levels, a judge."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sample_run import document, finished_run, picture, summed

from coldstart.estimates import breakdown
from coldstart.intervals import wilson
from coldstart.layout import RunLayout
from coldstart.results import Agreement, BenchmarkResult, Sample
from coldstart.summary import write_result, write_samples

SUBJECTS = ("algebra", "analytic geometry", "counting", "metric geometry", "solid geometry")
SIZES = {"mathvista": 1000, "mathverse": 3940, "mathvision": 3040, "wemath": 1740}
CHECKPOINTS = {"base": 0.42, "sft": 0.47, "grpo": 0.58}
WORDS = [
    *("the", "angle", "centre", "equals", "twice", "rim", "so", "we", "read", "both", "sides"),
    *("of", "figure", "set", "ratio", "two", "lengths", "against", "area", "that", "remains"),
    *("then", "add", "what", "is", "left", "because", "triangle", "similar", "to", "larger"),
]

Drawing = Callable[[int], bytes]


def digits(number: int) -> bytes:
    """A small PNG, another one for each of a thousand numbers."""
    return picture((number // 100 % 10, number // 10 % 10, number % 10))


def large_run(
    parent: Path,
    problems: dict[str, int],
    *,
    words: int = 60,
    drawing: Drawing = digits,
    judged: bool = True,
    seed: int = 0,
) -> Path:
    """A finished run on these benchmarks, of so many problems each."""
    names = [{"name": name} for name in problems]
    model = {"model": {"name": "Qwen/Qwen2.5-VL-7B-Instruct"}}
    evaluation = document()["spec"]["evaluation"] | {"benchmarks": names}
    evaluation.pop("responseKinds")
    root = finished_run(
        parent, "large", problems=1, spec={"evaluation": evaluation, **model}, seed=seed
    )
    where = RunLayout(root)
    draw = random.Random(seed)
    for benchmark, count in problems.items():
        asked = [_problem(where, number, draw, drawing) for number in range(count)]
        for checkpoint, skill in CHECKPOINTS.items():
            answered = [_answer(known, skill, words, draw, judged) for known in asked]
            directory = where.benchmark(checkpoint, benchmark)
            write_samples(directory, answered)
            write_result(directory, _result(checkpoint, benchmark, answered))
    return root


def _result(checkpoint: str, benchmark: str, answered: list[Sample]) -> BenchmarkResult:
    """What they add up to; what needs a bootstrap goes by the first of them, for it takes long."""
    right, n = sum(sample.correct for sample in answered), len(answered)
    bounds = wilson(right, n)
    counts: dict[str, dict[str, int]] = {}
    for sample in answered:
        for other in sample.other_outcomes.values():
            row = counts.setdefault(sample.outcome, {})
            row[other] = row.get(other, 0) + 1
    published = SIZES.get(benchmark)
    update = {
        "accuracy": right / n,
        "low": bounds.low,
        "high": bounds.high,
        "n": n,
        "problems": n,
        "outcomes": dict(Counter(sample.outcome for sample in answered)),
        "breakdown": breakdown(answered),
        "published": published,
        "partial": published is not None and len(answered) < published,
        "kinds": {},
        "matcher": "judge" if counts else "rule",
        "matcher_version": "Qwen2.5-72B-Instruct, prompt 0f3a9c1b22d4" if counts else "rules 2",
        "agreements": (Agreement(matcher="rule", matcher_version="rules 2", outcomes=counts),)
        if counts
        else (),
    }
    return summed(checkpoint, benchmark, answered[:50]).model_copy(update=update)


def _problem(where: RunLayout, number: int, draw: random.Random, drawing: Drawing) -> Sample:
    data = drawing(number)
    name = hashlib.sha256(data).hexdigest()
    (where.images / f"{name}.png").write_bytes(data)
    subject, level = draw.choice(SUBJECTS), draw.randrange(1, 6)
    return Sample(
        id=str(number + 1),
        problem=f"In the figure, which value has x, if {_prose(draw, 14)}?",
        images=(name,),
        gold=str(draw.randrange(2, 60)),
        facets={"subject": subject, "level": str(level)},
        response="",
        tokens=0,
        truncated=False,
        boxed=False,
        outcome="wrong",
    )


def _answer(known: Sample, skill: float, words: int, draw: random.Random, judged: bool) -> Sample:
    easy = (3 - int(known.facets["level"])) * 0.06
    liked = (SUBJECTS.index(known.facets["subject"]) - 2) * 0.05
    right = draw.random() < skill + easy + liked
    cut = not right and draw.random() < 0.08
    found = known.gold if right else str(int(known.gold) + draw.choice((-1, 1, 2, 10)))
    text = f"{_prose(draw, words // 2).capitalize()}. "
    if draw.random() < 0.15:
        text += "Wait, let me check again. "
    text += f"{_prose(draw, words // 2).capitalize()}."
    text += "" if cut else f" So the answer is \\boxed{{{found}}}."
    outcome = "correct" if right else "truncated" if cut else "wrong"
    ruled = "no_answer" if outcome == "correct" and draw.random() < 0.05 else outcome
    return known.model_copy(
        update={
            "response": text,
            "tokens": len(text) // 4,
            "truncated": cut,
            "boxed": not cut,
            "extracted": None if cut else found,
            "outcome": outcome,
            "matcher": "judge" if judged else "rule",
            "other_outcomes": {"rule": ruled} if judged else {},
        }
    )


def _prose(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))
