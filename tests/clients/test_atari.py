"""Atari: the papers' preprocessing, on toy games whose frames are known and on real ones."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from hyperact.clients.atari import FireReset, LifeLossEnds, NoopReset, SkipFrames, list_games, make_atari


class ToyGame(gymnasium.Env[Any, Any]):
    """A game whose frame n is filled with n and gives reward 1; `lives` by frame; over at `num_frames`."""

    observation_space = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, lives: dict[int, int] | None = None, num_frames: int = 1000, *, truncates: bool = False) -> None:
        self.lives = lives or {0: 3}
        self.num_frames = num_frames
        self.truncates = truncates
        self.num_resets = 0
        self.actions: list[int] = []
        self.frame = 0

    def get_action_meanings(self) -> list[str]:
        """Return ALE's names."""
        return ["NOOP", "UP", "FIRE"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin at frame 0."""
        super().reset(seed=seed)
        self.num_resets += 1
        self.frame = 0
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Go to the next frame."""
        self.actions.append(int(action))
        self.frame += 1
        is_over = self.frame >= self.num_frames
        return self._observe(), 1.0, is_over and not self.truncates, is_over and self.truncates, self._info()

    def _observe(self) -> Any:
        # Even frames are dark at the left, as sprites that flicker: a maximum of two shows both sides.
        frame = np.full((2, 2, 3), self.frame % 256, np.uint8)
        frame[:, self.frame % 2] = 0
        return frame

    def _info(self) -> dict[str, Any]:
        return {"lives": self.lives[max(frame for frame in self.lives if frame <= self.frame)]}


class TestSkipFrames:
    def test_four_frames_pass_and_the_last_two_are_seen(self) -> None:
        """The action is repeated, rewards add up, the flicker is gone."""
        game = ToyGame()
        environment = SkipFrames(game)
        environment.reset()

        observation, reward, terminated, truncated, _ = environment.step(1)

        assert ([1, 1, 1, 1], 4.0, False, False) == (game.actions, reward, terminated, truncated)
        np.testing.assert_array_equal([[3, 4], [3, 4]], np.sort(observation[:, :, 0], axis=1))

    @pytest.mark.parametrize("truncates", [True, False])
    def test_a_game_that_ends_within_a_skip_shows_its_true_last_frames(self, truncates: bool) -> None:
        """A truncated episode's last value is learned from this observation."""
        environment = SkipFrames(ToyGame(num_frames=6, truncates=truncates))
        environment.reset()
        environment.step(0)

        observation, reward, terminated, truncated, _ = environment.step(0)

        assert (2.0, not truncates, truncates) == (reward, terminated, truncated)
        np.testing.assert_array_equal([[5, 6], [5, 6]], np.sort(observation[:, :, 0], axis=1))


class TestLifeLossEnds:
    def test_a_lost_life_ends_the_episode_and_not_the_game(self) -> None:
        """The next episode goes on after one no-op."""
        game = ToyGame({0: 3, 5: 2})
        environment = LifeLossEnds(game)
        environment.reset()
        ends = [environment.step(1)[2] for _ in range(5)]

        environment.reset()
        _, _, terminated, _, info = environment.step(1)

        assert [False, False, False, False, True] == ends
        assert (1, 7, False, False) == (game.num_resets, game.frame, terminated, info["game_over"])
        assert 0 == game.actions[5]

    def test_the_end_of_the_game_starts_a_new_one(self) -> None:
        """And is told apart from a lost life."""
        game = ToyGame(num_frames=3)
        environment = LifeLossEnds(game)
        environment.reset()
        results = [environment.step(1) for _ in range(3)]

        environment.reset()

        assert results[-1][4]["game_over"]
        assert (2, 0) == (game.num_resets, game.frame)

    def test_no_lives_left_is_not_a_loss_before_the_game_is_over(self) -> None:
        """Some games count the last life down first and play on for a while."""
        environment = LifeLossEnds(ToyGame({0: 1, 2: 0}, num_frames=5))
        environment.reset()

        assert [False, False, False, False, True] == [environment.step(1)[2] for _ in range(5)]

    def test_a_game_without_lives_ends_when_it_ends(self) -> None:
        """Freeway and Pong have none."""
        environment = LifeLossEnds(ToyGame({0: 0}, num_frames=3))
        environment.reset()

        assert [False, False, True] == [environment.step(1)[2] for _ in range(3)]

    def test_a_seed_starts_a_new_game(self) -> None:
        """Whoever asks for a seed wants the beginning."""
        game = ToyGame({0: 3, 2: 2})
        environment = LifeLossEnds(game)
        environment.reset()
        environment.step(1)
        environment.step(1)

        environment.reset(seed=4)

        assert (2, 0) == (game.num_resets, game.frame)


class TestResets:
    def test_one_to_thirty_frames_of_nothing(self) -> None:
        """Every number comes, and nothing but no-ops."""
        game = ToyGame()
        environment = NoopReset(game)
        numbers = set()
        for seed in range(300):
            environment.reset(seed=seed)
            numbers.add(game.frame)

        # Each of 30 numbers is missed by 300 draws with probability (29/30)^300 < 4e-5.
        assert set(range(1, 31)) == numbers
        assert {0} == set(game.actions)

    def test_fire_is_pressed_once(self) -> None:
        """By its name: it is not action 1 in every game."""
        game = ToyGame()

        FireReset(game).reset()

        assert [2] == game.actions


class TestRealGames:
    def test_an_observation_is_four_small_grey_frames(self) -> None:
        """As the model's spec says; the first one stands for those before it."""
        environment = gymnasium.make("hyperact.clients.atari:hyperact/Freeway-v5")
        first, _ = environment.reset(seed=0)
        second, reward, *_ = environment.step(1)

        assert ((4, 84, 84), np.uint8) == (first.shape, first.dtype)
        assert first in environment.observation_space
        assert all((frame == first[0]).all() for frame in first)
        np.testing.assert_array_equal(first[1:], second[:3])
        assert (first[3] != second[3]).any()
        assert isinstance(float(reward), float)

    def test_a_seed_makes_a_game_repeatable(self) -> None:
        """Results can be reproduced."""
        frames = []
        for _ in range(2):
            environment = make_atari("Pong")
            environment.reset(seed=11)
            frames.append([environment.step(action)[0] for action in (1, 2, 3, 2)])

        np.testing.assert_array_equal(frames[0], frames[1])

    def test_the_limit_counts_raw_frames_and_truncates(self) -> None:
        """It cuts the episode from outside: the value after it is not zero."""
        environment = make_atari("Freeway", training=False, max_frames=120)
        environment.reset(seed=0)
        results: list[Any] = []
        while not results or not (results[-1][2] or results[-1][3]):
            results.append(environment.step(1))

        assert (False, True) == results[-1][2:4]
        assert 120 == results[-1][4]["episode_frame_number"]

    def test_training_ends_at_a_lost_life_and_evaluation_plays_on(self) -> None:
        """Breakout without moving loses a life in a few seconds."""
        infos = {}
        for training in (True, False):
            environment = make_atari("Breakout", training=training)
            environment.reset(seed=0)
            for _ in range(120):
                *_, terminated, _, info = environment.step(1)
                if terminated:
                    break
            infos[training] = info["lives"], terminated, info.get("game_over")

        assert (4, True, False) == infos[True]
        assert infos[False][0] < 4
        assert infos[False][1] in (False, True)

    def test_every_game_is_registered(self) -> None:
        """The papers' 26 are among them."""
        games = list_games()

        assert {"Alien", "Breakout", "Freeway", "Pong", "UpNDown"} <= set(games)
        assert all(f"hyperact/{game}-v5" in gymnasium.registry for game in games)
