"""Cumulative regret of one-shot agents on labelled data: ours, epsilon-greedy Double DQN of ours, and Vowpal Wabbit.

    python benchmarks/bandit.py run --data digits --seeds 10 11 12 13 14     # adds to bandit.csv and bandit_curves.csv
    python benchmarks/bandit.py show                                         # the tables, and docs/images/bandit.png

Every agent sees the same rows in the same order, and the same rewards are late or lost: those of `hyperact demo bandit
--seed`. Whatever never arrives is not learned from.

- hyperagent: the preset of one-shot agents, index_dim 8; learns in this process, at the demo's 19 moments.
- ddqn: the same torso, optimiser, updates and schedule, no index, no prior; takes a fixed share of its actions at
  random, at each of several shares.
- vw: `vw --cb_explore`, which learns at every reward that arrives, by the propensity that it acted with; with its
  default, and with each of its explorations at several strengths, features standardised alike, with and without all
  products of two features.
- service: what `hyperact demo bandit` wrote (`--service FOLDER` reads its regret.csv).
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperact.clients.demo.bandit import geometric_schedule, index_dim
from hyperact.clients.labels import Labels, environment_id
from hyperact.clients.late_rewards import LateRewards

results = Path(__file__).parent / "results"
picture = Path(__file__).parents[1] / "docs/images/bandit.png"
num_decisions, max_delay, lost_share = 10_000, 99, 0.1
schedule = geometric_schedule(50, num_decisions, 19)
marks = (100, 500, 1000, 2000, 5000, 10_000)
epsilons = (0.02, 0.1)
vw_arguments = (
    "",
    "--epsilon 0.02",
    "--bag 5 --greedify",
    "--cover 3",
    "--squarecb --gamma_scale 100",
    "--regcbopt --mellowness 0.001",
    "--first 400 --quadratic xx",
    "--squarecb --gamma_scale 100 --quadratic xx",
    "--softmax --lambda 20",
    "--softmax --lambda 20 --quadratic xx",
    "--softmax --lambda 20 --quadratic xx -l 1",
)

Floats = NDArray[np.float64]


def regret_of(
    data: str,
    seed: int,
    decide: Callable[[int, NDArray[np.float32]], tuple[int, float]],
    learn: Callable[[tuple[int, NDArray[np.float32], int, float], float], None],
    pause: Callable[[], None],
) -> Floats:
    """Play the stream and return the cumulative regret after each decision.

    Args:
        decide: number and observation to action and probability.
        learn: takes (number, observation, action, probability) and its reward, when that arrives.
        pause: called when the schedule's numbers of decisions were made.
    """
    rows = Labels(data)
    late: LateRewards[tuple[int, NDArray[np.float32], int, float]] = LateRewards(max_delay, lost_share, seed)
    regret = np.zeros(num_decisions)
    for number in range(num_decisions):
        for one in late.due():
            learn(one.name, one.reward)
        if number in schedule:
            pause()
        observation, _ = rows.reset(seed=seed if number == 0 else None)
        action, probability = decide(number, observation)
        reward = rows.step(action)[1]
        late.add((number, observation, action, probability), reward)
        regret[number] = 1.0 - reward
    return np.cumsum(regret)


def play_learner(data: str, seed: int, epsilon: float | None) -> Floats:
    """Return the regret of HyperAgent, or with an epsilon of Double DQN."""
    import torch

    from hyperact.trainer.agent import ThompsonAgent, seed_key
    from hyperact.trainer.config import EpsilonConfig, preset
    from hyperact.trainer.environments import make_environment, spec_of
    from hyperact.trainer.learner import Learner
    from hyperact.trainer.n_step import NStepTransition
    from hyperact.trainer.variants import variant_config, variant_spec
    from hyperact.v1.model_pb2 import AgentKind
    from hyperact.v1.steps import StepKey

    torch.set_num_threads(1)
    environment = make_environment(environment_id, {"data": data})
    spec = spec_of(environment, AgentKind.AGENT_KIND_ONE_SHOT, index_dim=index_dim)
    config = preset(spec)
    if epsilon is not None:
        spec, config = variant_spec("ddqn", spec), variant_config("ddqn", config)
    learner = Learner(spec, config, seed)
    replay = learner.make_replay()
    exploration = EpsilonConfig(begin=epsilon or 0.0, end=epsilon or 0.0)
    agent = ThompsonAgent(spec, learner.values, seed_key(seed, "train"), epsilon=exploration)
    waiting: list[NStepTransition] = []

    def key(number: int) -> StepKey:
        return StepKey(data, "bandit", "run", number, 0)

    def decide(number: int, observation: NDArray[np.float32]) -> tuple[int, float]:
        return agent.act(observation, key(number)), 1.0

    def learn(decided: tuple[int, NDArray[np.float32], int, float], reward: float) -> None:
        number, observation, action, _ = decided
        after = np.zeros_like(observation)
        waiting.append(NStepTransition(key(number), observation, action, reward, 0.0, after, None, b""))

    def pause() -> None:
        replay.add(waiting)
        for _ in range(round(len(waiting) * config.replay_ratio)):
            learner.update(replay)
        waiting.clear()

    return regret_of(data, seed, decide, learn, pause)


def play_vw(data: str, seed: int, arguments: str) -> Floats:
    """Return the regret of Vowpal Wabbit."""
    from vowpalwabbit import pyvw

    num_actions = int(Labels(data).action_space.n)  # type: ignore[attr-defined] # checked nowhere: it is Discrete
    workspace = pyvw.Workspace(f"--cb_explore {num_actions} {arguments} --quiet --random_seed {seed}")
    rng = np.random.default_rng([seed, 2])

    def features(observation: NDArray[np.float32]) -> str:
        named = (f"f{place}:{value:.5f}" for place, value in enumerate(observation) if value)
        return "|x " + " ".join(named)

    def decide(_number: int, observation: NDArray[np.float32]) -> tuple[int, float]:
        probabilities = np.maximum(np.array(workspace.predict(features(observation))), 0.0)
        probabilities /= probabilities.sum()
        action = int(rng.choice(num_actions, p=probabilities))
        return action, float(probabilities[action])

    def learn(decided: tuple[int, NDArray[np.float32], int, float], reward: float) -> None:
        _, observation, action, probability = decided
        # Vowpal Wabbit counts actions from 1 and learns costs.
        workspace.learn(f"{action + 1}:{-reward}:{probability} {features(observation)}")

    regret = regret_of(data, seed, decide, learn, lambda: None)
    workspace.finish()
    return regret


def agents(kinds: list[str]) -> Iterator[tuple[str, Callable[[str, int], Floats]]]:
    """Yield the agents' names and how each is played."""
    if "hyperagent" in kinds:
        yield "hyperagent", partial(play_learner, epsilon=None)
    if "ddqn" in kinds:
        for epsilon in epsilons:
            yield f"ddqn epsilon {epsilon}", partial(play_learner, epsilon=epsilon)
    if "vw" in kinds:
        for arguments in vw_arguments:
            yield f"vw {arguments}".strip(), partial(play_vw, arguments=arguments)


