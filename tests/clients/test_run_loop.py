"""The loop over real vector environments: what reaches the log is what happened, and no reset is among it."""

from functools import partial
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from hyperact.clients.connection import Connection
from hyperact.clients.episodes import track_episodes
from hyperact.clients.policy import Policy
from hyperact.clients.run_loop import at_most, play_steps
from hyperact.clients.sessions import Session, VectorSession
from toy_service import ToyService

modes = list(AutoresetMode)


class Counter(gymnasium.Env[Any, Any]):
    """Observes (row, episode, step number); the reward is the number of the step. Odd episodes are truncated.

    Episodes of row i last i + 2 steps and then, in turn, one more and one fewer.
    """

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 1000, (3,), np.int32)

    def __init__(self, row: int) -> None:
        self.row, self.episode, self.number = row, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode."""
        super().reset(seed=seed)
        self.episode, self.number = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count."""
        self.number += 1
        is_over = self.number >= self.row + 2 + self.episode % 3 - 1
        is_odd = self.episode % 2 == 1
        return self._observe(), float(self.number), is_over and not is_odd, is_over and is_odd, {}

    def _observe(self) -> Any:
        return np.array([self.row, self.episode, self.number], np.int32)


def make_environments(mode: AutoresetMode, num_rows: int = 3, *, is_async: bool = False) -> Any:
    """Return counters in Gymnasium's own vector environment."""
    kind = AsyncVectorEnv if is_async else SyncVectorEnv
    return kind([partial(Counter, row) for row in range(num_rows)], autoreset_mode=mode)


def make_sessions(service: ToyService, num_rows: int = 3) -> VectorSession:
    """Return sessions over a service in small."""
    return VectorSession(cast(Connection, service), [f"counter-{row}" for row in range(num_rows)], run="r")


class TestEveryMode:
    @pytest.mark.parametrize("mode", modes)
    @pytest.mark.parametrize("is_async", [False, True])
    def test_transitions_are_what_happened_and_never_a_reset(self, mode: AutoresetMode, is_async: bool) -> None:
        """Each leads from a step to the next of the same episode, with that step's reward."""
        service = ToyService()
        environments = make_environments(mode, is_async=is_async)
        with make_sessions(service) as sessions:
            steps = play_steps(environments, sessions, seed=0)
            taken = [next(steps) for _ in range(60)]
        environments.close()

        transitions = service.assemble().transitions

        assert len(transitions) > 50
        for transition in transitions:
            row, episode, number = (int(value) for value in transition.observation)
            assert [row, episode, number + 1] == transition.next_observation.tolist()
            assert (f"counter-{row}", episode, number) == (
                transition.key.session,
                transition.key.episode,
                transition.key.number,
            )
            assert number + 1 == transition.reward
            is_over = number + 1 >= row + 2 + episode % 3 - 1
            assert (is_over and episode % 2 == 0, is_over and episode % 2 == 1) == (
                transition.terminated,
                transition.truncated,
            )
        assert len(taken) == 60

    @pytest.mark.parametrize("mode", modes)
    def test_every_episode_that_ended_is_complete_in_the_log(self, mode: AutoresetMode) -> None:
        """With the return that was played."""
        service = ToyService()
        begun = [0, 0, 0]

        def may_begin(row: int) -> bool:
            begun[row] += 1
            return begun[row] <= 4

        with make_sessions(service) as sessions:
            played = [
                (episode.row, episode.episode_return, episode.num_steps)
                for _, episode in track_episodes(
                    play_steps(make_environments(mode), sessions, seed=0, may_begin=may_begin)
                )
                if episode is not None
            ]

        logged = [
            (int(summary.session[-1]), summary.episode_return, summary.num_steps)
            for summary in service.assemble().episodes
        ]
        assert 12 == len(played)
        assert sorted(played) == sorted(logged)

    @pytest.mark.parametrize("mode", modes)
    def test_a_row_that_may_not_begin_is_left_alone(self, mode: AutoresetMode) -> None:
        """Exactly the asked number of episodes is played; nobody is cut off."""
        service = ToyService()
        with make_sessions(service) as sessions:
            steps = play_steps(make_environments(mode), sessions, may_begin=at_most(5))
            ended = [episode for _, episode in track_episodes(steps) if episode]

        assert 5 == len(ended) == len(service.assemble().episodes)
        assert sum(episode.num_steps for episode in ended) == service.num_steps

    def test_real_cart_poles_leave_a_log_without_gaps(self) -> None:
        """Every logged step but each row's running one has its transition."""
        service = ToyService()
        environments = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
        sessions = make_sessions(service, 4)
        steps = play_steps(environments, sessions, seed=1)
        for _ in range(400):
            next(steps)

        assembled = service.assemble()

        assert len(assembled.transitions) >= service.num_steps - 2 * 4
        assert all(not transition.truncated for transition in assembled.transitions)
        # A reset puts the cart within 0.05 of the middle, at rest; a transition into one would jump.
        for transition in assembled.transitions:
            assert abs(transition.next_observation[0] - transition.observation[0]) < 0.1
            assert transition.reward == 1.0

    def test_environments_that_do_not_tell_their_mode_are_refused(self) -> None:
        """To guess it would poison the log."""
        environments = make_environments(AutoresetMode.DISABLED)
        environments.metadata = {}

        with pytest.raises(ValueError, match="autoreset_mode"):
            next(play_steps(environments, make_sessions(ToyService())))


class TestEpisodes:
    def test_an_episode_says_who_decided_it(self) -> None:
        """Return, length, version and deployment."""
        service = ToyService(deployment=7)
        with make_sessions(service, 1) as sessions:
            steps = play_steps(make_environments(AutoresetMode.SAME_STEP, 1), sessions)
            episode = next(episode for _, episode in track_episodes(steps) if episode)

        assert (0, 1.0, 1, 7, "1", 0.5) == (
            episode.row,
            episode.episode_return,
            episode.num_steps,
            episode.deployment,
            episode.version,
            episode.mean_propensity,
        )


class TestPolicy:
    def test_the_readmes_loop_plays_and_logs(self) -> None:
        """The example that a newcomer copies."""
        service, environment = ToyService(), Counter(2)
        returns = []
        with Session(cast(Connection, service), "counter-2", run="r") as session:
            policy = Policy(session)
            for _ in range(3):
                observation, _ = environment.reset()
                is_over = False
                while not is_over:
                    observation, reward, terminated, truncated, _ = environment.step(policy(observation))
                    is_over = policy.observe(observation, reward, terminated, truncated)
                returns.append((policy.episode_return, policy.num_episode_steps, policy.deployment))

        assembled = service.assemble()
        assert [(6.0, 3, 1), (10.0, 4, 1), (15.0, 5, 1)] == returns
        assert [6.0, 10.0, 15.0] == [summary.episode_return for summary in assembled.episodes]
        assert [False, True, False] == [
            one.truncated for one in assembled.transitions if one.truncated or one.terminated
        ]

    def test_before_the_first_action_nobody_has_decided(self) -> None:
        """There is no version yet."""
        policy = Policy(Session(cast(Connection, ToyService()), "a"))

        assert ("", 0, None) == (policy.version, policy.deployment, policy.decision)
