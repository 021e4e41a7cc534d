"""The replay buffer: what is learned from, and what the frozen prior says of it.

The rules:

1. Observations lie in a ring of their own. Consecutive transitions of an episode share theirs: the next observation of
   one is the observation of a later one, stored once.
2. What the prior says without the index (its coefficients, where it is affine) is computed once per observation, when
   it is stored, in batches; updates never run that part of it.
3. A transition may use observations that were stored up to `_window` observations before it, so it is good until the
   ring has moved on by the ring's size less the window. The oldest transitions leave first.
4. What is stored depends on the transitions and on how they were grouped into calls, and on nothing else. Perturbation
   and mask are functions of the transition's step id, fixed when it is stored.

Letters: B batch size, A num_actions, M index_dim.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.n_step import NStepTransition
from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, derive_mask, derive_perturbation
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.tensors import numpy_dtype

Observations = NDArray[Any]
Prior = Callable[[Observations], Float32s]

# Transitions are stored in chunks of this size, so that the prior's batches are of one size wherever they come from.
chunk_size = 256

_PlaceKey = tuple[str, str, int, int]  # session, run, episode, number


class Batch(NamedTuple):
    """Transitions drawn from the replay buffer."""

    observations_tm1: Observations  # the spec's dtype [B, *shape]
    actions_tm1: NDArray[np.int64]  # [B]
    prior_tm1: Float32s  # [B, A, M + 1], or whatever the prior says without the index
    perturbations_tm1: Float32s  # [B, M]
    masks_tm1: Float32s  # [B, M], 1 for each member of an ensemble that learns from the transition, else 0
    rewards_t: Float32s  # [B], discounted sums
    discounts_t: Float32s  # [B]
    observations_t: Observations  # the spec's dtype [B, *shape]
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
        prior_shape: tuple[int, ...] | None = None,
        has_gaussian_perturbations: bool = False,
        mask_probability: float = 1.0,
    ) -> None:
        """Make room for `capacity` transitions.

        Args:
            spec: the model's.
            capacity: transitions.
            prior: maps observations [N, *shape] to float32 [N, *prior_shape].
            prior_shape: None: that of coefficients, [A, M + 1].
            has_gaussian_perturbations: standard normal ones, else on the unit sphere.
            mask_probability: the chance that a member of an ensemble learns from a transition.
        """
        num_actions, index_dim = spec.action.discrete.num_actions, spec.index_dim
        self._prior = prior
        self._perturbation_distribution = GAUSSIAN if has_gaussian_perturbations else UNIT_SPHERE
        self._mask_probability = mask_probability
        self._num_actions = num_actions
        self._index_dim = index_dim
        self._capacity = capacity
        self._window = max(chunk_size, capacity // 8)
        self._ring = capacity + self._window + 2 * chunk_size
        shape = tuple(spec.observation.shape)
        # Zeros take memory only when they are written.
        self._observations: Observations = np.zeros((self._ring, *shape), numpy_dtype(spec.observation.dtype))
        self._prior_answers = np.zeros((self._ring, *(prior_shape or (num_actions, index_dim + 1))), np.float32)
        self._places: OrderedDict[_PlaceKey, int] = OrderedDict()
        self._num_observations = 0

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
    def num_added(self) -> int:
        """How many transitions were ever added."""
        return self._end

    def add(self, transitions: Sequence[NStepTransition]) -> None:
        """Store transitions; the oldest make room."""
        for start in range(0, len(transitions), chunk_size):
            first_new = self._num_observations
            for transition in transitions[start : start + chunk_size]:
                self._add_one(transition)
            self._ask_prior(first_new)

    def sample(self, rng: np.random.Generator, batch_size: int) -> Batch:
        """Draw a batch. ValueError if there is nothing to draw."""
        rows = rng.integers(self._begin, self._end, size=batch_size) % self._capacity
        slots = self._observation_of[rows] % self._ring
        next_slots = self._next_observation_of[rows] % self._ring
        return Batch(
            observations_tm1=self._observations[slots],
            actions_tm1=self._actions[rows],
            prior_tm1=self._prior_answers[slots],
            perturbations_tm1=self._perturbations[rows],
            masks_tm1=self._masks[rows],
            rewards_t=self._rewards[rows],
            discounts_t=self._discounts[rows],
            observations_t=self._observations[next_slots],
            prior_t=self._prior_answers[next_slots],
            is_allowed_t=self._is_allowed[rows],
        )

    def recent_observations(self, number: int) -> Observations:
        """Return a copy of the newest observations that transitions begin with, oldest first: [<= number, *shape]."""
        rows = np.arange(max(self._begin, self._end - number), self._end) % self._capacity
        return self._observations[self._observation_of[rows] % self._ring]

    def _add_one(self, transition: NStepTransition) -> None:
        key = transition.key
        row = self._end % self._capacity
        observation = self._place(transition.observation, (key.session, key.run, key.episode, key.number))
        next_place = None
        if transition.next_number is not None:
            next_place = (key.session, key.run, key.episode, transition.next_number)
        self._observation_of[row] = observation
        self._next_observation_of[row] = self._place(transition.next_observation, next_place)
        self._good_until[row] = self._num_observations + self._ring - self._window
        self._actions[row] = transition.action
        self._rewards[row] = transition.reward
        self._discounts[row] = transition.discount
        self._perturbations[row] = derive_perturbation(key, self._index_dim, self._perturbation_distribution)
        if self._mask_probability < 1:
            self._masks[row] = derive_mask(key, self._index_dim, self._mask_probability)
        self._is_allowed[row] = _mask(transition.next_action_mask, self._num_actions)
        self._end += 1
        self._begin = max(self._begin, self._end - self._capacity)
        while self._good_until[self._begin % self._capacity] < self._num_observations:
            self._begin += 1

    def _place(self, observation: Observations, place: _PlaceKey | None) -> int:
        """Return the number of an observation, storing it unless it was stored lately."""
        while self._places and next(iter(self._places.values())) < self._num_observations - self._window + 2:
            self._places.popitem(last=False)
        if place is not None and place in self._places:
            return self._places[place]
        number = self._num_observations
        self._observations[number % self._ring] = observation
        self._num_observations += 1
        if place is not None:
            self._places[place] = number
        return number

    def _ask_prior(self, first: int) -> None:
        slots = np.arange(first, self._num_observations) % self._ring
        if len(slots):
            self._prior_answers[slots] = self._prior(self._observations[slots])


def _mask(action_mask: bytes, num_actions: int) -> NDArray[np.bool_]:
    """Return the allowed actions; an empty mask allows all."""
    if not action_mask:
        return np.ones(num_actions, np.bool_)
    return np.frombuffer(action_mask, np.uint8).astype(np.bool_)
