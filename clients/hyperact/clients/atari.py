"""Atari games with the papers' preprocessing, spelled out in one function.

    what                     how                                                          by
    -----------------------  -----------------------------------------------------------  ----------------------
    emulator                 ale-py's v5 ids made to be NoFrameskip-v4: frameskip 1, no    ALE
                             sticky actions, the game's minimal action set
    limit                    108 000 raw frames (30 minutes) truncate a game               ALE
    start                    1 to 30 no-op frames, drawn uniformly                         NoopReset
    frame skip               the action is repeated for 4 frames, rewards add up; the     SkipFrames
                             observation is the pixelwise maximum of the last two frames
    life loss                in training only: it ends the episode (`terminated`), and     LifeLossEnds
                             the next one goes on in the same game after one no-op
    FIRE                     pressed once after a reset in games that have the button      FireReset
    grey, 84 x 84            OpenCV's RGB to grey, then area interpolation                 gymnasium
    stack                    the last 4 observations, oldest first; the first one          gymnasium
                             stands for those before it

Observation: uint8 [4, 84, 84], 0 to 255. Actions: the game's own. Rewards are raw: clipping is a view of the learner's.
Evaluation is `training=False`: full games.

Where Gymnasium has a wrapper that does exactly the above it is used. These do not, so they stand here:
`AtariPreprocessing` and `MaxAndSkipObservation` return an old frame when an episode ends within a skip, which a
truncated episode's last value would be learned from; `AtariPreprocessing` starts a new game after a lost life and takes
ALE's grey; `GrayscaleObservation` has other weights; none presses FIRE.

The ids hyperact/<Game>-v5 are registered for every game of ALE, e.g. "hyperact.clients.atari:hyperact/Freeway-v5".

Source: arXiv:2402.10228 appendix B (protocol), the released code's atari_wrapper (order and details).
"""

from typing import Any, SupportsFloat

import ale_py
import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, ResizeObservation, TransformObservation
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Environment = gymnasium.Env[Frame, Any]
Wrapper = gymnasium.Wrapper[Frame, Any, Frame, Any]
StepResult = tuple[Frame, SupportsFloat, bool, bool, dict[str, Any]]

frames_per_second = 60
frame_skip = 4
stack_size = 4
screen_pixels = 84
max_noop_frames = 30
max_frames_per_episode = 108_000
id_prefix = "hyperact/"


def make_atari(
    game: str,
    *,
    training: bool = True,
    render_mode: str | None = None,
    max_frames: int = max_frames_per_episode,
) -> gymnasium.Env[Frame, Any]:
    """Return a game as the module's docstring says.

    Args:
        game: the name in ALE's ids, "Freeway" in "ALE/Freeway-v5".
        training: whether a lost life ends the episode.
        render_mode: "rgb_array" or None.
        max_frames: raw frames after which a game is truncated.
    """
    environment: Environment = gymnasium.make(
        f"ALE/{game}-v5",
        frameskip=1,
        repeat_action_probability=0.0,
        full_action_space=False,
        max_num_frames_per_episode=max_frames,
        render_mode=render_mode,
        disable_env_checker=True,
    )
    environment = NoopReset(environment)
    environment = SkipFrames(environment)
    if training:
        environment = LifeLossEnds(environment)
    if "FIRE" in action_meanings(environment):
        environment = FireReset(environment)
    environment = TransformObservation(environment, to_grey, grey_space(environment))
    environment = ResizeObservation(environment, (screen_pixels, screen_pixels))
    return FrameStackObservation(environment, stack_size)


def action_meanings(environment: Environment) -> list[str]:
    """Return what each action presses."""
    meanings: list[str] = environment.unwrapped.get_action_meanings()  # type: ignore[attr-defined] # ALE's own
    return meanings


def to_grey(frame: Frame) -> Frame:
    """Return an RGB frame, uint8 [H, W, 3], in grey: uint8 [H, W]."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def grey_space(environment: Environment) -> spaces.Space[Frame]:
    """Return the space of an environment's frames in grey."""
    shape = environment.observation_space.shape
    assert shape is not None
    space: spaces.Space[Any] = spaces.Box(0, 255, shape[:2], np.uint8)
    return space


class NoopReset(Wrapper):
    """Begins a game with 1 to 30 frames of doing nothing, so that no two need be the same."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Start a new game."""
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self.unwrapped.np_random.integers(1, max_noop_frames + 1))):
            observation, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        return observation, info


class SkipFrames(Wrapper):
    """Repeats each action for 4 frames and shows the maximum of the last two, which undoes the flicker of sprites."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.metadata = {**environment.metadata, "render_fps": frames_per_second // frame_skip}

    def step(self, action: Any) -> StepResult:
        """Repeat an action until 4 frames have passed or the game is over."""
        total, frames = 0.0, list[Frame]()
        for _ in range(frame_skip):
            frame, reward, terminated, truncated, info = self.env.step(action)
            frames.append(frame)
            total += float(reward)
            if terminated or truncated:
                break
        return np.max(frames[-2:], axis=0), total, terminated, truncated, info


class LifeLossEnds(Wrapper):
    """Ends the episode when a life is lost; the game itself goes on in the next one.

    `info["game_over"]` tells whether the game is over too.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._lives = 0
        self._is_game_over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Go on after a lost life, or start a new game after the last one or if a seed is given."""
        if self._is_game_over or seed is not None:
            observation, info = self.env.reset(seed=seed, options=options)
        else:
            observation, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        self._lives, self._is_game_over = int(info["lives"]), False
        return observation, info

    def step(self, action: Any) -> StepResult:
        """Play on; a lost life counts as the end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._is_game_over = terminated or truncated
        lives, before = int(info["lives"]), self._lives
        self._lives = lives
        info["game_over"] = self._is_game_over
        # Some games show no lives left for a while before the game is over: that is not a loss of its own.
        return observation, reward, terminated or 0 < lives < before, truncated, info


class FireReset(Wrapper):
    """Presses FIRE once after each reset: some games wait for it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Reset and press FIRE."""
        self.env.reset(seed=seed, options=options)
        observation, _, terminated, truncated, info = self.env.step(action_meanings(self).index("FIRE"))
        if terminated or truncated:
            return self.env.reset(options=options)
        return observation, info


def list_games() -> list[str]:
    """Return the names of ALE's games."""
    ids = (name for name in gymnasium.registry if name.startswith("ALE/") and name.endswith("-v5"))
    names = (name.removeprefix("ALE/").removesuffix("-v5") for name in ids)
    return sorted(name for name in names if not name.endswith("-ram"))


# Without this ALE greets on standard error.
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)
for _game in list_games():
    gymnasium.register(
        f"{id_prefix}{_game}-v5", entry_point="hyperact.clients.atari:make_atari", kwargs={"game": _game}
    )
