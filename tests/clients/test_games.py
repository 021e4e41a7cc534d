"""Which environments sessions can play, and which models fit them."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from hyperact.clients.games import (
    Game,
    UnplayableError,
    check_model,
    check_spaces,
    deep_sea_id,
    make_environments,
    resolve_game,
    video_file,
)
from hyperact.v1.decision_pb2 import GetSpecResponse
from hyperact.v1.model_pb2 import ActionSpec, DiscreteActions, ModelSpec
from hyperact.v1.tensors import make_spec

options: dict[str, Any] = {"size": 5, "mapping_seed": 3, "game": "Pong", "training": True}


def game(name: str, arguments: dict[str, Any] | None = None) -> Game:
    """Return a game by its name."""
    return resolve_game(name, arguments or {}, **options)


class Blind(gymnasium.Env[Any, Any]):
    """An environment that cannot be seen."""

    observation_space = spaces.Box(0, 1, (2,))
    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"


class Unpainted(Blind):
    """An environment whose painter is not installed."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 -- gymnasium.Env declares it so

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        """Begin, unseen."""
        return np.zeros(2, np.float32), {}

    def render(self) -> None:
        """Fail as Gymnasium's own do."""
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("deepsea", (deep_sea_id, {"size": 5, "mapping_seed": 3}, "DeepSea-5")),
            ("atari", ("hyperact.clients.atari:hyperact/Pong-v5", {"training": True}, "ALE/Pong-v5")),
            ("ALE/Freeway-v5", ("hyperact.clients.atari:hyperact/Freeway-v5", {"training": True}, "ALE/Freeway-v5")),
            ("CartPole-v1", ("CartPole-v1", {}, "CartPole-v1")),
        ],
    )
    def test_short_names_stand_for_ids(self, name: str, expected: tuple[str, dict[str, Any], str]) -> None:
        """Whatever else is taken for Gymnasium's own."""
        assert expected == resolve_game(name, {}, **options)[:3]

    @pytest.mark.parametrize(
        "name", ["NoSuchGame-v0", "no_such_module:Game-v0", "hyperact.clients.atari:hyperact/No-v5"]
    )
    def test_what_is_not_there_is_named(self, name: str) -> None:
        """With Gymnasium's reason."""
        with pytest.raises(UnplayableError, match="cannot be made"):
            make_environments(game(name), 1)

    def test_a_wrong_argument_is_told(self) -> None:
        """Not a traceback."""
        with pytest.raises(UnplayableError, match="width"):
            make_environments(game("deepsea", {"width": 3}), 1)


class TestSpaces:
    @pytest.mark.parametrize(
        ("name", "complaint"),
        [("FrozenLake-v1", "expected Box observations"), ("Pendulum-v1", "expected Discrete actions")],
    )
    def test_only_boxes_and_discrete_actions(self, name: str, complaint: str) -> None:
        """The message says what there is instead."""
        with pytest.raises(UnplayableError, match=complaint):
            make_environments(game(name), 1)

    @pytest.mark.parametrize(
        ("observation", "action", "complaint"),
        [
            (spaces.Box(0, 1, (2,)), spaces.Discrete(3, start=1), "from 0"),
            (spaces.Box(0, 1, (2,), np.uint32), spaces.Discrete(3), "cannot be sent"),
        ],
    )
    def test_what_the_wire_cannot_carry_is_refused(self, observation: Any, action: Any, complaint: str) -> None:
        """Before anything is played."""
        with pytest.raises(UnplayableError, match=complaint):
            check_spaces("game", observation, action)

    def test_recording_needs_pictures(self, tmp_path: Path) -> None:
        """An environment without any is refused."""
        gymnasium.register("test/Blind-v0", entry_point=lambda **_: Blind())

        with pytest.raises(UnplayableError, match="no render mode rgb_array"):
            make_environments(game("test/Blind-v0"), 1, tmp_path / "videos" / "blind")

    def test_recording_may_need_a_library(self, tmp_path: Path) -> None:
        """Gymnasium says which, before the first step."""
        gymnasium.register("test/Unpainted-v0", entry_point=lambda **_: Unpainted())

        with pytest.raises(UnplayableError, match="cannot be recorded: pygame is not installed"):
            make_environments(game("test/Unpainted-v0"), 1, tmp_path / "videos" / "unpainted")

    def test_the_first_ones_episodes_are_recorded(self, tmp_path: Path) -> None:
        """As videos in the folder."""
        environments = make_environments(game("deepsea", {"size": 3}), 2, tmp_path / "videos" / "diver")
        environments.reset(seed=0)
        for _ in range(3):
            environments.step(np.zeros(2, np.int64))
        environments.close()

        assert video_file(tmp_path / "videos" / "diver", 0).exists()


class TestModels:
    @staticmethod
    def answer(shape: tuple[int, ...] = (5, 5), dtype: Any = np.uint8, num_actions: int = 2) -> GetSpecResponse:
        """Return what a service says of its model."""
        action = ActionSpec(discrete=DiscreteActions(num_actions=num_actions))
        return GetSpecResponse(
            model="sea", spec=ModelSpec(observation=make_spec(np.dtype(dtype), shape), action=action), version="1"
        )

    @staticmethod
    def check(answer: GetSpecResponse) -> None:
        """Check it against DeepSea-5."""
        environments = make_environments(game("deepsea"), 1)
        try:
            check_model(game("deepsea"), environments, answer)
        finally:
            environments.close()

    def test_a_model_of_the_same_shape_fits(self) -> None:
        """Dtype, shape and number of actions."""
        self.check(self.answer())

    @pytest.mark.parametrize(
        ("spec", "complaint"),
        [
            ({"shape": (6, 6)}, r"observes uint8 \[6, 6\], and DeepSea-5 shows uint8 \[5, 5\]"),
            ({"dtype": np.float32}, r"observes float32 \[5, 5\]"),
            ({"num_actions": 3}, "has 3 actions, and DeepSea-5 has 2"),
        ],
    )
    def test_another_model_is_refused_with_both_sides(self, spec: dict[str, Any], complaint: str) -> None:
        """Before the first step, which the service would refuse anyway."""
        with pytest.raises(UnplayableError, match=complaint):
            self.check(self.answer(**spec))

    def test_without_a_version_the_fallback_must_know_the_actions(self) -> None:
        """Else the way out is told."""
        self.check(GetSpecResponse(model="sea", fallback_num_actions=2))
        with pytest.raises(UnplayableError, match=r"hyperact init --env hyperact/DeepSea-v0 .* --model sea --promote"):
            self.check(GetSpecResponse(model="sea"))
        with pytest.raises(UnplayableError, match="acts among 4 actions"):
            self.check(GetSpecResponse(model="sea", fallback_num_actions=4))
