"""Small random decision processes with a fixed horizon, and what policies are truly worth in them.

A process has H layers of W states each. An episode begins in a random state of the first layer, moves on by one layer
each step, and ends after the last. Every state and action has a distribution over the next layer's states, drawn from
Dirichlet(1, ..., 1), and a mean reward, drawn uniformly from (0, 1); rewards are normal around it.

So every state has its own time, and H sweeps over all states are exact value iteration without discounting.

Letters: S = H W states, A actions.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Ints = NDArray[np.intp]
the_end = -1


class Visit(NamedTuple):
    """One step: `next_state` is `the_end` after the last layer."""

    state: int
    action: int
    reward: float
    next_state: int


@dataclass(frozen=True)
class Mdp:
    """One decision process.

    Attributes:
        moves: float64 [S, A, S], the probabilities of the next state; rows of the last layer are all zero.
        rewards: float64 [S, A], their means.
        begins: float64 [S], the distribution of the first state.
        horizon: H.
        reward_deviation: of every reward around its mean.
    """

    moves: Float64s
    rewards: Float64s
    begins: Float64s
    horizon: int
    reward_deviation: float

    @property
    def num_states(self) -> int:
        """S."""
        return len(self.rewards)

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.rewards.shape[1])

    def best_return(self) -> float:
        """Return what an episode is worth that knows everything."""
        values = np.zeros(self.num_states)
        for _ in range(self.horizon):
            values = (self.rewards + self.moves @ values).max(axis=1)
        return float(self.begins @ values)

    def expected_return(self, policy: Ints) -> float:
        """Return what an episode by a policy, an action for each state [S], is worth: exactly."""
        states = np.arange(self.num_states)
        values = np.zeros(self.num_states)
        for _ in range(self.horizon):
            values = self.rewards[states, policy] + self.moves[states, policy] @ values
        return float(self.begins @ values)

    def play(self, policy: Ints, rng: np.random.Generator) -> list[Visit]:
        """Play one episode."""
        visits = []
        state = int(rng.choice(self.num_states, p=self.begins))
        for number in range(self.horizon):
            action = int(policy[state])
            reward = float(rng.normal(self.rewards[state, action], self.reward_deviation))
            is_last = number == self.horizon - 1
            after = the_end if is_last else int(rng.choice(self.num_states, p=self.moves[state, action]))
            visits.append(Visit(state, action, reward, after))
            state = after
        return visits


def random_mdp(
    rng: np.random.Generator, horizon: int = 6, width: int = 4, num_actions: int = 3, reward_deviation: float = 0.5
) -> Mdp:
    """Draw a process."""
    num_states = horizon * width
    moves = np.zeros((num_states, num_actions, num_states))
    for layer in range(horizon - 1):
        here, after = slice(layer * width, (layer + 1) * width), slice((layer + 1) * width, (layer + 2) * width)
        moves[here, :, after] = rng.dirichlet(np.ones(width), size=(width, num_actions))
    begins = np.zeros(num_states)
    begins[:width] = 1.0 / width
    return Mdp(moves, rng.uniform(size=(num_states, num_actions)), begins, horizon, reward_deviation)
