"""Regret of the tabular agents on small random processes.

Every agent plays the same processes (hyperact.trainer.tabular.mdp: 6 layers of 4 states, 3 actions, normal rewards),
drawn from seeds 0, 1, ...; what each episode's policy is worth less than the best is computed, not played. HyperAgent
has the noise scale and the prior of RLSVI; the prior mean of a reward is 0.5 for all, PSRL included. Greedy is RLSVI
without noise. HyperAgent has an index for each state unless it says otherwise.

    nice python benchmarks/tabular.py --processes 20 --episodes 1000
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hyperact.trainer.tabular.bellman import Planning, Prior
from hyperact.trainer.tabular.hyperagent import TabularHyperAgent
from hyperact.trainer.tabular.mdp import Mdp, random_mdp
from hyperact.trainer.tabular.psrl import ProcessPrior, Psrl
from hyperact.trainer.tabular.regret import TabularAgent, regrets
from hyperact.trainer.tabular.rlsvi import Rlsvi

results = Path(__file__).parent / "results"
pictures = Path(__file__).parents[1] / "docs" / "images"
Make = Callable[[Mdp, np.random.Generator], TabularAgent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--deviation", type=float, default=1.0, help="of the prior, in units of reward")
    parser.add_argument("--noise", type=float, default=0.5, help="scale of a visit's noise: that of the rewards")
    arguments = parser.parse_args()
    makers = make_makers(arguments.deviation, arguments.noise)
    curves = {
        name: np.stack([curve(make, seed, arguments.episodes) for seed in range(arguments.processes)])
        for name, make in makers.items()
    }
    rows = [summary(name, curves[name]) for name in curves]
    write(rows, results / "tabular.csv")
    for row in rows:
        print(row)
    draw(curves, pictures / "tabular.png")


def make_makers(deviation: float, noise: float) -> dict[str, Make]:
    def hyperagent(index_dim: int, *, has_state_indices: bool) -> Make:
        return lambda mdp, rng: TabularHyperAgent(
            believed(mdp, deviation, noise), Planning(mdp.horizon), index_dim, rng, has_state_indices=has_state_indices
        )

    makers: dict[str, Make] = {
        f"HyperAgent, M = {index_dim}": hyperagent(index_dim, has_state_indices=True) for index_dim in (1, 2, 4, 8, 16)
    }
    return {
        **makers,
        "HyperAgent, M = 8, one index": hyperagent(8, has_state_indices=False),
        "RLSVI": lambda mdp, _: Rlsvi(believed(mdp, deviation, noise), Planning(mdp.horizon)),
        "PSRL": lambda mdp, _: Psrl(ProcessPrior(mdp.moves > 0), Planning(mdp.horizon)),
        "greedy": lambda mdp, _: Rlsvi(believed(mdp, 1e-3 * deviation, 1e-3 * noise), Planning(mdp.horizon)),
    }


def believed(mdp: Mdp, deviation: float, noise: float) -> Prior:
    left = np.repeat(np.arange(mdp.horizon, 0, -1.0), mdp.num_states // mdp.horizon)
    return Prior(np.tile(0.5 * left[:, np.newaxis], (1, mdp.num_actions)), deviation, noise)


def curve(make: Make, seed: int, num_episodes: int) -> np.ndarray:
    mdp = random_mdp(np.random.default_rng(seed))
    rng = np.random.default_rng((seed, 1))
    return np.cumsum(list(regrets(make(mdp, rng), mdp, num_episodes, rng)))


def summary(name: str, curves: np.ndarray) -> dict[str, object]:
    totals = curves[:, -1]
    last = curves[:, -1] - curves[:, -1 - curves.shape[1] // 10]
    return {
        "agent": name,
        "processes": len(curves),
        "episodes": curves.shape[1],
        "regret": round(float(totals.mean()), 1),
        "standard error": round(float(totals.std(ddof=1) / np.sqrt(len(totals))), 1),
        "regret per episode in the last tenth": round(float(last.mean() / (curves.shape[1] // 10)), 4),
    }


def write(rows: list[dict[str, object]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, several in curves.items():
        mean, error = several.mean(axis=0), several.std(axis=0, ddof=1) / np.sqrt(len(several))
        episodes = np.arange(1, several.shape[1] + 1)
        is_reference = not name.startswith("HyperAgent")
        (line,) = axes.plot(episodes, mean, label=name, linestyle="--" if is_reference else "-", linewidth=1.4)
        axes.fill_between(episodes, mean - error, mean + error, color=line.get_color(), alpha=0.15, linewidth=0)
    learning = [several.mean(axis=0)[-1] for name, several in curves.items() if name != "greedy"]
    axes.set_ylim(0.0, 1.3 * max(learning))
    axes.set_xlabel("episodes")
    axes.set_ylabel("regret, in units of reward")
    axes.set_title("Tabular agents on random processes: mean and standard error", fontsize=10)
    axes.annotate("greedy leaves the frame", (0.36, 0.97), xycoords="axes fraction", fontsize=8, va="top")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
