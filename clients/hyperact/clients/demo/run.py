"""One run of the demo: playing, measuring and waiting, deployment after deployment."""

import time
from typing import TextIO

from hyperact.clients.children import Children
from hyperact.clients.connection import Connection
from hyperact.clients.demo.display import DemoDisplay
from hyperact.clients.demo.sea import (
    DemoSettings,
    make_seas,
    model_name,
    num_evaluation_episodes,
    return_tolerance,
)
from hyperact.clients.demo.stage import poll_seconds
from hyperact.clients.episode_log import EpisodeLog
from hyperact.clients.episodes import track_episodes
from hyperact.clients.results import by_deployment
from hyperact.clients.retries import Retries
from hyperact.clients.run_loop import Environments, at_most, play_steps
from hyperact.clients.sessions import VectorSession

call_deadline_seconds = 90.0
# A trainer that made nothing of what it got may want more.
patience_seconds = 60.0
# All rows of one measurement in one message.
max_batch = 256


class DemoRun:
    """Plays and measures deployment after deployment; what it knows is read from the log."""

    def __init__(
        self,
        settings: DemoSettings,
        connection: Connection,
        children: Children,
        display: DemoDisplay,
        optimal_return: float,
        transcript: TextIO,
    ) -> None:
        self.log = EpisodeLog(connection, model_name(settings))
        self._settings = settings
        self._connection = connection
        self._children = children
        self._display = display
        self._optimal_return = optimal_return
        self._transcript = transcript
        self._training = make_seas(settings, settings.sessions)
        self._evaluation = make_seas(settings, num_evaluation_episodes)
        self._divers = self._sessions("diver", settings.sessions, evaluation=False)

    def run(self) -> bool:
        """Go on until a deployment solves the sea (True) or there were too many (False)."""
        while True:
            self._refresh()
            deployment = self._deployment()
            if deployment and self.log.count(deployment, is_evaluation=True) < num_evaluation_episodes:
                self._measure(deployment)
            if self._is_solved(deployment):
                return True
            if deployment >= self._settings.max_deployments:
                return False
            self._train(deployment)
            self._await_deployment(deployment)

    def _train(self, deployment: int) -> None:
        """Play until the deployment has its training episodes, or another one is in service."""
        num_done = self.log.count(deployment)
        wanted = self._settings.episodes_per_deployment
        what = f"playing training episodes of deployment {deployment}" if deployment else "playing at random"
        self._play(self._training, self._divers, max(wanted - num_done, 0), what, deployment)

    def _measure(self, deployment: int) -> None:
        """Play evaluation episodes, each of a session of its own, so that each has a fresh index."""
        judges = self._sessions("evaluation", num_evaluation_episodes, evaluation=True)
        self._play(self._evaluation, judges, num_evaluation_episodes, f"measuring deployment {deployment}", None)
        self._display.finish(deployment)

    def _play(
        self, seas: Environments, sessions: VectorSession, num_episodes: int, what: str, only_deployment: int | None
    ) -> None:
        """Play so many episodes to their ends and report them.

        Args:
            only_deployment: begin no episode more once another deployment decides; None: whichever decides.
        """
        allowance = at_most(num_episodes)
        is_current = True
        steps = play_steps(seas, sessions, may_begin=lambda row: is_current and allowance(row))
        num_ended = 0
        for step, episode in track_episodes(steps):
            is_current = only_deployment is None or step.decision.deployment <= only_deployment
            num_ended += episode is not None
            self._transcript.write(f"{step.decision.step_id}\n")
            self._display.now(f"{what}: {num_ended} of {num_episodes} episodes")
            if self._settings.step_seconds:
                time.sleep(self._settings.step_seconds / len(sessions.memories))
        sessions.close_episodes()
        self._transcript.flush()
        self._refresh()

    def _await_deployment(self, deployment: int) -> None:
        """Return when another deployment is in service, or when the trainer seems to want more episodes."""
        begin = time.monotonic()
        while self._deployment() == deployment:
            waited_seconds = time.monotonic() - begin
            if waited_seconds > patience_seconds:
                self._display.say(
                    f"no new deployment for {patience_seconds:.0f} s; playing on with deployment {deployment}"
                )
                self._play(
                    self._training, self._divers, self._settings.episodes_per_deployment, "playing on", deployment
                )
                return
            self._display.now(f"the trainer learns and deploys ({waited_seconds:.0f} s)")
            self._children.check()
            time.sleep(poll_seconds)

    def _deployment(self) -> int:
        """Return the number of the deployment in service; 0 if there is none."""
        (status,) = self._connection.get_status(model_name(self._settings)).models
        return status.deployment.number if status.HasField("spec") else 0

    def _is_solved(self, deployment: int) -> bool:
        results = by_deployment(self.log.episodes)
        current = [result for result in results if result.deployment == deployment]
        return bool(current) and current[0].is_solved(self._optimal_return, num_evaluation_episodes, return_tolerance)

    def _refresh(self) -> None:
        self.log.refresh()
        self._display.show(by_deployment(self.log.episodes))
        self._display.count_log(self._connection.get_range(model_name(self._settings)).num_steps)

    def _sessions(self, prefix: str, number: int, *, evaluation: bool) -> VectorSession:
        return VectorSession(
            self._connection,
            [f"{prefix}-{row:02d}" for row in range(number)],
            model=model_name(self._settings),
            evaluation=evaluation,
            max_batch=max_batch,
            retries=Retries(deadline_seconds=call_deadline_seconds),
        )
