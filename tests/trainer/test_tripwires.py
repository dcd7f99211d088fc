"""Rewards that are zero for long are told."""

import math

from coldstart_trainer.tripwires import ZeroRewards

NAN = math.nan


def test_zero_steps_are_counted_for_each_reward_and_warned_of_once(caplog):
    zeros = ZeroRewards(["a", "b"])
    for step in range(1, 10):
        found = zeros.saw([[0, 0], [NAN, 0]])
        assert found == {"reward_zero_steps{a}": step, "reward_zero_steps{b}": step}
    assert caplog.text == ""
    for _ in range(3):
        zeros.saw([[0, 0], [0, NAN]])
    assert caplog.text.count("every reward (a, b) was 0") == 1
    assert "reward_timeouts_total" in caplog.text
    assert zeros.saw([[0, 0.5], [0, 0]]) == {"reward_zero_steps{a}": 13, "reward_zero_steps{b}": 0}


def test_one_reward_that_lives_is_no_warning(caplog):
    zeros = ZeroRewards(["a", "b"], limit=2)
    for _ in range(5):
        zeros.saw([[0, 1], [0, 0]])
    assert caplog.text == ""
