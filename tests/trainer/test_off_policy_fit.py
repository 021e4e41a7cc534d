"""Fitted Q evaluation: by table and by network."""

import numpy as np
import pytest

from hyperact.trainer.off_policy.components import Components, index_persistence, make_components
from hyperact.trainer.off_policy.fitted import FitConfig, Transitions, fit_network, fit_table
from hyperact.v1.indices import GAUSSIAN, ONE_HOT, Float32s, index_bank
from hyperact.v1.model_pb2 import AgentKind, GraphKind, IndexSchedule, ModelSpec
from hyperact.v1.probabilities import Reference, each_probability, make_reference
from toys import toy_spec

discount = 0.9


def chain() -> Transitions:
    """Return three situations in a row, two actions each: 0 goes on for 1, 1 ends it for 5."""
    situations = np.repeat([0, 1, 2], 2)
    after = np.array([1, -1, 2, -1, -1, -1])
    return Transitions(situations, np.tile([0, 1], 3), np.tile([1.0, 5.0], 3), after)


def components(persistence: float) -> Components:
    """Return two components: one always goes on, one always ends it."""
    shares = np.zeros((3, 2, 2), np.float32)
    shares[:, 0, 0] = shares[:, 1, 1] = 1.0
    return Components(shares, persistence)


class TestTable:
    def test_components_that_are_held_have_values_of_their_own(self) -> None:
        """Going on to the end is worth 1 + 0.9 + 0.81; ending it at once 5."""
        values = fit_table(chain(), components(1.0), discount, max_length=3)(np.array([0]))

        assert [1 + 0.9 + 0.81, 5.0] == pytest.approx(values[0, 0].tolist())
        assert [1 + 0.9 * 5, 5.0] == pytest.approx(values[0, 1].tolist())

    def test_components_that_are_redrawn_share_what_follows(self) -> None:
        """With a new draw at each step both expect the mean of the two."""
        values = fit_table(chain(), components(0.0), discount, max_length=3)(np.array([0]))

        last = (1 + 5) / 2
        expected = 1 + discount * ((1 + discount * last) + 5) / 2
        assert [expected, expected] == pytest.approx(values[0, :, 0].tolist())

    def test_rewards_and_successors_are_averaged(self) -> None:
        """A situation that leads to several others is worth their mean, by how often each came."""
        data = Transitions(
            np.array([0, 0, 0, 1]), np.zeros(4, int), np.array([1.0, 2.0, 3.0, 9.0]), np.array([1, 1, -1, -1])
        )
        only = Components(np.array([[[1.0, 0.0]]] * 2, np.float32), 1.0)

        values = fit_table(data, only, discount, max_length=2)(np.array([0]))

        assert 2.0 + discount * 9.0 * 2 / 3 == pytest.approx(values[0, 0, 0])

    def test_what_was_never_tried_is_worth_nothing(self) -> None:
        """No value is made up."""
        data = Transitions(np.array([0]), np.array([0]), np.array([1.0]), np.array([-1]))

        values = fit_table(data, components(1.0), discount, max_length=1)

        assert 0.0 == values(np.array([0]))[0, 0, 1] == values(np.array([2])).max()


class TestNetwork:
    def test_it_learns_what_the_table_knows(self) -> None:
        """On situations that a network can tell apart both fits agree."""
        spec = toy_spec(num_actions=2, index_dim=2)
        observations = np.eye(3, dtype=np.float32)
        config = FitConfig(num_updates=600, batch_size=32, learning_rate=5e-3, target_update_period=20)

        fitted = fit_network(chain(), observations, components(1.0), discount, spec, config)(np.arange(3))

        np.testing.assert_allclose(fit_table(chain(), components(1.0), discount, 3)(np.arange(3)), fitted, atol=0.1)

    def test_the_same_seed_gives_the_same_fit(self) -> None:
        """An evaluation can be repeated."""
        spec, observations = toy_spec(num_actions=2, index_dim=2), np.eye(3, dtype=np.float32)
        config = FitConfig(num_updates=20, seed=4)

        one, other = (
            fit_network(chain(), observations, components(1.0), discount, spec, config)(np.arange(3)) for _ in range(2)
        )

        np.testing.assert_array_equal(one, other)


def components_of(coefficients: Float32s, spec: ModelSpec, max_components: int) -> Components:
    reference = make_reference(spec, GraphKind.GRAPH_KIND_COEFFICIENTS)
    return make_components(coefficients, None, spec, reference, max_components)


class TestComponents:
    coefficients = np.random.default_rng(0).normal(size=(5, 3, 3)).astype(np.float32)

    def test_an_index_for_every_step_is_one_component(self) -> None:
        """Then the policy is its probabilities."""
        spec = toy_spec(num_actions=3, index_dim=2, index_schedule=IndexSchedule.INDEX_SCHEDULE_STEP)

        found = components_of(self.coefficients, spec, 16)

        chances = each_probability(self.coefficients, None, Reference(GAUSSIAN, index_bank(2, GAUSSIAN)))
        np.testing.assert_allclose(chances, found.shares[:, 0], rtol=1e-6)

    def test_held_indices_are_components_that_are_sure(self) -> None:
        """One per index of the bank, as many as asked for; of an ensemble all members."""
        gaussian = components_of(self.coefficients, toy_spec(num_actions=3, index_dim=2), 16)
        ensemble = components_of(
            self.coefficients, toy_spec(num_actions=3, index_dim=2, reference_distribution=ONE_HOT), 1
        )

        assert (5, 16, 3) == gaussian.shares.shape
        assert (5, 2, 3) == ensemble.shares.shape
        assert {0.0, 1.0} == set(np.unique(gaussian.shares).tolist())

    @pytest.mark.parametrize(
        ("schedule", "kind", "persistence"),
        [
            (IndexSchedule.INDEX_SCHEDULE_EPISODE, AgentKind.AGENT_KIND_EPISODIC, 1.0),
            (IndexSchedule.INDEX_SCHEDULE_GEOMETRIC, AgentKind.AGENT_KIND_EPISODIC, 0.9),
            (IndexSchedule.INDEX_SCHEDULE_STEP, AgentKind.AGENT_KIND_EPISODIC, 0.0),
            (IndexSchedule.INDEX_SCHEDULE_EPISODE, AgentKind.AGENT_KIND_ONE_SHOT, 0.0),
        ],
    )
    def test_an_index_persists_as_the_spec_says(
        self, schedule: "IndexSchedule.ValueType", kind: "AgentKind.ValueType", persistence: float
    ) -> None:
        """Held, geometric, or new at every step."""
        assert persistence == index_persistence(toy_spec(agent_kind=kind, index_schedule=schedule))
