"""A tabular policy as a version like any other."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from hyperact.trainer.export import Lineage, OnnxGraph, ParityError, check_parity, to_onnx, write_version
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.tabular.bellman import Planning, Prior
from hyperact.trainer.tabular.hyperagent import TabularHyperAgent
from hyperact.trainer.tabular.hypermodel import TabularHypermodel
from hyperact.trainer.tabular.mdp import Float64s, random_mdp
from hyperact.v1.indices import derive_index
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.steps import to_key
from hyperact.v1.tensors import to_array, to_tensor
from toy_audits import audited
from toy_worker import make_request, running
from toys import make_registry, register, toy_spec

now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
num_actions, index_dim = 3, 4


@pytest.fixture(scope="module")
def coefficients() -> Float64s:
    """Return what an agent learned in a few episodes of a small process of 12 states."""
    mdp = random_mdp(np.random.default_rng(0), horizon=4, width=3, num_actions=num_actions)
    rng = np.random.default_rng(1)
    prior = Prior(np.full(mdp.rewards.shape, 2.0), deviation=1.0, noise_scale=1.0)
    agent = TabularHyperAgent(prior, Planning(4), index_dim, rng, has_state_indices=False)
    for _ in range(10):
        agent.observe(mdp.play(agent.plan(rng).argmax(axis=1), rng), rng)
    return agent.coefficients(rng.normal(size=(1, index_dim)))


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return toy_spec(num_actions, index_dim, (12,), np.uint8)


def every_state() -> np.ndarray:
    return np.eye(12, dtype=np.uint8)


def test_its_graph_answers_the_table(coefficients: Float64s, spec: ModelSpec) -> None:
    """One-hot observations look up their rows; the blank one after the end has none."""
    model = TabularHypermodel(coefficients)
    graph = to_onnx(model, spec)

    check_parity(model, graph, every_state())
    answered = OnnxGraph(graph).coefficients(np.concatenate([every_state(), np.zeros((1, 12), np.uint8)]))

    np.testing.assert_array_equal(coefficients.astype(np.float32), answered[:-1])
    assert not answered[-1].any()


def test_another_table_is_not_mistaken_for_it(coefficients: Float64s, spec: ModelSpec) -> None:
    """Parity is checked on tables too."""
    graph = to_onnx(TabularHypermodel(coefficients), spec)

    with pytest.raises(ParityError):
        check_parity(TabularHypermodel(coefficients + 0.1), graph, every_state())


async def test_the_service_acts_by_it(coefficients: Float64s, spec: ModelSpec, tmp_path: Path) -> None:
    """Thompson sampling from the table, by the same service, and audited like anything else."""
    model: Hypermodel = TabularHypermodel(coefficients)
    write_version(tmp_path / "export", model, spec, every_state(), Lineage("default"), now)
    register(make_registry(tmp_path), tmp_path / "export", alias="champion")
    async with running(tmp_path) as service:
        for state in range(12):
            await service.decision.Act(make_request(f"agent-{state}", observation=to_tensor(every_state()[state])))
        steps = await service.steps()
        key = service.worker._data_plane._keys.index

    assert 12 == len(steps)
    for step in steps:
        index = derive_index(key, to_key(step.step_id), 0, index_dim, spec.reference_distribution)
        row = coefficients[to_array(step.observation).argmax()]
        assert step.action == (row[:, 0] + row[:, 1:] @ index).argmax()
    assert {"exact"} == {str(graded.finding.grade) for graded in await asyncio.to_thread(audited, tmp_path)}
