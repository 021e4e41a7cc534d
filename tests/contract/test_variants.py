"""Every published variant, from the learner to the log of the one service that serves them all."""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperact.service.audit_settings import Bound
from hyperact.service.auditor import Auditor, Graded
from hyperact.service.keys import load_index_key
from hyperact.service.repository import Repository
from hyperact.service.step_sources import LocalSteps
from hyperact.service.version_cache import VersionCache
from hyperact.trainer.export import Lineage, write_version
from hyperact.trainer.learner import Learner
from hyperact.trainer.variants import variant_config, variant_spec, variants
from hyperact.v1.decision_pb2 import ActBatchRequest, Outcome
from hyperact.v1.indices import derive_indices, is_exploring
from hyperact.v1.made_up import made_up_observations
from hyperact.v1.model_pb2 import ActingRule, GraphKind, Manifest
from hyperact.v1.probabilities import logged_reference
from hyperact.v1.steps import to_key
from hyperact.v1.tensors import to_array
from toy_trainer import small
from toy_worker import make_request, running
from toys import make_registry, register, toy_spec

num_actions, num_sessions, num_rounds = 4, 8, 6
now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# Without those whose graph and acting are another one's.
names = [name for name in variants if name not in ("hyperagent_sampled", "ddqn_greedy")]
pytestmark = pytest.mark.timeout(600)  # exports take seconds each, many times as much on a busy machine


class Served:
    """All variants, exported and played by one service.

    Attributes:
        learners, manifests: by variant.
        graded: by variant, the steps of its log with what an audit says of them.
        index_key: what all indices derive from.
    """

    def __init__(self, data_dir: Path) -> None:
        self.learners = {name: make_learner(name) for name in names}
        self.manifests: dict[str, Manifest] = {}
        uri = make_registry(data_dir)
        for name, learner in self.learners.items():
            directory = data_dir / "exports" / name
            golden = made_up_observations(learner.spec)
            self.manifests[name] = write_version(
                directory, learner.hypermodel, learner.spec, golden, Lineage(name), now
            )
            register(uri, directory, name, alias="champion")
        asyncio.run(play(data_dir))
        self.index_key = load_index_key("", "", data_dir)
        repository = Repository(uri, VersionCache(data_dir / "versions"))
        self.graded = {name: asyncio.run(audit(data_dir, name, repository)) for name in names}


def make_learner(name: str) -> Learner:
    """Return an untrained learner: its prior, where it has one, makes it uncertain."""
    torch.manual_seed(0)
    return Learner(variant_spec(name, toy_spec(num_actions)), variant_config(name, small), 0)


async def play(data_dir: Path) -> None:
    """Let sessions of every variant act, those of one variant in one batch."""
    async with running(data_dir, models=names, max_batch=num_sessions) as service:
        tokens: dict[tuple[str, int], bytes] = defaultdict(bytes)
        for number in range(num_rounds):
            for name in names:
                requests = [
                    make_request(
                        f"agent-{session}",
                        number + session,
                        model=name,
                        token=tokens[name, session],
                        outcome=Outcome(reward=1.0, terminated=number == 3) if number else None,
                    )
                    for session in range(num_sessions)
                ]
                response = await service.decision.ActBatch(ActBatchRequest(requests=requests))
                for session, result in enumerate(response.results):
                    tokens[name, session] = result.response.token


async def audit(data_dir: Path, name: str, repository: Repository) -> list[Graded]:
    source = LocalSteps(data_dir)
    auditor = Auditor(name, source, repository, load_index_key("", "", data_dir))
    try:
        return [graded async for page in auditor.audit(Bound(), Bound()) for graded in page]
    finally:
        auditor.close()
        await source.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("variants") / "data")


@pytest.mark.parametrize("name", names)
def test_the_service_does_what_the_learner_would(served: Served, name: str) -> None:
    """Torch, asked for the values under the indices of each step, prefers the action that was taken."""
    learner, reference = served.learners[name], logged_reference(served.manifests[name])
    steps = [graded.entry.step for graded in served.graded[name]]

    assert num_sessions * num_rounds == len(steps)
    for step in steps:
        key = to_key(step.step_id)
        if is_exploring(served.index_key, key, reference.epsilon):
            continue
        spec = learner.spec
        indices = derive_indices(
            served.index_key, key, step.segment, spec.index_dim, spec.reference_distribution, reference.num_drawn
        )
        values = learner.values(to_array(step.observation)[None].copy(), indices[None].copy())[0]
        worth = np.quantile(values, reference.quantile, axis=0)
        # Two actions may be as good but for rounding.
        assert worth[step.action] >= worth.max() - 1e-4 * np.abs(values).max()


@pytest.mark.parametrize("name", names)
def test_its_decisions_can_be_computed_again(served: Served, name: str) -> None:
    """To the last bit: action, margin and propensity."""
    assert {"exact"} == {str(graded.finding.grade) for graded in served.graded[name]}
    assert all(0.0 < graded.entry.step.propensity <= 1.0 for graded in served.graded[name])


def test_manifests_say_what_each_variant_needs() -> None:
    """Two inputs where the head is not affine, and how to act where that is not by one index."""
    learners = {name: make_learner(name) for name in names}

    kinds = {
        name for name, learner in learners.items() if learner.hypermodel.graph_kind == GraphKind.GRAPH_KIND_INDEXED
    }
    rules = {
        name: learner.spec.acting_rule for name, learner in learners.items() if learner.spec.HasField("acting_rule")
    }

    assert {"enn_dqn", "hypermodel"} == kinds
    assert {
        "fast": ActingRule(num_indices=16),
        "hyperagent_ois": ActingRule(num_indices=5, quantile=0.8),
        "ensemble_plus_os": ActingRule(num_indices=0),
        "ddqn": ActingRule(epsilon=0.05),
    } == rules


@pytest.mark.parametrize("name", ["enn_dqn", "hypermodel"])
def test_uncertainty_is_over_a_bank_of_its_own_size(served: Served, name: str) -> None:
    """A head that runs once for each index has a smaller bank, which the manifest declares and propensities show."""
    propensities = {graded.entry.step.propensity for graded in served.graded[name]}

    assert 256 == served.manifests[name].bank_size
    counts = np.array(sorted(propensities)) * 257 - 0.25
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    assert len(propensities) > 3
