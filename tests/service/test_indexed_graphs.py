"""Graphs that take the index as an input: heads that are not affine in it."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import toys
from hyperact.service.audit_command import audit
from hyperact.service.audit_settings import AuditSettings
from hyperact.service.errors import VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.v1.decision_pb2 import ActBatchRequest
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, derive_index
from hyperact.v1.model_pb2 import ActingRule, ReferenceDistribution
from hyperact.v1.probabilities import each_probability, monte_carlo_error
from hyperact.v1.steps import StepKey, to_key
from hyperact.v1.tensors import to_array
from toy_audits import audited, not_exact
from toy_hypermodels import index_batch, load, replace_graph
from toy_worker import make_request, play, registry_with_version, running

key = bytes(range(32))


def observations(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, 3)).astype(np.float32)


@pytest.fixture
def hypermodel(tmp_path: Path) -> Hypermodel:
    toys.toy_version(tmp_path, num_actions=3, index_dim=2, is_indexed=True, bank_size=64, seed=3)
    return load(tmp_path)


def five_indices() -> onnx.ModelProto:
    """Return a graph that takes five indices a row and no other number."""
    graph = toys.toy_indexed_graph(toys.toy_spec())
    graph.graph.input[1].CopyFrom(helper.make_tensor_value_info("indices", TensorProto.FLOAT, ["batch", 5, 4]))
    return graph


class TestLoad:
    @pytest.mark.parametrize(
        ("graph", "word"),
        [
            (toys.toy_graph(toys.toy_spec()), "indices"),
            (five_indices(), "any"),
            (toys.toy_indexed_graph(toys.toy_spec(index_dim=3)), "shape"),
            (toys.toy_indexed_graph(toys.toy_spec(num_actions=7)), "shape"),
        ],
    )
    def test_ports_that_are_not_the_contracts_are_refused(
        self, tmp_path: Path, graph: onnx.ModelProto, word: str
    ) -> None:
        """A graph without indices, for a fixed number of them, of another length, for other actions."""
        toys.toy_version(tmp_path, is_indexed=True)
        replace_graph(tmp_path, graph)

        with pytest.raises(VersionRefusedError, match=word) as caught:
            load(tmp_path).warm_up([2])

        assert "WRONG_SPEC" == caught.value.reason

    def test_an_indexed_graph_is_none_of_coefficients(self, tmp_path: Path) -> None:
        """The manifest's word counts."""
        toys.toy_version(tmp_path)
        replace_graph(tmp_path, toys.toy_indexed_graph(toys.toy_spec()))

        with pytest.raises(VersionRefusedError, match="indices"):
            load(tmp_path)


