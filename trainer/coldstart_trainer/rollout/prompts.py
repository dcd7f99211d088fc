"""Prompts as vLLM must get them, and completions as the trainer must; no engine is needed here.

TRL hands a colocated vLLM each prompt once for each of its G completions, and with its image tokens
already written out. vLLM writes them out again (huggingface/trl#6401): wrong prompts, and no error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import Any

from torch import Tensor

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure

Tokens = list[int]

_SERVER = "spec.grpo.rollout.serverUrl: the vLLM server"
_FARTHEST = 1e5
"""Nats; vLLM writes -9999 for a token that cannot be."""
_ROUNDED = 1e-3
"""How far above 0 rounding may bring a log-probability."""


class Ended(Exception):
    """Sampling was given up, because the process was told to end."""


def unsampled(prompts: Sequence[Tokens], group: int, end: int) -> dict[str, Any]:
    """Completions of a sampling that was given up, in the form of TRL's client: nothing but ends.

    They let what TRL does after sampling run to where the stage ends.

    Args:
        prompts: the tokens of each.
        group: completions of each.
        end: the token that ends a completion.
    """
    count = len(prompts) * group
    return {
        "prompt_ids": [list(prompt) for prompt in prompts],
        "completion_ids": [[end] for _ in range(count)],
        "logprobs": [[[0.0]] for _ in range(count)],
        "logprob_token_ids": [[[end]] for _ in range(count)],
    }


def collapsed(tokens: Sequence[int], pad: int) -> Tokens:
    """The prompt with each run of image tokens as one: vLLM writes out as many as it needs."""
    found: Tokens = []
    for token, run in groupby(tokens):
        found += [token] if token == pad else list(run)
    return found


def written_out(tokens: Sequence[int], pad: int, counts: Sequence[int]) -> Tokens:
    """The prompt as the model sees it, from one with a single token for each image.

    Args:
        tokens: the prompt.
        pad: that token.
        counts: how many of it each image becomes.
    """
    left = iter(counts)
    found: Tokens = []
    for token in tokens:
        found += [pad] * next(left) if token == pad else [token]
    return found


def copies(prompts: Sequence[Sequence[int]], group: int) -> int:
    """How many rows in succession have the same prompt, given that groups lie side by side.

    It is the size of a group, or less where a process holds parts of groups.
    """
    count = math.gcd(len(prompts), group)
    for first in range(0, len(prompts), count):
        rows = prompts[first : first + count]
        assert all(row == rows[0] for row in rows), "the rows of a group have different prompts"
    return count


def require_same_tokens(ours: Sequence[int], theirs: Sequence[int], pad: int | None) -> None:
    """Refuse a prompt that the engine saw differently from the trainer.

    Args:
        ours: the prompt as the trainer will compute it, image tokens written out.
        theirs: the prompt that the engine sampled from.
        pad: the image token; None for a text model.

    Raises:
        StageFailure: SamplerMismatch.
    """
    if list(ours) == list(theirs):
        return
    counts = [tokens.count(pad) if pad is not None else 0 for tokens in (ours, theirs)]
    if counts[0] != counts[1]:
        raise StageFailure(
            ErrorCode.SAMPLER_MISMATCH,
            f"a prompt has {counts[0]} image tokens for the trainer and {counts[1]} for vLLM: both "
            "must scale images alike; look at conversation.minPixels and maxPixels, and at the "
            "processor's files in the model directory",
        )
    raise StageFailure(
        ErrorCode.SAMPLER_MISMATCH,
        f"a prompt of {len(ours)} tokens reached vLLM as another one, of {len(theirs)} tokens",
    )


def require_completions(
    found: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    group: int,
    vocabulary: int,
    longest: int,
) -> None:
    """Refuse what a server returns for prompts unless it is a group of completions of each.

    Args:
        found: in the form of TRL's client.
        prompts: the tokens of each.
        group: completions of each.
        vocabulary: how many tokens the model knows.
        longest: the most tokens of a completion.

    Raises:
        StageFailure: SamplerMismatch; WorkerLost, if a completion was given up.
    """
    completions, logps = found["completion_ids"], found["logprobs"]
    if len(completions) != len(prompts) * group:
        raise _mismatch(f"{len(completions)} completions, not {group} for each of {len(prompts)}")
    for ours, theirs in zip(prompts, found["prompt_ids"], strict=True):
        if list(ours) != list(theirs):
            raise _mismatch("completions of another prompt than it was given")
    for ids, names, values in zip(completions, found["logprob_token_ids"], logps, strict=True):
        _require_tokens(ids, vocabulary, longest)
        if [each[0] for each in names] != ids:
            raise _mismatch("log-probabilities of other tokens than those of the completion")
        for value in (each[0] for each in values):
            if value is not None and not -_FARTHEST <= value <= _ROUNDED:
                raise _mismatch(f"{value}, which is no log-probability")


def _require_tokens(ids: Tokens, vocabulary: int, longest: int) -> None:
    if not ids:
        raise StageFailure(
            ErrorCode.WORKER_LOST, f"{_SERVER} gave a completion up before its first token"
        )
    if len(ids) > longest:
        raise _mismatch(f"a completion of {len(ids)} tokens, where {longest} are the most")
    if max(ids) >= vocabulary:
        raise _mismatch(f"token {max(ids)}, but the model knows {vocabulary} tokens")


def _mismatch(message: str) -> StageFailure:
    return StageFailure(ErrorCode.SAMPLER_MISMATCH, f"{_SERVER} returns {message}")


def without_vision(
    completions: list[Tokens],
    logps: list[list[float]] | None,
    forbidden: AbstractSet[int],
    end: int,
) -> tuple[list[Tokens], list[list[float]] | None]:
    """Completions cut where a token stands for pixels, which would be read as an image.

    Nothing is to sample one; should it happen all the same, the completion ends there, twice: no
    other one goes on after its end, so `ended_twice` finds it wherever its group is moved to.

    Args:
        completions: the tokens of each.
        logps: their log-probabilities, where there are any; not known for the ends.
        forbidden: the tokens that stand for pixels.
        end: the token that ends a completion.
    """
    for row, ids in enumerate(completions):
        if not forbidden.isdisjoint(ids):
            at = next(place for place, token in enumerate(ids) if token in forbidden)
            completions[row] = [*ids[:at], end, end]
            if logps is not None:
                logps[row] = [*logps[row][:at], math.nan, math.nan]
    return completions, logps


def ended_twice(completions: Tensor, mask: Tensor, end: int) -> Tensor:
    """(B,), bool: the completions that `without_vision` has cut.

    Args:
        completions: (B, C), their tokens.
        mask: (B, C), 1 for those that are not padding.
        end: the token that ends a completion.
    """
    ends = (completions == end) & mask.bool()
    return (ends[:, :-1] & ends[:, 1:]).any(dim=1)
