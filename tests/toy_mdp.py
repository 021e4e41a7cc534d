"""A small stochastic decision process that hypermodels play, and their true values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.off_policy.components import index_persistence
from hyperact.trainer.off_policy.episodes import Episode
from hyperact.trainer.off_policy.policies import Policy
from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, index_bank
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.probabilities import Reference, each_probability
from hyperact.v1.steps import StepKey
from hyperact.v1.transitions import Transition
from toys import toy_spec

num_states, num_actions, index_dim = 6, 3, 4
reward_noise = 0.1


class ToyMdp:
    """Six states, three actions, noisy rewards; an episode begins in state 0 and has `horizon` steps.

    Observation: the state as one-hot and the step's number, float32 [7]; so the future is a matter of it alone.
    """

    def __init__(self, horizon: int = 5, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.horizon = horizon
        self.moves = random.dirichlet(np.ones(num_states), size=(num_states, num_actions))
        self.rewards = random.normal(size=(num_states, num_actions))

    def observe(self, state: int, number: int) -> Float32s:
        """Return what an agent sees."""
        observation = np.zeros(num_states + 1, np.float32)
        observation[state], observation[-1] = 1.0, number
        return observation

    def play(
        self, coefficients: Float32s, spec: ModelSpec, num_episodes: int, seed: int, version: str = "1"
    ) -> list[Episode]:
        """Return episodes by a policy with these coefficients per state, as the service would have logged them."""
        random = np.random.default_rng(seed)
        reference = Reference(spec.reference_distribution, index_bank(spec.index_dim, spec.reference_distribution))
        chances = each_probability(coefficients, None, reference)
        return [
            self._play_one(coefficients, chances, spec, episode, random, version) for episode in range(num_episodes)
        ]

    def play_uniformly(self, num_episodes: int, seed: int) -> list[Episode]:
        """Return episodes by the fallback."""
        coefficients = np.zeros((num_states, num_actions, 1), np.float32)
        random = np.random.default_rng(seed)
        episodes = []
        for episode in range(num_episodes):
            actions = random.integers(num_actions, size=self.horizon)
            chances = np.full((num_states, num_actions), 1 / num_actions)
            episodes.append(self._play_one(coefficients, chances, policy_spec(), episode, random, "", actions=actions))
        return episodes

    def value(self, coefficients: Float32s, spec: ModelSpec, num_indices: int = 40_000, seed: int = 99) -> float:
        """Return the true value: exact for each index, averaged over many."""
        indices = draw_indices(np.random.default_rng(seed), num_indices, spec)
        best = (coefficients[:, :, 0] + np.einsum("sam,nm->nsa", coefficients[:, :, 1:], indices)).argmax(axis=2)
        persistence = index_persistence(spec)
        if persistence == 0.0:
            chances = np.stack([(best == action).mean(axis=0) for action in range(num_actions)], axis=1)
            return self._value_of(chances[np.newaxis], 1.0)
        return self._value_of(np.eye(num_actions)[best], persistence)

    def _value_of(self, chances: NDArray[np.float64], persistence: float) -> float:
        """Return the mean value of policies [N, S, A] of which another takes over with some probability."""
        values = np.zeros(chances.shape[:2])
        for _ in range(self.horizon):
            mixed = persistence * values + (1 - persistence) * values.mean(axis=0)
            following = np.einsum("sax,nx->nsa", self.moves, mixed)
            values = (chances * (self.rewards + following)).sum(axis=2)
        return float(values[:, 0].mean())

    def _play_one(
        self,
        coefficients: Float32s,
        chances: NDArray[np.float64],
        spec: ModelSpec,
        episode: int,
        random: np.random.Generator,
        version: str,
        actions: Sequence[int] | NDArray[np.int64] = (),
    ) -> Episode:
        steps, state, segment, index = [], 0, 0, np.empty(0)
        for number in range(self.horizon):
            if not len(actions) and (number == 0 or random.random() >= index_persistence(spec)):
                segment, index = number, draw_indices(random, 1, spec)[0]
            values = coefficients[state, :, 0] + coefficients[state, :, 1:] @ index
            action = int(actions[number] if len(actions) else values.argmax())
            after = int(random.choice(num_states, p=self.moves[state, action]))
            steps.append(
                Transition(
                    key=StepKey("default", "agent", "run", episode, number),
                    observation=self.observe(state, number),
                    action=action,
                    reward=float(self.rewards[state, action] + reward_noise * random.normal()),
                    next_observation=self.observe(after, number + 1),
                    terminated=number + 1 == self.horizon,
                    truncated=False,
                    propensity=float(np.float32(chances[state, action])),
                    version=version,
                    deployment=1 if version else 0,
                    action_mask=b"",
                    next_action_mask=b"",
                    segment=segment,
                )
            )
            state = after
        return Episode(tuple(steps))


def policy_spec(**changes: Any) -> ModelSpec:
    """Return the spec of a policy that plays the toy; keywords are those of `toy_spec`."""
    return toy_spec(num_actions=num_actions, index_dim=index_dim, observation_shape=(num_states + 1,), **changes)


def draw_indices(random: np.random.Generator, num: int, spec: ModelSpec) -> NDArray[np.float64]:
    """Draw indices [N, M] from a spec's reference distribution."""
    if spec.reference_distribution in (GAUSSIAN, UNIT_SPHERE):
        normals = random.normal(size=(num, spec.index_dim))
        is_sphere = spec.reference_distribution == UNIT_SPHERE
        return normals / np.linalg.norm(normals, axis=1, keepdims=True) if is_sphere else normals
    bank = index_bank(spec.index_dim, spec.reference_distribution)
    return bank[random.integers(len(bank), size=num)].astype(np.float64)


def draw_coefficients(seed: int, near: Float32s | None = None, distance: float = 0.3) -> Float32s:
    """Return coefficients per state [6, 3, 5], at some distance from others if they are given."""
    drawn = np.random.default_rng(seed).normal(size=(num_states, num_actions, index_dim + 1))
    return (drawn if near is None else near + distance * drawn).astype(np.float32)


def make_policy(coefficients: Float32s, spec: ModelSpec, version: str, num_indices: int = 1024) -> Policy:
    """Return the policy with these coefficients per state, by its observations."""
    return Policy(version, spec, lambda observations: coefficients[observations[:, :-1].argmax(axis=1)], num_indices)
