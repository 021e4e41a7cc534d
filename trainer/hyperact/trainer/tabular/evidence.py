"""What was seen of a decision process, as sums over visits: all that value iteration needs.

Letters: S states, A actions.
"""

from collections.abc import Iterable

import numpy as np

from hyperact.trainer.tabular.mdp import Visit, the_end


class Evidence:
    """Sums over all visits so far.

    Attributes:
        num_visits: float64 [S, A], N.
        reward_sums: float64 [S, A].
        num_moves: float64 [S, A, S], how often each state came next; an end is none, and counts in N alone.
    """

    def __init__(self, num_states: int, num_actions: int) -> None:
        self.num_visits = np.zeros((num_states, num_actions))
        self.reward_sums = np.zeros((num_states, num_actions))
        self.num_moves = np.zeros((num_states, num_actions, num_states))

    def add(self, visits: Iterable[Visit]) -> None:
        """Take in some visits."""
        for state, action, reward, after in visits:
            self.num_visits[state, action] += 1.0
            self.reward_sums[state, action] += reward
            if after != the_end:
                self.num_moves[state, action, after] += 1.0
