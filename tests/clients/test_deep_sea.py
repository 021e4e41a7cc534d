"""DeepSea: the same sea as bsuite's, and a well-behaved Gymnasium environment."""

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from hyperact.clients.deep_sea import DeepSea, draw_mapping


@pytest.fixture(scope="module")
def bsuite_deep_sea() -> Any:
    """Return bsuite's DeepSea class.

    bsuite's own __init__ imports every experiment and their plotting libraries. A bare package in its place lets the
    two modules that matter be imported with dm-env alone.
    """
    spec = importlib.util.find_spec("bsuite")
    assert spec is not None, "bsuite is missing: pip install --no-deps bsuite==0.3.6"
    assert spec.submodule_search_locations is not None
    package = ModuleType("bsuite")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["bsuite"] = package
    return importlib.import_module("bsuite.environments.deep_sea").DeepSea


class NoiseTape:
    """Gives the same noise to bsuite (rand, randn) and to Gymnasium (random, standard_normal)."""

    def __init__(self, seed: int) -> None:
        self._uniforms = np.random.default_rng([seed, 0])
        self._normals = np.random.default_rng([seed, 1])

    def random(self) -> float:
        """Return a uniform."""
        return float(self._uniforms.random())

    def standard_normal(self) -> float:
        """Return a standard normal."""
        return float(self._normals.standard_normal())

    rand, randn = random, standard_normal


def best_actions(environment: DeepSea) -> list[int]:
    """Return the actions that always go right."""
    return [int(environment.mapping[row, row]) for row in range(environment.size)]


def play(environment: Any, actions: list[int]) -> tuple[float, bool]:
    """Return the sum of rewards and whether the last action ended the episode."""
    environment.reset(seed=0)
    total, terminated = 0.0, False
    for action in actions:
        _, reward, terminated, _, _ = environment.step(action)
        total += float(reward)
    return total, terminated


@pytest.mark.parametrize("size", range(2, 13))
class TestAgainstBsuite:
    def test_random_actions_give_the_same_observations_and_rewards(self, bsuite_deep_sea: Any, size: int) -> None:
        """Results on our sea can be laid beside published ones."""
        theirs, ours = bsuite_deep_sea(size=size, mapping_seed=size + 3), DeepSea(size=size, mapping_seed=size + 3)
        actions = np.random.default_rng(size).integers(2, size=(30, size))

        for episode in actions:
            self.check_episode(theirs, ours, episode)

    def test_the_stochastic_variant_is_the_same_on_the_same_noise(self, bsuite_deep_sea: Any, size: int) -> None:
        """Failed moves and noisy rewards come at the same places."""
        theirs = bsuite_deep_sea(size=size, mapping_seed=1, deterministic=False)
        ours = DeepSea(size=size, mapping_seed=1, deterministic=False)
        theirs._rng, ours.np_random = NoiseTape(size), NoiseTape(size)  # type: ignore[assignment]
        actions = np.random.default_rng(size).integers(2, size=(30, size))

        for episode in actions:
            self.check_episode(theirs, ours, episode)

    def test_the_best_policy_returns_what_is_promised(self, bsuite_deep_sea: Any, size: int) -> None:
        """The solved criterion compares with this number."""
        ours = DeepSea(size=size, mapping_seed=7)

        total, terminated = play(ours, best_actions(ours))

        assert terminated
        assert total == pytest.approx(0.99, abs=1e-9)
        assert ours.optimal_return == bsuite_deep_sea(size=size, mapping_seed=7)._optimal_return
        stochastic = bsuite_deep_sea(size=size, mapping_seed=7, deterministic=False)
        assert DeepSea(size=size, deterministic=False).optimal_return == stochastic._optimal_return

    @staticmethod
    def check_episode(theirs: Any, ours: DeepSea, actions: Any) -> None:
        """Play one episode in both and compare at every step."""
        np.testing.assert_array_equal(theirs.reset().observation, ours.reset()[0])
        for action in actions:
            their_step = theirs.step(action)
            observation, reward, terminated, truncated, _ = ours.step(action)
            np.testing.assert_array_equal(their_step.observation, observation)
            assert their_step.reward == pytest.approx(reward, abs=1e-12)
            assert (their_step.last(), False) == (terminated, truncated)
        assert terminated


class TestDeepSea:
    @pytest.mark.parametrize("options", [{}, {"deterministic": False}, {"render_mode": "rgb_array"}])
    def test_gymnasiums_checker_finds_nothing(self, options: dict[str, Any]) -> None:
        """Any tool for Gymnasium environments can be used."""
        environment = gymnasium.make("hyperact.clients.deep_sea:hyperact/DeepSea-v0", size=6, **options).unwrapped

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # The checker says of every environment without a render mode that it does not test rendering.
            warnings.filterwarnings("ignore", message=".*render_mode.*")
            check_env(environment)

    @pytest.mark.parametrize("size", [2, 3, 10])
    def test_only_the_one_path_finds_the_treasure(self, size: int) -> None:
        """One wrong action on the way costs it all."""
        environment = DeepSea(size=size, mapping_seed=size)
        for wrong in range(size):
            actions = best_actions(environment)
            actions[wrong] = 1 - actions[wrong]

            assert play(environment, actions)[0] <= 0

    def test_the_observation_after_the_end_is_all_zeros(self) -> None:
        """A value learned for it means nothing."""
        environment = DeepSea(size=3)
        environment.reset()

        observations = [environment.step(1)[0] for _ in range(3)]

        assert [1, 1, 0] == [int(observation.sum()) for observation in observations]
        assert observations[0].dtype == np.uint8

    def test_a_step_after_the_end_is_an_error(self) -> None:
        """A loop that forgets to reset hears of it at once."""
        environment = DeepSea(size=2)
        play(environment, [0, 0])

        with pytest.raises(gymnasium.error.ResetNeeded):
            environment.step(0)

    def test_a_reset_keeps_the_sea(self) -> None:
        """A mapping drawn anew at each reset would be another, hopeless problem."""
        environment = DeepSea(size=8, mapping_seed=5)
        before = environment.mapping.copy()

        environment.reset(seed=99)

        np.testing.assert_array_equal(before, environment.mapping)
        np.testing.assert_array_equal(before, draw_mapping(8, 5))
        assert (before != draw_mapping(8, 6)).any()

    def test_a_mapping_can_be_given(self) -> None:
        """Equality with another implementation need not go through a seed."""
        mapping = np.eye(4, dtype=bool)

        environment = DeepSea(size=4, mapping=mapping)

        assert play(environment, [1, 1, 1, 1])[0] == pytest.approx(0.99)

    @pytest.mark.parametrize("arguments", [{"size": 1}, {"size": 3, "mapping": np.ones((2, 2))}])
    def test_what_makes_no_sea_is_refused(self, arguments: dict[str, Any]) -> None:
        """The message names the argument."""
        with pytest.raises(ValueError, match=r"size|mapping"):
            DeepSea(**arguments)

    def test_right_fails_once_in_n_when_stochastic(self) -> None:
        """The share of episodes in which the best policy finds the treasure is (1 - 1/N)^(N-1)."""
        environment = DeepSea(size=5, deterministic=False)
        environment.reset(seed=3)
        num_episodes, hits = 4000, 0
        for _ in range(num_episodes):
            environment.reset()
            for _ in range(4):
                position = environment._row, environment._column
                observation, *_ = environment.step(int(environment.mapping[position]))
            hits += int(observation[4, 4])

        # A binomial share: its standard error is sqrt(p (1 - p) / n) < 0.008; five of them.
        assert hits / num_episodes == pytest.approx(0.8**4, abs=0.04)
