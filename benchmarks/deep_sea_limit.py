"""How many episodes DeepSea takes an optimistic explorer that plans exactly, and what uneven optimism costs it.

No network and no learning: every state and action that was not tried is worth a bonus, every tried one what follows on
it, computed exactly before each episode; the agent takes the best. What is varied: how unevenly the bonuses are spread
(relative standard deviation; HyperAgent's prior at M = 4 has about a third), how far the values of tried actions are
off (in bonuses, drawn anew each episode), and the discount. Printed: episodes until the treasure is found, by N.

    python benchmarks/deep_sea_limit.py --sizes 20 40 --seeds 8
"""

import argparse
import statistics
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

max_episodes_per_size = 50


@dataclass(frozen=True)
class Explorer:
    """How far the explorer is from perfect."""

    bonus_spread: float
    value_error: float
    discount: float


explorers = [
    Explorer(0.0, 0.0, 0.99),
    Explorer(0.1, 0.0, 0.99),
    Explorer(0.35, 0.0, 0.99),
    Explorer(0.0, 0.01, 0.99),
    Explorer(0.0, 0.03, 0.99),
    Explorer(0.1, 0.01, 0.99),
    Explorer(0.1, 0.01, 0.97),
    Explorer(0.05, 0.005, 0.97),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 40])
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    print("| size | bonus spread | value error | discount | episodes / N |\n|---|---|---|---|---|")
    for size in arguments.sizes:
        for explorer in explorers:
            needed = statistics.fmean(episodes_to_find(size, seed, explorer) for seed in range(arguments.seeds))
            cells = (size, explorer.bonus_spread, explorer.value_error, explorer.discount, f"{needed / size:.1f}")
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def episodes_to_find(size: int, seed: int, explorer: Explorer) -> int:
    """Play until the treasure is found; return how many episodes that took."""
    rng = np.random.default_rng(seed)
    right_action = rng.integers(0, 2, (size, size))
    bonuses = 1.0 + explorer.bonus_spread * rng.standard_normal((size, size, 2))
    is_tried = np.zeros((size, size, 2), np.bool_)
    for episode in range(1, max_episodes_per_size * size + 1):
        values = plan(right_action, bonuses, is_tried, explorer, rng)
        column = 0
        for row in range(size):
            best = np.flatnonzero(values[row, column] == values[row, column].max())
            action = rng.choice(best)
            is_tried[row, column, action] = True
            goes_right = action == right_action[row, column]
            if goes_right and column == size - 1:
                return episode
            column = min(column + 1, size - 1) if goes_right else max(column - 1, 0)
    return max_episodes_per_size * size


def plan(
    right_action: NDArray[np.int64],
    bonuses: NDArray[np.float64],
    is_tried: NDArray[np.bool_],
    explorer: Explorer,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the values [N, N, 2]: the bonus where it was not tried, else the cost and the best that follows."""
    size = len(right_action)
    values = np.zeros((size, size, 2))
    following = np.zeros(size)
    columns = np.arange(size)
    for row in reversed(range(size)):
        for action in (0, 1):
            goes_right = right_action[row] == action
            next_columns = np.clip(np.where(goes_right, columns + 1, columns - 1), 0, size - 1)
            known = explorer.discount * following[next_columns] - 0.01 / size * goes_right
            known += explorer.value_error * rng.standard_normal(size)
            values[row, :, action] = np.where(is_tried[row, :, action], known, bonuses[row, :, action])
        following = values[row].max(1)
    return values


if __name__ == "__main__":
    main()