class TestAnswers:
    def test_values_are_those_of_each_rows_own_index(self, hypermodel: Hypermodel) -> None:
        """The formula, computed beside the graph."""
        seen, indices = observations(5), index_batch(hypermodel, 5)
        weights = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in toys.toy_indexed_graph(hypermodel.spec, seed=3).graph.initializer
        }

        found = hypermodel.ask(seen, indices)

        expected = np.maximum(seen @ weights["X"] + indices[:, 0] @ weights["Z"], 0.0) @ weights["Y"]
        np.testing.assert_allclose(expected, found.values, rtol=1e-5, atol=1e-6)

    def test_rows_and_indices_do_not_depend_on_each_other(
        self, hypermodel: Hypermodel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Alone, in a batch, or in a batch that is asked in portions: the same bits."""
        seen, indices = observations(9), index_batch(hypermodel, 9)

        together = hypermodel.ask(seen, indices)
        alone = [hypermodel.ask(seen[row : row + 1], indices[row : row + 1]) for row in range(9)]
        others = hypermodel.ask(seen, index_batch(hypermodel, 9, seed=1))
        monkeypatch.setattr("hyperact.service.hypermodel._max_indices_at_once", 200)
        portions = hypermodel.ask(seen, indices)

        for number in range(2):
            parts = np.concatenate([one[number] for one in alone])
            np.testing.assert_array_equal(together[number], parts)
            np.testing.assert_array_equal(together[number], portions[number])
        np.testing.assert_array_equal(together.beliefs, others.beliefs)
        assert not np.allclose(together.values, others.values)

    def test_the_bank_is_as_large_as_the_manifest_says(self, hypermodel: Hypermodel, tmp_path: Path) -> None:
        """Fewer indices for less work; without a word 1024, and of an ensemble its members."""
        sizes = {}
        for name, version in {
            "silent": {"is_indexed": True},
            "ensemble": {"is_indexed": True, "reference_distribution": ONE_HOT, "bank_size": 64},
        }.items():
            toys.toy_version(tmp_path / name, **version)  # type: ignore[arg-type]
            sizes[name] = len(load(tmp_path / name).reference.bank)

        assert (1, 3, 64) == hypermodel.ask(observations(1), index_batch(hypermodel, 1)).beliefs.shape
        assert {"silent": 1024, "ensemble": 4} == sizes

    @pytest.mark.parametrize("num_actions", [2, 5])
    @pytest.mark.parametrize("distribution", [GAUSSIAN, ONE_HOT, COORDINATE])
    @pytest.mark.parametrize("rule", [ActingRule(), ActingRule(num_indices=5, quantile=0.8), ActingRule(epsilon=0.3)])
    def test_propensities_are_frequencies(
        self,
        tmp_path: Path,
        rule: ActingRule,
        distribution: "ReferenceDistribution.ValueType",
        num_actions: int,
    ) -> None:
        """How often an action is the best under derived indices is what is logged of it, for two actions and for more.

        Exploration is added afterwards: with probability epsilon every action is as likely.
        """
        num_draws, size = 4000, 1024
        toys.toy_version(
            tmp_path,
            num_actions=num_actions,
            is_indexed=True,
            acting_rule=rule,
            reference_distribution=distribution,
            seed=num_actions,
        )
        model = load(tmp_path)
        num_indices = model.reference.num_indices
        drawn = [
            derive_index(key, StepKey("default", "agent", "run", episode, 0), 0, 4, distribution)
            for episode in range(num_draws * num_indices)
        ]
        indices = np.stack(drawn).reshape(num_draws, num_indices, 4)
        seen = observations(1, seed=7)

        found = model.ask(np.repeat(seen, num_draws, axis=0), indices)
        chances = each_probability(found.beliefs[:1], None, model.reference)[0]

        best = np.bincount(found.values.argmax(axis=1), minlength=num_actions) / num_draws
        expected = (1 - rule.epsilon) * best + rule.epsilon / num_actions
        # Five standard errors of the draws and of the bank, and the share of the one index more that smooths.
        error = monte_carlo_error(chances, num_draws) + (0 if model.reference.is_exact else monte_carlo_error(chances))
        assert (np.abs(chances - expected) < 5 * error + 1 / size).all()
        assert pytest.approx(1.0) == chances.sum()


class TestServed:
    async def test_sessions_with_their_own_indices_share_a_batch(self, tmp_path: Path) -> None:
        """Each decision is the one that its own observation and index give, whoever else was in the batch."""
        registry_with_version(tmp_path, num_actions=4, is_indexed=True, bank_size=64)
        async with running(tmp_path) as service:
            requests = [make_request(f"agent-{number}", number, want_posterior=True) for number in range(16)]
            response = await service.decision.ActBatch(ActBatchRequest(requests=requests))
            steps = await service.steps()
            loaded = service.worker._versions["default"].serving
        assert loaded is not None

        answers = [result.response for result in response.results]
        assert 16 == len({answer.step_id.session for answer in answers})
        for answer in answers:
            posterior = answer.posterior
            assert answer.propensity == pytest.approx(posterior.probabilities[answer.action])
            assert 1.0 == pytest.approx(sum(posterior.probabilities))
            assert answer.margin >= 0.0
        for step in steps:
            alone = loaded.hypermodel.ask(to_array(step.observation)[None], index_batch(loaded.hypermodel, 1)).beliefs
            chances = each_probability(alone, None, loaded.hypermodel.reference)[0]
            assert step.propensity == pytest.approx(chances[step.action], abs=1.5 / 65)

    def test_its_decisions_are_audited_and_explained(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """An auditor computes the same bits, and the explanation knows mean and deviation from the bank."""

        async def serve() -> str:
            registry_with_version(tmp_path, num_actions=4, is_indexed=True, bank_size=64)
            async with running(tmp_path) as service:
                await asyncio.gather(*(play(service, f"agent-{number}", [5, 5]) for number in range(4)))
                return str(to_key((await service.steps())[-1].step_id))

        step_id = asyncio.run(serve())

        graded = audited(tmp_path)
        code = audit(AuditSettings(data_dir=tmp_path, step_id=step_id, picture=tmp_path / "a.png"))

        assert 40 == len(graded)
        assert [] == not_exact(graded)
        assert 0 == code
        assert "standard deviations" in capsys.readouterr().out
        assert (tmp_path / "a.png").stat().st_size


class TestExploration:
    def test_steps_explore_as_often_as_the_rule_says(self, tmp_path: Path) -> None:
        """Epsilon-greedy without an index: every step apart, repeatable, with the propensity of what was done."""
        coefficients = np.array([[0.0], [2.0], [1.0]], np.float32)

        async def serve() -> tuple[list[float], list[int], list[float]]:
            registry_with_version(
                tmp_path,
                num_actions=3,
                index_dim=0,
                coefficients=coefficients,
                acting_rule=ActingRule(epsilon=0.3),
            )
            async with running(tmp_path) as service:
                for number in range(10):
                    requests = [make_request(f"agent-{number}-{place}", place) for place in range(60)]
                    await service.decision.ActBatch(ActBatchRequest(requests=requests))
                steps = await service.steps()
            return [s.propensity for s in steps], [s.action for s in steps], [s.margin for s in steps]

        propensities, actions, margins = asyncio.run(serve())

        # 600 draws: five standard errors of a share of 0.2 are 0.08.
        assert 0.2 == pytest.approx(np.mean(np.array(actions) != 1), abs=0.08)
        assert {round(0.7 + 0.1, 5), 0.1} == {round(chance, 5) for chance in propensities}
        assert {0: -2.0, 1: 1.0, 2: -1.0} == dict(zip(actions, margins, strict=True))
        assert [] == not_exact(audited(tmp_path))
