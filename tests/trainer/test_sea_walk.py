"""Evaluation on DeepSea all at once: it must say what playing says."""

from typing import Any

import numpy as np
import pytest

from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import make_environment, spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.sea_walk import SeaWalk, can_walk
from hyperact.trainer.train import evaluation_returns, train
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.model_pb2 import IndexSchedule

num_episodes = 40


def half_learned(variant: str, size: int, num_steps: int) -> tuple[Learner, SeaWalk]:
    """Return a learner that knows a little, so that its divers scatter over the sea."""
    environment = make_environment("hyperact/DeepSea-v0", {"size": size, "mapping_seed": 3})
    spec = variant_spec(variant, spec_of(environment))
    config = LearnerConfig(min_replay_size=20, batch_size=8).with_overrides({"network": {"hidden_sizes": (8,)}})
    learner = Learner(spec, variant_config(variant, config), seed=1)
    for progress in train(environment, learner, learner.make_replay(), Curves(), "deepsea", seed=1):
        if progress.num_steps == num_steps:
            break
    return learner, SeaWalk(environment)


class TestSeaWalk:
    @pytest.mark.parametrize("variant", ["hyperagent", "hyperagent_ois", "enn_dqn", "ensemble_plus_os", "ddqn"])
    def test_it_is_exactly_what_playing_gives(self, variant: str) -> None:
        """Episode by episode, whatever the head and however the agent chooses."""
        learner, walk = half_learned(variant, size=6, num_steps=60)
        environment = make_environment("hyperact/DeepSea-v0", {"size": 6, "mapping_seed": 3})

        at_once = walk.evaluation_returns(learner, "deepsea", 1, num_episodes)

        played = evaluation_returns(environment, learner, "deepsea", 1, num_episodes)
        np.testing.assert_allclose(played, at_once, atol=1e-6)

    def test_divers_scatter(self) -> None:
        """The comparison above is not one of equal paths only."""
        learner, walk = half_learned("hyperagent", size=6, num_steps=60)

        returns = walk.evaluation_returns(learner, "deepsea", 1, num_episodes)

        assert len(set(returns.round(4))) > 2

    def test_a_stochastic_sea_is_refused(self) -> None:
        """Its outcomes are no table."""
        environment = make_environment("hyperact/DeepSea-v0", {"size": 4, "deterministic": False})

        with pytest.raises(ValueError, match="expected a deterministic DeepSea"):
            SeaWalk(environment)

    @pytest.mark.parametrize(
        ("keywords", "schedule", "overrides", "is_walked"),
        [
            ({}, IndexSchedule.INDEX_SCHEDULE_EPISODE, {}, True),
            ({"deterministic": False}, IndexSchedule.INDEX_SCHEDULE_EPISODE, {}, False),
            ({}, IndexSchedule.INDEX_SCHEDULE_STEP, {}, False),
            ({}, IndexSchedule.INDEX_SCHEDULE_EPISODE, {"epsilon": {"evaluation": 0.1}}, False),
        ],
    )
    def test_what_is_no_table_is_played(
        self, keywords: dict[str, Any], schedule: Any, overrides: dict[str, Any], is_walked: bool
    ) -> None:
        """Weather, an index per step and random actions make each episode one of its own."""
        environment = make_environment("hyperact/DeepSea-v0", {"size": 4, **keywords})
        spec = spec_of(environment)
        spec.index_schedule = schedule

        assert is_walked == can_walk(environment, Learner(spec, LearnerConfig().with_overrides(overrides), 0))
