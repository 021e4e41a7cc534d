import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from hyperact.trainer.environments import environment_name, make_environment, optimal_return, spec_of
from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE
from hyperact.v1.manifests import check_spec
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule
from hyperact.v1.tensor_pb2 import DataType


class Blank(gymnasium.Env[np.ndarray, np.int64]):
    """An environment that is only its spaces."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Discrete) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ALE/Freeway-v5", "hyperact.clients.atari:hyperact/Freeway-v5"),
        ("hyperact/DeepSea-v0", "hyperact.clients.deep_sea:hyperact/DeepSea-v0"),
        ("hyperact/Labels-v0", "hyperact.clients.labels:hyperact/Labels-v0"),
        ("CartPole-v1", "CartPole-v1"),
        ("my.module:My-v0", "my.module:My-v0"),
    ],
)
def test_names_bring_their_modules(name: str, expected: str) -> None:
    """Games are played as in the papers, ours are found without their module's name, others are left alone."""
    assert expected == environment_name(name)


class TestMakeEnvironment:
    def test_keywords_reach_the_environment(self) -> None:
        """The size of DeepSea, for one."""
        environment = make_environment("hyperact/DeepSea-v0", {"size": 7})

        assert (7, 7) == environment.observation_space.shape

    @pytest.mark.parametrize("name", ["NoSuchThing-v0", "no.such.module:Thing-v0"])
    def test_an_unknown_name_is_told(self, name: str) -> None:
        """In one line that names it."""
        with pytest.raises(ValueError, match=name):
            make_environment(name)

    def test_a_client_that_is_not_installed_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The trainer's extra alone brings no Atari."""
        monkeypatch.setitem(sys.modules, "ale_py", None)
        monkeypatch.delitem(sys.modules, "hyperact.clients.atari", raising=False)

        with pytest.raises(ValueError, match=r"pip install 'hyperact\[clients\]'"):
            make_environment("ALE/Freeway-v5")

    @pytest.mark.parametrize(("name", "what"), [("FrozenLake-v1", "Box"), ("Pendulum-v1", "Discrete")])
    def test_an_environment_that_cannot_be_learned_is_told(self, name: str, what: str) -> None:
        """What is expected of observations and actions is said before anything is trained."""
        with pytest.raises(ValueError, match=f"expected {what}"):
            make_environment(name)


class TestSpecOf:
    def test_deep_sea(self) -> None:
        """Bytes from 0 to 1, two actions, Gaussian indices held for the episode."""
        spec = spec_of(make_environment("hyperact/DeepSea-v0", {"size": 5}))

        check_spec(spec)
        assert (DataType.DATA_TYPE_UINT8, [5, 5], 0.0, 1.0) == (
            spec.observation.dtype,
            list(spec.observation.shape),
            spec.observation.minimum,
            spec.observation.maximum,
        )
        assert (2, 4, GAUSSIAN) == (
            spec.action.discrete.num_actions,
            spec.index_dim,
            spec.reference_distribution,
        )
        assert IndexSchedule.INDEX_SCHEDULE_EPISODE == spec.index_schedule

    def test_unbounded_observations_have_no_bounds(self) -> None:
        """CartPole's limits differ by element and are partly infinite: nothing is promised."""
        spec = spec_of(make_environment("CartPole-v1"))

        assert not spec.observation.HasField("minimum")
        assert not spec.observation.HasField("maximum")

    def test_atari_stacks_draw_from_the_unit_sphere(self) -> None:
        """As the released code does."""
        environment = Blank(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(3))

        assert UNIT_SPHERE == spec_of(environment).reference_distribution

    def test_a_continuing_agent_holds_its_index_for_a_segment(self) -> None:
        """There is no episode to hold it for."""
        spec = spec_of(make_environment("CartPole-v1"), AgentKind.AGENT_KIND_CONTINUING)

        assert IndexSchedule.INDEX_SCHEDULE_GEOMETRIC == spec.index_schedule


def test_only_some_environments_tell_their_optimal_return() -> None:
    """DeepSea does, and its solved criterion needs it."""
    assert pytest.approx(0.99) == optimal_return(make_environment("hyperact/DeepSea-v0", {"size": 3}))
    assert optimal_return(make_environment("CartPole-v1")) is None
