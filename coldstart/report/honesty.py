"""What a reader of a run's numbers must know before believing them; one sentence or two each."""

from __future__ import annotations

from coldstart.benchmarks import published
from coldstart.lexicon import MAYE
from coldstart.report.reading import RunRecord
from coldstart.run import RunSpec

LICENCES = {"WaltonFuture/Multimodal-RL-Data": "CC BY-NC 4.0"}
"""Licences of published data sets that forbid something, as their cards state them."""


def notes(found: RunRecord) -> list[str]:
    """The notes that hold for this run."""
    spec = found.run.spec
    made = [_paper(spec)]
    if found.results:
        made.append(
            "This is one run with one seed. The intervals cover the choice of problems and the "
            "sampling of responses, not the luck of training: another seed may land elsewhere."
        )
        made += _matchers(found)
        made += _pairs(spec)
        made += _draws(found)
        made.append(_reflection(found))
        made.append(
            "Nobody chose the sample completions: where the page does not hold all, a hash of "
            "their problem's id has picked them."
        )
    made += _licences(spec)
    return made


def _paper(spec: RunSpec) -> str:
    start = "Nothing here claims to reproduce the paper (arXiv 2505.22334). "
    if spec.preset:
        return start + (
            f"Training values come from the preset {spec.preset}, as far as the file leaves them; "
            "data, benchmark splits, prompt and matcher decide the numbers as much."
        )
    return start + "The values of this run are its file's own."


def _matchers(found: RunRecord) -> list[str]:
    whose = {"rule": "this project's own rules", "judge": "a model that judges"}
    matchers = {(result.matcher, result.matcher_version) for result in found.results.values()}
    return [
        f"Answers were graded by the matcher “{name}”, {whose.get(name, 'another one')}"
        f"{f' ({version})' if version else ''}. Another matcher can move such numbers by several "
        "points."
        for name, version in sorted(matchers)
    ]


def _pairs(spec: RunSpec) -> list[str]:
    if spec.evaluation is None or spec.evaluation.decoding.samples == 1:
        return []
    samples = spec.evaluation.decoding.samples
    note = (
        f"Each problem has {samples} responses, which are no {samples} problems: intervals and the "
        "paired test take the responses to a problem as a whole."
    )
    return [note]


def _draws(found: RunRecord) -> list[str]:
    evaluation = found.run.spec.evaluation
    made = [
        f"The benchmark {item.name} was scored on a draw of {item.dataset.limit:,} rows, not on "
        "its whole split."
        for item in (evaluation.benchmarks if evaluation else ())
        if item.dataset is not None and item.dataset.limit is not None
    ]
    partial = {result.benchmark: result for result in found.results.values() if result.partial}
    return made + [
        f"{name} is partial: {result.problems:,} of its {result.published:,} problems were asked, "
        "so its number stands beside no published one."
        for name, result in partial.items()
    ]


def _reflection(found: RunRecord) -> str:
    name = {result.reflection.word_list for result in found.results.values()} - {MAYE}
    start = (
        f"Reflection is counted by this run's own list of words ({', '.join(sorted(name))}), "
        "not by the paper's. "
        if name
        else "Reflection is counted by the MAYE list (arXiv 2504.02587), which is not the paper's "
        "list, and by whole words; MAYE counts parts of words as well, so its figures are others. "
    )
    return start + "A word is no proof that a response reconsiders anything."


def _licences(spec: RunSpec) -> list[str]:
    sections = [section for section in (spec.distill, spec.sft, spec.grpo) if section is not None]
    names = [section.dataset.name for section in sections if section.dataset]
    known = [f"{name} is {LICENCES[name]}. " for name in dict.fromkeys(names) if name in LICENCES]
    made = []
    if names:
        made.append(
            "".join(known) + "A run does not record the licences of its data sets: look them up "
            "before you publish weights."
        )
    named = [
        published(item.name) for item in (spec.evaluation.benchmarks if spec.evaluation else ())
    ]
    told = [f"{item.title}: {item.licence}" for item in named if item]
    if told:
        made.append(f"Licences of the benchmarks, as their cards state them: {'; '.join(told)}.")
    return made
