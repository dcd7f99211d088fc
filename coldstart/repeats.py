"""What several responses to one problem tell: pass@k, and the majority vote; one tells accuracy.

Sources: the unbiased estimator of Chen et al. (arXiv 2107.03374), self-consistency of Wang et al.
(arXiv 2203.11171).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that one of `k` responses is right, from `n` of which `right` are.

    Raises:
        ValueError: fewer responses than `k`, or more right ones than responses.
    """
    if not 1 <= k <= n or not 0 <= right <= n:
        raise ValueError(f"pass@{k} of {n} responses, {right} right: needs 1 <= k <= n >= right")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def budgets(n: int) -> list[int]:
    """The `k` that pass@k is reported for: powers of two, and all."""
    return sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})


def majority(answers: Sequence[tuple[str | None, bool]], same: Callable[[str, str], bool]) -> float:
    """Whether the most frequent answer to a problem is right: 1 or 0, between them in a tie.

    Args:
        answers: what each response states, and whether that is right; a response without an
            answer has no vote.
        same: whether two stated answers are equal, as the grader sees it. Right answers are not
            compared: all equal the gold answer.

    Returns:
        The expected result where a tie is broken by lot; 0 where nobody votes.
    """
    votes = [right for answer, right in answers if right and answer is not None]
    sizes: list[tuple[str, int]] = []
    for answer, right in answers:
        if right or answer is None:
            continue
        for place, (known, count) in enumerate(sizes):
            if answer == known or same(answer, known):
                sizes[place] = (known, count + 1)
                break
        else:
            sizes.append((answer, 1))
    most = max([len(votes), *(count for _, count in sizes)])
    if not most or len(votes) < most:
        return 0.0
    return 1 / (1 + sum(count == most for _, count in sizes))
