"""Groups: which have nothing to teach, how they are dealt out, whose pixels are whose."""

import pytest
import torch

from coldstart_trainer.policy.pictures import RepeatedRows, by_prompt
from coldstart_trainer.policy.rollouts import Rollout, micro_batches, totals, without_variance
from coldstart_trainer.shared.rows import joined

NAN = float("nan")


@pytest.mark.parametrize(
    ("rewards", "equal"),
    [
        ([1, 1, 1, 1], True),
        ([0, 0, 0, 0], True),
        ([1, 0, 1, 1], False),
        ([0.3, 0.3 + 1e-8, 0.3, 0.3], True),  # rounding, not a difference
        ([0.3, 0.3001, 0.3, 0.3], False),  # small, but one; a test of the mean overlooks it
        ([-1, 1, -1, 1], False),  # its mean is 0
        ([NAN, 1, 1, 1], True),
        ([NAN, 1, 0, 1], False),
        ([NAN, NAN, NAN, NAN], True),
    ],
)
def test_groups_without_variance(rewards, equal):
    both = torch.tensor([[0.0, 1.0, 0.0, 1.0], rewards]).flatten()
    assert without_variance(both, 4).tolist() == [False, equal]


def test_rewards_are_added_up_as_trl_does():
    rewards = torch.tensor([[1.0, 2.0], [NAN, 2.0], [NAN, NAN]])
    found = totals(rewards, torch.tensor([0.5, 2.0]))
    assert found[:2].tolist() == [4.5, 4.0]
    assert found[2].isnan()


@pytest.mark.parametrize(("count", "group"), [(2, 3), (4, 3), (6, 6), (12, 4)])
def test_groups_stay_whole_when_they_are_shuffled(count, group):
    """Micro-batches of whole groups, or equal parts of one group in consecutive ones."""
    size = 12
    batch = {
        "completion_ids": torch.arange(size)[:, None],
        "pixel_values": [{"of": index // group} for index in range(size)],
        "num_items_in_batch": torch.tensor(7),
    }
    parts = micro_batches(batch, count, group, torch.Generator().manual_seed(2))
    rows = torch.cat([part["completion_ids"] for part in parts]).flatten()
    assert sorted(rows.tolist()) == list(range(size))
    blocks = (rows.view(-1, group) // group).tolist()
    assert all(len(set(block)) == 1 for block in blocks)
    orders = {
        tuple(micro_batches(batch, 1, group)[0]["completion_ids"].flatten().tolist())
        for _ in range(20)
    }
    assert len(orders) > 1
    for part in parts:
        of = [each["of"] for each in part["pixel_values"]]
        assert of == (part["completion_ids"].flatten() // group).tolist()
        assert part["num_items_in_batch"] == 7
        assert len(of) == size // count


def test_a_group_takes_the_place_of_another():
    def rollout(name, rewards):
        return Rollout(
            rows=[f"{name}{i}" for i in range(4)],
            prompt_ids=[[i] for i in range(4)],
            completion_ids=[[i] for i in range(4)],
            completions=[f"{name}-{i}" for i in range(4)],
            logprobs=None,
            pixels=[{} for _ in range(4)],
            rewards=torch.tensor(rewards)[:, None],
            group=2,
        )

    mine, other = rollout("a", [1.0, 1.0, 0.0, 1.0]), rollout("b", [0.0, 0.0, 1.0, 0.0])
    weights = torch.ones(1)
    assert mine.flat_groups(weights).tolist() == [True, False]
    mine.take(0, other, 1)
    assert mine.rows == ["b2", "b3", "a2", "a3"]
    assert mine.completions == ["b-2", "b-3", "a-2", "a-3"]
    assert mine.flat_groups(weights).tolist() == [False, False]


def test_pixels_come_apart_by_prompt_and_together_again():
    grids = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 4, 4]])
    patches = torch.arange(28.0)[:, None]
    fields = {"pixel_values": patches, "image_grid_thw": grids}
    parts = by_prompt(fields, [["a"], None, ["b", "c"], []])
    assert [len(each.get("pixel_values", ())) for each in parts] == [4, 0, 24, 0]
    assert torch.equal(joined(parts)["pixel_values"], patches)
    assert torch.equal(joined(parts)["image_grid_thw"], grids)
    assert parts[0]["pixel_values"].untyped_storage().nbytes() == 4 * patches.element_size()
    assert by_prompt({}, [None, None]) == [{}, {}]
    assert joined([{}, {}]) == {}


def test_rows_are_fetched_once_however_often_they_are_asked_for():
    fetched = []

    class Source:
        def __len__(self):
            return 9

        def __getitems__(self, indices):
            fetched.extend(indices)
            return [{"row": index} for index in indices]

    rows = RepeatedRows(Source())
    for _ in range(3):  # a sampling step's updates ask for the same ones
        found = rows.__getitems__([4, 4, 2, 2])
        assert [row["row"] for row in found] == [4, 4, 2, 2]
        assert found[0] is found[1]
    assert fetched == [4, 2]
    assert rows[5] == {"row": 5}
    assert fetched == [4, 2, 5]
    assert len(rows) == 9