def run(data: str, seeds: list[int], kinds: list[str]) -> None:
    """Play agents that have no row yet, and append their rows."""
    for name, play in agents(kinds):
        for seed in seeds:
            if (data, name, seed) not in {(row[0], row[1], int(row[2])) for row in read_rows()}:
                append(data, name, seed, play(data, seed))


def append(data: str, name: str, seed: int, regret: Floats) -> None:
    """Add one run to the file, and say so."""
    file = results / "bandit.csv"
    is_new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if is_new:
            writer.writerow(["data", "agent", "seed", *marks])
        writer.writerow([data, name, seed, *(int(regret[mark - 1]) for mark in marks)])
    print(data, name, seed, [int(regret[mark - 1]) for mark in marks], flush=True)


def take_service(folder: Path, data: str, seed: int) -> None:
    """Add a run of the demo, by its regret.csv: only the sums at its deployments are known."""
    with (folder / "regret.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    ends = np.cumsum([0, *(int(row["decisions"]) for row in rows)])
    sums = np.array([0.0, *(float(row["regret_so_far"]) for row in rows)])
    append(data, "hyperagent, service", seed, np.interp(np.arange(1, num_decisions + 1), ends, sums))


def read_rows() -> list[list[str]]:
    """Return the rows of the results."""
    file = results / "bandit.csv"
    return list(csv.reader(file.open()))[1:] if file.exists() else []


def means(data: str) -> dict[str, Floats]:
    """Return each agent's regrets at the marks: [seeds, marks]."""
    found: dict[str, list[list[float]]] = {}
    for row in read_rows():
        if row[0] == data:
            found.setdefault(row[1], []).append([float(value) for value in row[3:]])
    return {name: np.array(values) for name, values in found.items()}


def show() -> None:
    """Print a table for each data set and draw the picture."""
    names = sorted({row[0] for row in read_rows()}, reverse=True)
    for data in names:
        print(f"\n| {data} | seeds | {' | '.join(map(str, marks))} | deviation |\n|---|---|{'---|' * (len(marks) + 1)}")
        for name, values in sorted(means(data).items(), key=lambda one: one[1][:, -1].mean()):
            regrets = " | ".join(f"{value:.0f}" for value in values.mean(0))
            print(f"| `{name}` | {len(values)} | {regrets} | {values[:, -1].std():.0f} |")
    draw(names)


def draw(names: list[str]) -> None:
    """Draw the mean regret of the best of each kind, with the range over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(names), 4), layout="constrained")
    for axes, data in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        agents_found = means(data)
        for kind in ("hyperagent", "ddqn", "vw"):
            of_kind = {name: values for name, values in agents_found.items() if name.split(" ")[0] == kind}
            if not of_kind:
                continue
            name, values = min(of_kind.items(), key=lambda one: one[1][:, -1].mean())
            (line,) = axes.plot((0, *marks), (0, *values.mean(0)), marker="o", markersize=3, label=name)
            low, high = (0, *values.min(0)), (0, *values.max(0))
            axes.fill_between((0, *marks), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(title=data, xlabel="decisions", ylabel="cumulative regret")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "show", "service"])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--agents", nargs="+", default=["hyperagent", "ddqn", "vw"])
    parser.add_argument("--service", type=Path, help="a demo's directory, whose regret.csv is taken in")
    given = parser.parse_args()
    if given.action == "run":
        run(given.data, given.seeds, given.agents)
    elif given.action == "service":
        take_service(given.service, given.data, given.seeds[0])
    else:
        show()
