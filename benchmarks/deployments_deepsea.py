"""How many deployments DeepSea takes in the batch mode: collect with a fixed policy, learn, deploy, again.

One deployment: 20 episodes with an index each by the policy in service (the first 20 by the uniform fallback), then
`replay_ratio` learner steps per new transition. Solved: 100 evaluation episodes with fresh indices, all optimal, by the
version that a deployment put into service. Learner settings are `hyperact retrain`'s defaults unless --learner says
otherwise. No service and no registry: what is measured is the learning.

    python benchmarks/deployments_deepsea.py --seeds 10
    python benchmarks/deployments_deepsea.py --seeds 5 --replay-ratio 8 --learner '{"target_update_period": 8}'
"""

import argparse
import json
import statistics
import time
from itertools import islice
from typing import Any

import torch

from hyperact.trainer.agent import ThompsonAgent, seed_key
from hyperact.trainer.config import preset
from hyperact.trainer.environments import Environment, make_environment, optimal_return, spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.loop import run_loop
from hyperact.trainer.n_step import NStepAssembler
from hyperact.trainer.train import evaluation_returns, is_solved
from hyperact.v1.steps import StepKey

episodes_per_deployment = 20
num_evaluation_episodes = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--replay-ratio", type=float, default=4.0)
    parser.add_argument("--max-deployments", type=int, default=40)
    parser.add_argument("--vary-sea", action="store_true", help="another mapping per seed; else bsuite's 42 for all")
    parser.add_argument("--learner", type=json.loads, default={})
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    needed, begin = [], time.perf_counter()
    for seed in range(arguments.seeds):
        needed.append(deployments_to_solve(seed, arguments))
        print(f"seed {seed}: {needed[-1]} deployments", flush=True)
    seconds = (time.perf_counter() - begin) / sum(needed)
    print(f"mean {statistics.mean(needed):.1f}, most {max(needed)}, {seconds:.2f} s per deployment")


def deployments_to_solve(seed: int, arguments: argparse.Namespace) -> int:
    keywords: dict[str, Any] = {"size": arguments.size} | ({"mapping_seed": seed} if arguments.vary_sea else {})
    environment, evaluation = (make_environment("hyperact/DeepSea-v0", keywords) for _ in range(2))
    spec = spec_of(environment)
    learner = Learner(spec, preset(spec).with_overrides(arguments.learner), seed)
    replay = learner.make_replay()
    n_step = NStepAssembler(learner.config.num_td_steps, spec.discount)
    best = optimal_return(environment)
    assert best is not None
    for deployment in range(arguments.max_deployments):
        returns = evaluation_returns(evaluation, learner, "default", seed, num_evaluation_episodes)
        if deployment and is_solved(returns, best):
            return deployment
        num_new = collect(environment, learner, replay.add, n_step, deployment, seed)
        for _ in range(round(num_new * arguments.replay_ratio)):
            learner.update(replay)
    return int(arguments.max_deployments)


def collect(
    environment: Environment, learner: Learner, add: Any, n_step: NStepAssembler, deployment: int, seed: int
) -> int:
    """Play the episodes of one deployment; return how many transitions they gave."""
    agent = ThompsonAgent(learner.spec, learner.values, seed_key(seed, "collection"))
    agent.is_warming_up = deployment == 0
    first = StepKey("default", "agent", f"{deployment:03d}", 0, 0)
    steps = run_loop(environment, agent, first, seed)
    size = environment.observation_space.shape[0]  # type: ignore[index]  # an episode of DeepSea is exactly N steps
    transitions = [step.transition for step in islice(steps, episodes_per_deployment * size)]
    add(n_step.push(transitions))
    return len(transitions)


if __name__ == "__main__":
    main()
