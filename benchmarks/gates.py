"""Whether the gates hold back what is at fault, and let honest candidates through.

For each seed a version is learned from random episodes of a small stochastic process, serves 300 episodes, and is
learned on from: the honest candidate. Beside it stand candidates with something wrong (tests/toy_candidates.py has
them), each registered in a real MLflow store and judged as `hyperact promote` judges it, on the log behind a real
LogService. Golden answers beside the faulty versions agree with their graphs, as they would if a learner was at fault:
parity alone would find every fault that came in after the export. The trainer's evaluation return is that of 200
episodes.

    PYTHONPATH=tests OMP_NUM_THREADS=1 nice python benchmarks/gates.py --seeds 10

Two tables, each also as a file in benchmarks/results: how many of each kind were refused, and how many of them by which
gate, with the limits declared below and with the defaults alone.
"""

import argparse
import asyncio
import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient

from hyperact.service.judgement import Judgement
from hyperact.service.operation_settings import PromoteSettings
from hyperact.service.operations import open_repository
from hyperact.trainer.export import to_onnx
from hyperact.v1.gates import Evidence, GateLimits, Outcome, Verdict, judge
from toy_candidates import Scene, planted, spoil, staged, transitions

results = Path(__file__).parent / "results"
num_evaluation_episodes = 200
evaluation_margin = 0.5
declared = {"max_divergence": 0.5, "max_action_flip_rate": 0.5, "min_effective_size": 5.0, "min_off_policy_gain": -0.1}
honest = "honest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[str, Verdict]]] = {"declared": [], "always": []}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as directory, staged(Path(directory), seed) as scene:
            for kind in (honest, *planted):
                for limits, verdict in judge_one(scene, kind, seed).items():
                    found[limits].append((kind, verdict))
    for limits, verdicts in found.items():
        write(f"gates_{limits}", verdicts)


def judge_one(scene: Scene, kind: str, seed: int) -> dict[str, Verdict]:
    """Register one candidate and return the verdicts on it, with declared limits and with the defaults alone."""
    fault = "" if kind == honest else kind
    version = scene.register(fault, seed)
    learner = scene.spiteful if fault == "worse return" else scene.honest
    graph = spoil(to_onnx(learner.hypermodel, scene.spec), fault, scene.spec, seed)
    if fault != "NaN weights":
        value = float(np.mean(scene.play(graph, num_evaluation_episodes)))
        client = MlflowClient(scene.uri, scene.uri)
        client.set_model_version_tag("default", version, "hyperact.evaluation_return", repr(value))
    settings = PromoteSettings.model_validate(
        {
            "version": version,
            "data_dir": scene.data_dir,
            "address": scene.address,
            **declared,
            "min_evaluation_return": least_return(scene),
        }
    )
    return {
        "declared": asyncio.run(verdict_on(settings)),
        "always": asyncio.run(
            verdict_on(PromoteSettings(version=version, data_dir=scene.data_dir, address=scene.address))
        ),
    }


async def verdict_on(settings: PromoteSettings) -> Verdict:
    """Return what `hyperact promote` would say."""
    with Judgement(open_repository(settings), settings) as judgement:
        return await judgement.judge(settings.version)


def least_return(scene: Scene) -> float:
    """Return the mean return of what the serving version played, less a margin."""
    steps = [step for step in transitions(scene.log, scene.spec) if step.version]
    episodes = {step.key.episode for step in steps}
    return sum(step.reward for step in steps) / len(episodes) - evaluation_margin


def write(name: str, verdicts: Sequence[tuple[str, Verdict]]) -> None:
    """Print a table and keep it as a file."""
    names = [gate.name for gate in judge(Evidence(), GateLimits()).gates]
    rows = []
    for kind in (honest, *planted):
        of_kind = [verdict for found, verdict in verdicts if found == kind]
        held = Counter(gate.name for verdict in of_kind for gate in verdict.gates if gate.outcome is Outcome.HELD)
        refused = sum(not verdict.is_promotion for verdict in of_kind)
        rows.append([kind, len(of_kind), refused, *(held[gate] for gate in names)])
    header = ["candidate", "judged", "refused", *names]
    with (results / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print(f"\n{name}\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
