"""Responses of a checkpoint on a benchmark, and what they add up to; no model is needed for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from coldstart.grading.match import MAX_PRECISION
from coldstart.schema import Contract, Digest, Name, RunName

CORRECT = "correct"
"""The one outcome that counts as right."""


class Sample(Contract):
    """One response, as it was sampled, with its grade; a line of `samples.jsonl`."""

    id: Name
    """The problem: its `id` column, or its row number."""
    sample: Annotated[int, Field(ge=0)] = 0
    """Which of the responses to this problem."""
    problem: str
    """The question."""
    images: tuple[Name, ...] = ()
    """SHA-256 of each image's thumbnail, `<hash>.png` in `evaluation/images`."""
    gold: str
    """The gold answer."""
    choices: tuple[str, ...] = ()
    """The options, where the data set has a column of them."""
    answer_type: Name | None = None
    """What the gold answer is declared to be, such as `integer`."""
    precision: Annotated[int, Field(ge=0, le=MAX_PRECISION)] | None = None
    """Decimal places that count."""
    unit: str | None = None
    """What the number is of."""
    cluster: str | None = None
    """Names the problems that belong together; absent: the problem stands alone."""
    facets: dict[str, str] = {}
    """What results are broken down by, such as `subject` and `level`."""
    response: str
    """The raw completion."""
    tokens: Annotated[int, Field(ge=0)]
    """Its length."""
    truncated: bool
    """Whether it reached the length limit."""
    boxed: bool
    """Whether it holds a closed `\\boxed{}`."""
    extracted: str | None = None
    """The answer that was found."""
    outcome: Name
    """`correct`, `wrong`, `no_answer`, … as the matcher calls it."""
    matcher: Name = "rule"
    """What graded it."""
    other_outcomes: dict[Name, Name] = {}
    """What other matchers, which graded it before, made of it: outcome by matcher."""

    @property
    def correct(self) -> bool:
        """Whether it counts as right."""
        return self.outcome == CORRECT

    @property
    def unit_of_evidence(self) -> str:
        """What is drawn and tested as a whole: its cluster, else its problem."""
        return self.id if self.cluster is None else self.cluster


class Estimate(Contract):
    """A number with its 95 % interval."""

    value: float
    """The number."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class Correlation(Contract):
    """The phi coefficient of two yes-or-no properties of responses, with its 95 % interval."""

    value: float | None = None
    """From -1 to 1."""
    low: float | None = None
    """Lower end."""
    high: float | None = None
    """Upper end."""
    missing: str = ""
    """Why there is no number, or no interval."""


class Reflection(Contract):
    """How often responses reflect, and whether that goes with being right (recipe: MAYE).

    A ratio of which there is no such response is absent.
    """

    word_list: Name
    """The list of words that a response reflects by."""
    reflecting: int
    """Responses with a word of the list."""
    reflecting_correct: int
    """The right ones among them."""
    ratio: Estimate | None = None
    """Share of responses that reflect."""
    ratio_correct: Estimate | None = None
    """Share of them among the right responses."""
    ratio_wrong: Estimate | None = None
    """Share of them among the wrong responses."""
    accuracy_reflecting: Estimate | None = None
    """Accuracy of the responses that reflect."""
    accuracy_not_reflecting: Estimate | None = None
    """Accuracy of the others."""
    correlation: Correlation
    """Of reflecting with being right, over all responses."""
    words: dict[str, int]
    """Responses with each word of the list, those with none included."""


class KindResult(Contract):
    """The responses of one kind."""

    share: float
    """Share of all responses."""
    accuracy: float | None = None
    """Share of right ones among them."""
    n: int
    """How many there are."""


class GroupResult(Contract):
    """The responses to the problems of one subject, level or version."""

    accuracy: float
    """Share of right responses."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    n: int
    """Responses."""
    problems: int
    """Problems."""


class Repeats(Contract):
    """What several responses per problem tell beyond their mean, which `accuracy` is (avg@k)."""

    samples: int
    """Responses per problem."""
    pass_at: dict[str, Estimate]
    """By k: the chance that one of k responses is right (unbiased, arXiv 2107.03374)."""
    majority: Estimate | None = None
    """Share of problems whose most frequent answer is right; answers are equal as the grader sees
    them, and a tie counts in part."""


