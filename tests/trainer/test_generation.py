"""Responses: decided by rows, seed and batch alone, the same after a kill."""

import pytest
import torch
from transformers import GenerationConfig

from coldstart.dataset import Dataset
from coldstart.evaluation import Decoding
from coldstart_trainer import data
from coldstart_trainer.generation import encode, generate
from coldstart_trainer.model import image_token_ids, load_model

GREEDY = Decoding()
SAMPLED = Decoding(temperature=1.0, samples=2)


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_model(tiny_model, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def rows(tiny_rows, processor, conversation):
    return data.load(
        Dataset(name=tiny_rows.name, limit=7),
        target="answer",
        conversation=conversation,
        processor=processor,
        workdir=tiny_rows.parent,
        seed=0,
        field="spec.evaluation.benchmarks[0].dataset",
    ).data


@pytest.fixture
def answers(policy, processor, rows, conversation):
    def call(decoding=GREEDY, *, batch_size=3, seed=1, spec=conversation, model=policy, **more):
        rounds = generate(
            model,
            processor,
            more.pop("rows", rows),
            conversation=spec,
            decoding=decoding,
            batch_size=batch_size,
            seed=seed,
            **more,
        )
        return {(c.row, c.sample): c for completions in rounds for c in completions}

    return call


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_every_row_is_answered_and_again_in_the_same_way(answers, decoding):
    first = answers(decoding)
    assert set(first) == {(row, s) for row in range(7) for s in range(decoding.samples)}
    assert answers(decoding) == first


def test_the_seed_decides_what_is_sampled_and_not_what_is_greedy(answers):
    assert answers(SAMPLED, seed=1) != answers(SAMPLED, seed=2)
    assert answers(GREEDY, seed=1) == answers(GREEDY, seed=2)


def test_a_greedy_answer_is_the_likeliest_token_each_time(
    answers, policy, processor, rows, conversation
):
    """An independent forward pass, a row at a time, agrees."""
    spec = conversation.model_copy(update={"max_completion_tokens": 6})
    found = answers(batch_size=7, spec=spec)
    banned = image_token_ids(processor)
    for index in range(3):
        inputs = encode(processor, rows[index : index + 1], spec)
        ids, types = inputs.pop("input_ids"), inputs.pop("mm_token_type_ids")
        inputs.pop("attention_mask")
        start = ids.shape[1]
        for _ in range(6):
            with torch.no_grad():
                logits = policy(input_ids=ids, mm_token_type_ids=types, **inputs).logits[0, -1]
            logits[banned] = -torch.inf
            ids = torch.cat([ids, logits.argmax().view(1, 1)], 1)
            types = torch.cat([types, torch.zeros(1, 1, dtype=types.dtype)], 1)
            if ids[0, -1] == processor.tokenizer.eos_token_id:
                break
        text = processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True)
        assert found[index, 0].text == text


def test_batches_do_not_draw_the_same_numbers(answers):
    """Were they all seeded alike, the responses to one problem would be copies."""
    found = answers(Decoding(temperature=1.0, samples=6), batch_size=1)
    assert len({c.text for (row, _), c in found.items() if row == 0}) > 1


@pytest.mark.parametrize("missing", [{(0, 0)}, {(1, 1), (5, 0)}, {(6, 0), (6, 1), (2, 1)}])
def test_missing_responses_come_out_as_they_would_have(answers, missing):
    whole = answers(SAMPLED)
    again = answers(SAMPLED, done=set(whole) - missing)
    assert missing <= set(again) < set(whole)
    assert all(whole[key] == completion for key, completion in again.items())
    assert answers(SAMPLED, done=set(whole)) == {}


def test_progress_counts_what_was_there_before(answers):
    told = []
    keys = set(answers())
    answers(on_progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 7), (3, 7), (6, 7), (7, 7)]
    told.clear()
    answers(done=keys, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(7, 7)]


def test_length_and_truncation(answers, policy, processor, conversation):
    """A model that ends at once, and one that never does."""
    spec = conversation.model_copy(update={"max_completion_tokens": 5})
    eos = processor.tokenizer.eos_token_id

    class Biased(torch.nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.bias = bias

        def forward(self, hidden):
            logits = head(hidden)
            logits[..., eos] += self.bias
            return logits

    head = policy.lm_head
    try:
        policy.lm_head = Biased(1e4)
        assert {(c.text, c.tokens, c.truncated) for c in answers(spec=spec).values()} == {
            ("", 1, False)
        }
        policy.lm_head = Biased(-1e4)
        # The end of text ends a response as well; what is left are those that used up all.
        assert {c.tokens for c in answers(spec=spec).values() if c.truncated} == {5}
    finally:
        policy.lm_head = head
    shorter = Decoding(max_completion_tokens=2)
    assert max(c.tokens for c in answers(shorter, spec=spec).values()) <= 2


def test_image_tokens_are_never_sampled(answers, policy, processor):
    """Were one sampled, the next forward pass would look for an image that is not there."""
    banned = image_token_ids(processor)
    head = policy.lm_head

    class Eager(torch.nn.Module):
        def forward(self, hidden):
            logits = head(hidden)
            logits[..., banned] += 1e4
            return logits

    try:
        policy.lm_head = Eager()
        found = answers(SAMPLED)
    finally:
        policy.lm_head = head
    names = processor.tokenizer.convert_ids_to_tokens(banned)
    assert len(found) == 14
    assert not any(name in completion.text for completion in found.values() for name in names)


def test_the_models_own_generation_settings_have_no_say(answers, policy, processor):
    """Qwen2.5-VL's name a repetition penalty and a temperature of 1e-6."""
    expected = {decoding: answers(decoding) for decoding in (GREEDY, SAMPLED)}
    before = policy.generation_config
    hostile = GenerationConfig(
        do_sample=True,
        temperature=1e-6,
        top_k=1,
        repetition_penalty=1.9,
        no_repeat_ngram_size=1,
        min_new_tokens=30,
        eos_token_id=[processor.tokenizer.eos_token_id],
    )
    try:
        policy.generation_config = hostile
        assert {decoding: answers(decoding) for decoding in (GREEDY, SAMPLED)} == expected
        assert policy.generation_config is hostile
    finally:
        policy.generation_config = before


def test_training_is_not_disturbed(answers, policy):
    policy.train()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    answers(SAMPLED)
    assert torch.rand(4).equal(expected)
    assert policy.training
    policy.eval()


def test_padding_does_not_change_a_greedy_answer(answers):
    """Prompts of several lengths in one batch, and each by itself."""
    together, alone = answers(batch_size=7), answers(batch_size=1)
    assert {key: c.text for key, c in together.items()} == {key: c.text for key, c in alone.items()}


def test_rows_without_images_and_with_several(answers, picture, tmp_path, processor, conversation):
    import json

    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture(56, 28, ord(name)))
    lines = [
        {"images": [], "problem": "1+1?", "answer": "2"},
        {"images": ["a.png", "b.png"], "problem": "<image> or <image>?", "answer": "2"},
        {"images": ["a.png"], "problem": "What?", "answer": "2"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = data.load(
        Dataset(name="rows.jsonl"),
        target="answer",
        conversation=conversation,
        processor=processor,
        workdir=tmp_path,
        seed=0,
        field="f",
    ).data
    mixed = answers(rows=rows, batch_size=3)
    assert {key: c.text for key, c in mixed.items()} == {
        key: c.text for key, c in answers(rows=rows, batch_size=1).items()
    }
