"""Counts the completions that reflect while GRPO trains; what the ratios are, the contract says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from coldstart.lexicon import Lexicon, WordList
from coldstart.metrics import series
from coldstart.reflection import Counts

_ACCURACY = "accuracy"
_REFLECTS = {True: "yes", False: "no"}
_RATIOS = {
    "ratio": series("reflection_ratio", "all"),
    "ratio_correct": series("reflection_ratio", "right"),
    "ratio_wrong": series("reflection_ratio", "wrong"),
    "accuracy_reflecting": series("reflection_accuracy_ratio", "yes"),
    "accuracy_not_reflecting": series("reflection_accuracy_ratio", "no"),
}


class ReflectionCounters:
    """What one process adds to its counters, and the ratios that follow from those of all."""

    def __init__(self, words: WordList, rewards: Sequence[str]) -> None:
        """Take the names of the rewards in their order; `accuracy` among them says who is right."""
        self._lexicon = Lexicon(words.entries)
        self._accuracy = rewards.index(_ACCURACY) if _ACCURACY in rewards else None
        outcomes = ("unknown",) if self._accuracy is None else ("right", "wrong")
        self._outcomes = [(yes, outcome) for yes in (True, False) for outcome in outcomes]
        self._before: Mapping[str, float] | None = None
        self.series = (
            *(_outcome(*each) for each in self._outcomes),
            *(series("reflection_words_total", word) for word in words.entries),
        )
        """Every counter; all of them are there from the beginning, in every process."""

    def seen(self, texts: Iterable[str], rewards: Iterable[Sequence[float]]) -> Counter[str]:
        """What completions and their rewards, in the order of the names, add to the counters."""
        added: Counter[str] = Counter()
        for text, scores in zip(texts, rewards, strict=True):
            found = self._lexicon.found(text)
            added[_outcome(bool(found), self._judged(scores))] += 1
            added.update(series("reflection_words_total", word) for word in found)
        return added

    def ratios(self, totals: Mapping[str, float]) -> dict[str, float]:
        """The ratios of what was counted since the last call; the first one only takes note.

        Args:
            totals: the counters, summed up over all processes.
        """
        before, self._before = self._before, totals
        if before is None:
            return {}
        new = {
            each: int(totals[_outcome(*each)] - before[_outcome(*each)]) for each in self._outcomes
        }
        counts = Counts(
            responses=sum(new.values()),
            correct=sum(n for (_, outcome), n in new.items() if outcome == "right"),
            reflecting=sum(n for (reflects, _), n in new.items() if reflects),
            reflecting_correct=new.get((True, "right"), 0),
        )
        known = _RATIOS if self._accuracy is not None else {"ratio": _RATIOS["ratio"]}
        found = counts.ratios()
        return {key: value for name, key in known.items() if (value := found[name]) is not None}

    def _judged(self, scores: Sequence[float]) -> str:
        if self._accuracy is None:
            return "unknown"
        return "right" if scores[self._accuracy] > 0 else "wrong"


def _outcome(reflects: bool, outcome: str) -> str:
    return series("reflection_outcomes_total", _REFLECTS[reflects], outcome)