class FourDimensions(Contract):
    """We-Math's dimensions as shares of its composites (arXiv 2407.01284)."""

    score: float
    """CM and half of IG: the authors' score."""
    insufficient_knowledge: float
    """IK: the composite and a step are wrong."""
    inadequate_generalization: float
    """IG: the steps are right, the composite is wrong."""
    complete_mastery: float
    """CM: the composite is right, and so are its steps (loose: one of them)."""
    rote_memorization: float
    """RM: the composite is right, its steps are not. A share of all composites."""
    rote_among_right: float
    """RM as the authors print it: of the composites that are right."""


class WeMath(Contract):
    """We-Math's own metric; plain accuracy is the result's `accuracy`."""

    strict: FourDimensions
    """All steps must be right for mastery."""
    loose: FourDimensions
    """One step must be."""
    composites: int
    """Composites, once for each of their responses; the whole benchmark has 525."""
    torn: int = 0
    """Composites that are left out, since a part of them was not asked."""


class JudgeUse(Contract):
    """What a judge was asked, and what that cost."""

    asked: int
    """Responses that it was asked about, each once."""
    unclear: int = 0
    """Replies that said neither yes nor no; they count as wrong."""
    prompt_tokens: int = 0
    """Tokens that it read, as the endpoint counts them."""
    completion_tokens: int = 0
    """Tokens that it wrote."""


class Agreement(Contract):
    """How the matcher of a result and one that graded the same responses before agree."""

    matcher: Name
    """The other matcher."""
    matcher_version: str = ""
    """Its version; empty where that is not known."""
    outcomes: dict[str, dict[str, int]]
    """Responses by the outcome of the result's own matcher, then by the other's."""

    def count(self, *, own: bool, other: bool) -> int:
        """Responses that each of the two counts as right, or does not."""
        return sum(
            count
            for outcome, row in self.outcomes.items()
            for of_other, count in row.items()
            if (outcome == CORRECT) == own and (of_other == CORRECT) == other
        )

    @property
    def n(self) -> int:
        """Responses that both have graded."""
        return sum(sum(row.values()) for row in self.outcomes.values())


class BenchmarkResult(Contract):
    """What the responses of one checkpoint on one benchmark add up to; `results.json`."""

    schema_version: Literal[1] = 1
    """The version of this document."""
    checkpoint: RunName
    """Whose responses."""
    digest: Digest | None = None
    """The checkpoint's manifest digest; absent for the base model."""
    benchmark: Name
    """On what."""
    matcher: Name = "rule"
    """What graded them."""
    matcher_version: str = ""
    """Which version of it: of the rules and of math-verify, or the judge's model and prompt."""
    judge: JudgeUse | None = None
    """Of the matcher `judge`: what it cost."""
    agreements: tuple[Agreement, ...] = ()
    """With the matchers that have graded the same responses before."""
    accuracy: float
    """Share of right responses."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    n: int
    """Responses."""
    problems: int
    """Problems."""
    boxed_share: float
    """Share of responses with a closed box."""
    truncated_share: float
    """Share of responses that reached the length limit."""
    mean_tokens: float
    """Mean length."""
    outcomes: dict[str, int]
    """Responses by the grader's outcome."""
    reflection: Reflection
    """Reflection ratios."""
    kinds: dict[str, KindResult] = {}
    """Responses by kind, where the spec names kinds."""
    decoding: dict[str, JsonValue] = {}
    """How they were sampled."""
    dropped: dict[str, int] = {}
    """Problems not asked, by reason."""
    published: int | None = None
    """How many problems the published benchmark has; absent for a set of the run's own."""
    partial: bool = False
    """Whether fewer were asked, so that the number stands beside no published one."""
    breakdown: dict[str, dict[str, GroupResult]] = {}
    """Accuracy by subject, level and the like, where the benchmark tells them."""
    repeats: Repeats | None = None
    """Where problems have several responses each."""
    wemath: WeMath | None = None
    """Of We-Math: its four dimensions."""

    @property
    def whole(self) -> bool:
        """Whether all of a published benchmark was asked, so that published figures compare."""
        return self.published is not None and self.problems == self.published
