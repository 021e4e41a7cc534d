from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperact.trainer.n_step import NStepAssembler, NStepTransition
from hyperact.trainer.observations import ObservationRing, Observations
from hyperact.trainer.replay import Replay
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.transitions import Transition
from toy_trainer import key
from toys import toy_spec

Stacks = NDArray[np.uint8]


def stack_spec() -> ModelSpec:
    """Return the spec of three stacked frames of two bytes."""
    return toy_spec(observation_shape=(3, 2), observation_dtype=np.uint8)


def stacks(num_frames: int, rng: np.random.Generator) -> list[Stacks]:
    """Return an episode's observations: the first frame stands for those before it."""
    frames = rng.integers(0, 3, size=(num_frames, 2)).astype(np.uint8)
    padded = np.concatenate([frames[:1], frames[:1], frames])
    return [padded[start : start + 3] for start in range(num_frames)]


def episode_transitions(observations: list[Stacks], episode: int, *, terminated: bool) -> list[NStepTransition]:
    """Return an episode's sums of two rewards; the action's parity is the step's."""
    last = len(observations) - 2
    steps = [
        Transition(
            key=key(episode, number),
            observation=observations[number],
            action=number % 2,
            reward=float(number),
            next_observation=observations[number + 1],
            terminated=terminated and number == last,
            truncated=not terminated and number == last,
            propensity=1.0,
            version="",
            deployment=0,
            action_mask=b"",
            next_action_mask=b"",
        )
        for number in range(last + 1)
    ]
    return NStepAssembler(2, 0.9).push(steps)


def sums_prior(observations: Observations) -> Float32s:
    """Answer the sum of an observation for everything."""
    answer = np.zeros((len(observations), 2, 5), np.float32)
    answer += observations.reshape(len(observations), -1).sum(1)[:, None, None]
    return answer


class TestObservationRing:
    def test_a_stack_adds_one_frame_to_the_one_before_it(self) -> None:
        """A long episode takes one slot a step, however many frames an observation shows."""
        ring = ObservationRing(stack_spec(), size=1000, window=100, num_stacked=3)
        observations = stacks(200, np.random.default_rng(0))

        number = None
        numbers = []
        for observation in observations:
            number = ring.store(observation, before=number)
            numbers.append(number)

        assert 200 == ring.num_slots
        np.testing.assert_array_equal(observations, ring.take(np.array(numbers)))

    def test_frames_that_differ_are_never_shared(self) -> None:
        """An observation that does not continue the one named before it keeps its own frames."""
        ring = ObservationRing(stack_spec(), size=100, window=50, num_stacked=3)
        first, second = np.arange(6, dtype=np.uint8).reshape(3, 2), np.arange(10, 16, dtype=np.uint8).reshape(3, 2)

        numbers = [ring.store(first)]
        numbers.append(ring.store(second, before=numbers[0]))

        np.testing.assert_array_equal([first, second], ring.take(np.array(numbers)))

    def test_a_spec_without_such_a_stack_is_refused(self) -> None:
        """A wrong declaration is told at once."""
        with pytest.raises(ValueError, match=r"4 stacked frames, got the shape \(3, 2\)"):
            ObservationRing(stack_spec(), size=100, window=50, num_stacked=4)


class TestReplayOfStacks:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("capacity", [1, 40, 700])
    def test_what_is_drawn_is_what_went_in(self, capacity: int, seed: int) -> None:
        """Over many turns of the ring and episodes of all lengths, drawn transitions are those of a plain list."""
        rng = np.random.default_rng(seed)
        replay = Replay(stack_spec(), capacity, sums_prior, num_stacked=3)
        added: list[NStepTransition] = []
        for episode in range(60):
            observations = stacks(int(rng.integers(2, 90)), rng)
            transitions = episode_transitions(observations, episode, terminated=bool(rng.integers(2)))
            replay.add(transitions)
            added += transitions

        batch = replay.sample(rng, 500)

        assert 0 < len(replay) <= capacity
        assert _drawn(batch) <= {_plain(transition) for transition in added[-len(replay) :]}
        sums = batch.observations_tm1.reshape(500, -1).sum(1)
        np.testing.assert_array_equal(sums, batch.prior_tm1[:, 0, 0], "prior and observation disagree")

    def test_long_episodes_fill_the_buffer(self) -> None:
        """Sharing does not cost capacity: with long episodes all of it can be drawn."""
        replay = Replay(stack_spec(), 500, sums_prior, num_stacked=3)
        replay.add(episode_transitions(stacks(2000, np.random.default_rng(0)), 0, terminated=False))

        assert 500 == len(replay)

    @pytest.mark.parametrize("num_frames", [300, 2000])
    def test_a_state_round_trips(self, num_frames: int) -> None:
        """A buffer that takes on another's state draws the same, before and after more is added."""
        rng = np.random.default_rng(0)
        first, second = (Replay(stack_spec(), 500, sums_prior, num_stacked=3) for _ in range(2))
        first.add(episode_transitions(stacks(num_frames, rng), 0, terminated=True))
        second.set_state({name: array.copy() for name, array in first.get_state().items()})

        more = episode_transitions(stacks(400, rng), 1, terminated=True)
        drawn = []
        for replay in (first, second):
            before = replay.sample(np.random.default_rng(1), 50)
            replay.add(more)
            drawn.append((before, replay.sample(np.random.default_rng(2), 50)))

        for one, other in zip(*drawn, strict=True):
            for field in one.__slots__:
                np.testing.assert_array_equal(getattr(one, field), getattr(other, field), field)


def _plain(transition: NStepTransition) -> tuple[Any, ...]:
    end = transition.next_observation.tobytes() if transition.discount else b""
    return transition.observation.tobytes(), transition.action, np.float32(transition.reward), end


def _drawn(batch: Any) -> set[tuple[Any, ...]]:
    return {
        (here.tobytes(), int(action), reward, there.tobytes() if discount else b"")
        for here, action, reward, there, discount in zip(
            batch.observations_tm1,
            batch.actions_tm1,
            batch.rewards_t,
            batch.observations_t,
            batch.discounts_t,
            strict=True,
        )
    }
