"""The replay buffer: what is learned from, and what the frozen prior says of it.

The rules:

1. Observations lie in a ring of their own. Consecutive transitions of an episode share theirs: the next observation of
   one is the observation of a later one, stored once. Consecutive stacks of frames share their frames. While all
   observations are one-hot, and the learner has a use for it, only their positions are stored.
2. What the prior says without the index (its coefficients, where it is affine) is computed once per observation, when
   it is stored, in batches (once per position of one-hot ones); updates never run that part of it.
3. A transition may use what was stored up to `_window` slots before it, so it is good until the ring has moved on by
   the ring's size less the window. The oldest transitions leave first.
4. What is stored depends on the transitions and on how they were grouped into calls, and on nothing else. Perturbation
   and mask are functions of the transition's step id, fixed when it is stored.
5. `get_state` and `set_state` round-trip what can be drawn; what comes after shares no observation with it.

Letters: B batch size, A num_actions, M index_dim.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.observations import ObservationRing, Observations
from hyperact.trainer.positions import NotOneHotError, PositionRing, PriorTable
from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, derive_mask, derive_perturbation
from hyperact.v1.model_pb2 import ModelSpec

Prior = Callable[[Observations], Float32s]

# Transitions are stored in chunks of this size, so that the prior's batches are of one size wherever they come from.
chunk_size = 256

_PlaceKey = tuple[str, str, int, int]  # session, run, episode, number


class Batch(NamedTuple):
    """Transitions drawn from the replay buffer."""

    observations_tm1: Observations  # the spec's dtype [B, *shape]; int64 [B] where only positions are kept
    actions_tm1: NDArray[np.int64]  # [B]
    prior_tm1: Float32s  # [B, A, M + 1], or whatever the prior says without the index
    perturbations_tm1: Float32s  # [B, M]
    masks_tm1: Float32s  # [B, M], 1 for each member of an ensemble that learns from the transition, else 0
    rewards_t: Float32s  # [B], discounted sums
    discounts_t: Float32s  # [B]
    observations_t: Observations  # as observations_tm1
    prior_t: Float32s  # as prior_tm1
    is_allowed_t: NDArray[np.bool_]  # [B, A]


class Replay:
    """A ring buffer of transitions. Draws are uniform with replacement."""

    def __init__(
        self,
        spec: ModelSpec,
        capacity: int,
        prior: Prior,
        *,
        num_stacked: int = 1,
        prior_shape: tuple[int, ...] | None = None,
        has_gaussian_perturbations: bool = False,
        mask_probability: float = 1.0,
        prior_table: PriorTable | None = None,
    ) -> None:
        """Make room for `capacity` transitions.

        Args:
            spec: the model's.
            capacity: transitions.
            prior: maps observations [N, *shape] to float32 [N, *prior_shape].
            num_stacked: how many frames an observation stacks on its first axis, to store each once; 1: it is no stack.
            prior_shape: None: that of coefficients, [A, M + 1].
            has_gaussian_perturbations: standard normal ones, else on the unit sphere.
            mask_probability: the chance that a member of an ensemble learns from a transition.
            prior_table: the prior's answers by position, if one-hot observations may be kept as positions.
        """
        num_actions, index_dim = spec.action.discrete.num_actions, spec.index_dim
        self._spec = spec
        self._prior = prior
        self._prior_table = prior_table
        self._num_stacked = num_stacked
        self._perturbation_distribution = GAUSSIAN if has_gaussian_perturbations else UNIT_SPHERE
        self._mask_probability = mask_probability
        self._num_actions = num_actions
        self._index_dim = index_dim
        self._capacity = capacity
        self._window = max(chunk_size, capacity // 8, 8 * num_stacked)
        self._ring = capacity + self._window + 2 * chunk_size * num_stacked
        self._observations: ObservationRing | PositionRing
        if prior_table is not None and num_stacked == 1:
            self._observations = PositionRing(spec, self._ring, self._window)
        else:
            self._observations = self._make_whole_ring()
        # By the numbers of observations. Zeros take memory only when they are written.
        self._prior_answers = np.zeros((self._ring, *(prior_shape or (num_actions, index_dim + 1))), np.float32)
        self._places: OrderedDict[_PlaceKey, int] = OrderedDict()
        self._unasked: list[int] = []

        self._observation_of = np.zeros(capacity, np.int64)
        self._next_observation_of = np.zeros(capacity, np.int64)
        self._good_until = np.zeros(capacity, np.int64)
        self._actions = np.zeros(capacity, np.int64)
        self._rewards = np.zeros(capacity, np.float32)
        self._discounts = np.zeros(capacity, np.float32)
        self._perturbations = np.zeros((capacity, index_dim), np.float32)
        self._masks = np.ones((capacity, index_dim), np.float32)
        self._is_allowed = np.zeros((capacity, num_actions), np.bool_)
        self._begin = 0
        self._end = 0

    def __len__(self) -> int:
        """Return how many transitions can be drawn."""
        return self._end - self._begin

    @property
    def is_one_hot(self) -> bool:
        """Whether all observations so far were one-hot, only their positions are kept, and batches hold those."""
        return isinstance(self._observations, PositionRing)

    @property
    def num_added(self) -> int:
        """How many transitions were ever added."""
        return self._end

    def add(self, transitions: Sequence[NStepTransition]) -> None:
        """Store transitions; the oldest make room."""
        for start in range(0, len(transitions), chunk_size):
            for transition in transitions[start : start + chunk_size]:
                self._add_one(transition)
            self._ask_prior()

    def sample(self, rng: np.random.Generator, batch_size: int) -> Batch:
        """Draw a batch. ValueError if there is nothing to draw."""
        return self.take(rng.random(batch_size))

    def take(self, uniforms: NDArray[np.float64]) -> Batch:
        """Return the transitions that uniforms in [0, 1) choose. ValueError if there is nothing to choose from."""
        if not len(self):
            raise ValueError("the replay buffer is empty")
        rows = (self._begin + (uniforms * len(self)).astype(np.int64)) % self._capacity
        numbers, next_numbers = self._observation_of[rows], self._next_observation_of[rows]
        kept = self._observations
        take = kept.positions if isinstance(kept, PositionRing) else kept.take
        return Batch(
            observations_tm1=take(numbers),
            actions_tm1=self._actions[rows],
            prior_tm1=self._prior_answers[numbers % self._ring],
            perturbations_tm1=self._perturbations[rows],
            masks_tm1=self._masks[rows],
            rewards_t=self._rewards[rows],
            discounts_t=self._discounts[rows],
            observations_t=take(next_numbers),
            prior_t=self._prior_answers[next_numbers % self._ring],
            is_allowed_t=self._is_allowed[rows],
        )

    def recent_observations(self, number: int) -> Observations:
        """Return a copy of the newest observations that transitions begin with, oldest first: [<= number, *shape]."""
        rows = np.arange(max(self._begin, self._end - number), self._end) % self._capacity
        return self._observations.take(self._observation_of[rows])

    @property
    def num_bytes(self) -> int:
        """How much memory the full buffer takes."""
        arrays = sum(array.nbytes for array in self._transition_arrays().values())
        return self._observations.num_bytes + self._prior_answers.nbytes + arrays

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return what can be drawn, as views on the buffer: write it before the next transition is added."""
        used = min(self._end, self._capacity)
        state = {f"transitions/{name}": array[:used] for name, array in self._transition_arrays().items()}
        state |= {f"observations/{name}": array for name, array in self._observations.get_state().items()}
        state["prior_answers"] = self._prior_answers[: min(self._observations.num_slots, self._ring)]
        state["extent"] = np.array([self._begin, self._end], np.int64)
        return state

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take on what a buffer of the same settings held."""
        for name, array in self._transition_arrays().items():
            values = state[f"transitions/{name}"]
            array[: len(values)] = values
        if self.is_one_hot and "observations/positions" not in state:
            self._observations = self._make_whole_ring()
        prefix = "observations/"
        self._observations.set_state(
            {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        )
        self._prior_answers[: len(state["prior_answers"])] = state["prior_answers"]
        self._begin, self._end = (int(number) for number in state["extent"])
        self._places.clear()

    def _transition_arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "observation_of": self._observation_of,
            "next_observation_of": self._next_observation_of,
            "good_until": self._good_until,
            "actions": self._actions,
            "rewards": self._rewards,
            "discounts": self._discounts,
            "perturbations": self._perturbations,
            "masks": self._masks,
            "is_allowed": self._is_allowed,
        }

    def _add_one(self, transition: NStepTransition) -> None:
        key = transition.key
        row = self._end % self._capacity
        observation = self._place(transition.observation, (key.session, key.run, key.episode, key.number))
        next_place = None
        if transition.next_number is not None:
            next_place = (key.session, key.run, key.episode, transition.next_number)
        self._observation_of[row] = observation
        self._next_observation_of[row] = self._place(transition.next_observation, next_place)
        self._good_until[row] = self._observations.num_slots + self._ring - self._window
        self._actions[row] = transition.action
        self._rewards[row] = transition.reward
        self._discounts[row] = transition.discount
        self._perturbations[row] = derive_perturbation(key, self._index_dim, self._perturbation_distribution)
        if self._mask_probability < 1:
            self._masks[row] = derive_mask(key, self._index_dim, self._mask_probability)
        self._is_allowed[row] = _mask(transition.next_action_mask, self._num_actions)
        self._end += 1
        self._begin = max(self._begin, self._end - self._capacity)
        while self._good_until[self._begin % self._capacity] < self._observations.num_slots:
            self._begin += 1

    def _place(self, observation: Observations, place: _PlaceKey | None) -> int:
        """Return the number of an observation, storing it unless it was stored lately."""
        while self._places and not self._observations.is_fresh(next(iter(self._places.values()))):
            self._places.popitem(last=False)
        if place is None:
            return self._store(observation, None)
        known = self._places.get(place)
        if known is not None and self._observations.is_fresh(known):
            return known
        number = self._store(observation, self._places.get((*place[:3], place[3] - 1)))
        self._places[place] = number
        self._places.move_to_end(place)
        return number

    def _store(self, observation: Observations, before: int | None) -> int:
        try:
            number = self._observations.store(observation, before)
        except NotOneHotError:
            self._keep_whole()
            number = self._observations.store(observation, before)
        self._unasked.append(number)
        return number

    def _ask_prior(self) -> None:
        if self._unasked:
            numbers = np.array(self._unasked, np.int64)
            self._prior_answers[numbers % self._ring] = self._ask(numbers)
            self._unasked.clear()

    def _ask(self, numbers: NDArray[np.int64]) -> Float32s:
        if isinstance(self._observations, PositionRing) and self._prior_table is not None:
            return self._prior_table.answers(self._observations.positions(numbers))
        return self._prior(self._observations.take(numbers))

    def _make_whole_ring(self) -> ObservationRing:
        return ObservationRing(self._spec, self._ring, self._window, self._num_stacked)

    def _keep_whole(self) -> None:
        """Go on with whole observations, under the same numbers."""
        positions, self._observations = self._observations, self._make_whole_ring()
        first = max(0, positions.num_slots - self._ring)
        self._observations.num_slots = first
        for number in range(first, positions.num_slots):
            self._observations.store(positions.take(np.array([number]))[0])


def _mask(action_mask: bytes, num_actions: int) -> NDArray[np.bool_]:
    """Return the allowed actions; an empty mask allows all."""
    if not action_mask:
        return np.ones(num_actions, np.bool_)
    return np.frombuffer(action_mask, np.uint8).astype(np.bool_)
