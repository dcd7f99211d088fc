"""Rows of a text model as SFTTrainer takes them: tokens; with images TRL's collator makes them."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
from trl.data_utils import apply_chat_template

from coldstart.spec import Conversation
from coldstart_trainer import conversation as chat

_IGNORED = -100
"""The label of a token that is not learnt."""


def tokenized(
    data: datasets.Dataset, tokenizer: Any, conversation: Conversation
) -> datasets.Dataset:
    """The rows with `input_ids` and `labels`, of which only the response's are learnt.

    They are made when a row is asked for, as with images. SFTTrainer itself would make them all
    first, and takes no rows with a transform unless they are tokens.
    """
    return data.remove_columns("images").with_transform(
        partial(_with_tokens, tokenizer=tokenizer, conversation=conversation)
    )


def _with_tokens(
    batch: dict[str, list[Any]], tokenizer: Any, conversation: Conversation
) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    for problem, response in zip(batch["problem"], batch["response"], strict=True):
        messages = {
            "prompt": chat.prompt(problem, 0, conversation),
            "completion": chat.response(response),
        }
        texts = apply_chat_template(messages, tokenizer)
        # Apart, as TRL's collator for images does it: the prompt has the tokens of a rollout.
        prompt, completion = (
            tokenizer(texts[name], add_special_tokens=False)["input_ids"] for name in messages
        )
        made["input_ids"].append(prompt + completion)
        made["labels"].append([_IGNORED] * len(prompt) + completion)
    return made
