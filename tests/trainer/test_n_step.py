from typing import Any

import numpy as np
import pytest

from hyperact.trainer import n_step
from hyperact.trainer.n_step import NStepAssembler, NStepTransition
from toy_trainer import transition


def shown(out: list[NStepTransition]) -> list[tuple[int, Any, Any]]:
    """Return (first step, reward, discount) of each."""
    return [(one.key.number, pytest.approx(one.reward), pytest.approx(one.discount)) for one in out]


class TestNStepAssembler:
    def test_rewards_are_summed_with_their_discounts(self) -> None:
        """Three rewards of 1, 2 and 4 at discount 1/2 are 1 + 1 + 1, and the value after them weighs 1/8."""
        assembler = NStepAssembler(3, 0.5)

        out = assembler.push([transition(0, 1.0), transition(1, 2.0), transition(2, 4.0), transition(3, 8.0)])

        assert [(0, 3.0, 0.125), (1, 6.0, 0.125)] == shown(out)
        np.testing.assert_array_equal([3.0] * 3, out[0].next_observation)
        assert 3 == out[0].next_number

    def test_one_step_is_passed_on_at_once(self) -> None:
        """A single step waits for nothing."""
        out = NStepAssembler(1, 0.9).push([transition(0, 1.0)])

        assert [(0, 1.0, 0.9)] == shown(out)

    def test_termination_cuts_the_sums_and_the_bootstrap(self) -> None:
        """After the task's end there is no value: the discount is 0, for every sum that reaches it."""
        out = NStepAssembler(3, 0.5).push([transition(0, 1.0), transition(1, 2.0, terminated=True)])

        assert [(0, 2.0, 0.0), (1, 2.0, 0.0)] == shown(out)

    def test_truncation_cuts_the_sums_and_keeps_the_bootstrap(self) -> None:
        """A time limit is not an end of the task: what follows the true last observation still counts."""
        out = NStepAssembler(3, 0.5).push([transition(0, 1.0), transition(1, 2.0, truncated=True)])

        assert [(0, 2.0, 0.25), (1, 2.0, 0.5)] == shown(out)
        assert all(one.next_number is None for one in out)
        np.testing.assert_array_equal([2.0] * 3, out[1].next_observation)

    def test_episodes_do_not_mix(self) -> None:
        """Two sessions' steps come interleaved, and each sums its own."""
        steps = [
            transition(number, reward, session=name) for number in range(3) for name, reward in (("a", 1.0), ("b", 8.0))
        ]

        out = NStepAssembler(2, 0.5).push(steps)

        sums = {(one.key.session, one.key.number): one.reward for one in out}
        assert {("a", 0): 1.5, ("a", 1): 1.5, ("b", 0): 12.0, ("b", 1): 12.0} == sums

    @pytest.mark.parametrize(
        ("order", "has_end"),
        [
            ((3, 4, 5, 0, 1, 2), False),
            ((5, 4, 3, 2, 1, 0), False),
            ((0, 2, 4, 1, 3, 5), False),
            ((3, 4, 5, 0, 1, 2), True),
        ],
    )
    def test_steps_may_come_in_any_order(self, order: tuple[int, ...], has_end: bool) -> None:
        """A session that changed its worker is read from two partitions: the sums are the same."""
        steps = [transition(number, float(number), terminated=has_end and number == 5) for number in range(6)]
        in_order = NStepAssembler(3, 0.5).push(steps)

        mixed = NStepAssembler(3, 0.5).push([steps[number] for number in order])

        assert shown(in_order) == sorted(shown(mixed), key=lambda one: one[0])

    def test_a_missing_step_cuts_the_sums_before_it(self) -> None:
        """Step 2 never had a reward: what came before it bootstraps there, and nothing waits for ever."""
        steps = [transition(number, 1.0) for number in (0, 1, 3, 4)] + [transition(5, 1.0, terminated=True)]

        out = NStepAssembler(3, 0.5).push(steps)

        by_number = {one.key.number: (one.reward, one.discount) for one in out}
        assert (1.5, 0.25) == by_number[0]
        assert (1.0, 0.5) == by_number[1]
        assert {0, 1, 3, 4, 5} == by_number.keys()

    def test_the_mask_is_that_of_the_observation_bootstrapped_from(self) -> None:
        """What is allowed n steps later decides over which actions the maximum goes."""
        out = NStepAssembler(2, 0.5).push([transition(0, mask=b"\x01\x00"), transition(1, mask=b"\x00\x01")])

        assert [b"\x00\x01"] == [one.next_action_mask for one in out]

    def test_the_sign_view_clips_each_reward(self) -> None:
        """Atari learns from the sign of each reward, not of their sum."""
        out = NStepAssembler(2, 0.5, "sign").push([transition(0, 7.0), transition(1, -3.0)])

        assert [(0, 0.5, 0.25)] == shown(out)

    def test_abandoned_episodes_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sessions that vanish in mid-episode do not fill the memory, and their last steps are learned from."""
        monkeypatch.setattr(n_step, "max_open_episodes", 3)
        assembler = NStepAssembler(5, 0.5)

        out = assembler.push(transition(0, 1.0, session=f"agent-{number}") for number in range(10))

        assert 7 == len(out)
