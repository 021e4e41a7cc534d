"""The batch job: read the log of a running service, learn, export, judge, register, promote, and wait for more.

The rules:

1. A round of the log is read whole, then recorded, then learned from: `replay_ratio` updates per new transition.
2. What must survive is in one checkpoint, replaced at the points where the work changes its kind:

       waiting ──round read──▶ learning ──all updates made──▶ candidate ──registered, judged, promoted──▶ waiting

   A trainer that dies goes on from the last checkpoint: it reads the recorded rounds again, which gives the same replay
   buffer in the same order, and makes the updates that were still due. Nothing is learned twice and nothing is lost.
3. A candidate has a name. One that was registered before a death is found by it, so a version is made once; dying in
   the middle of registering leaves at worst artefacts that no version points to.
   What the log has lost since (a damaged partition that was set aside, what retention took) is told and done without.
4. The trainer is a registered reader: the log keeps what it has not read, and what it would read again after a death to
   fill the replay buffer.
5. A service or a registry that is away is waited for. A stop is heeded between updates and while waiting, never between
   registering and promoting.

This file knows the order of things and no torch, MLflow or gRPC.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from hyperact.trainer.births import make_learner, parameters, spec_of_state
from hyperact.trainer.checkpoints import Checkpoints, RoundRecord, TrainerState
from hyperact.trainer.config import DeviceName
from hyperact.trainer.curves import Curves, names
from hyperact.trainer.export import Lineage, to_onnx
from hyperact.trainer.gate_evidence import Recent
from hyperact.trainer.ingest import Ingest, Taken, dataset
from hyperact.trainer.learner import Learner, State
from hyperact.trainer.log_source import Extent, LogLostError, LogSource, LogUnavailableError, Positions
from hyperact.trainer.n_step import NStepAssembler, NStepTransition
from hyperact.trainer.off_policy.episodes import EpisodeCollector
from hyperact.trainer.plots import learning_figure
from hyperact.trainer.releases import Release, Releases
from hyperact.trainer.replay import chunk_size
from hyperact.trainer.tracking import MetricPoint, TrackingUnavailableError
from hyperact.v1.tensors import TensorChecker
from hyperact.v1.transitions import EpisodeSummary

logger = structlog.get_logger()

# A step's time is taken before it is committed: a window closes this much later than its end.
commit_margin_seconds = 1.0
# A learner that is killed in a long round loses at most this much.
save_period_seconds = 30.0
num_recent_observations = 512
# What the off-policy estimate may keep of observations, each of which a transition has twice.
_episodes_budget_bytes = 256 << 20


class Stopped(Exception):  # noqa: N818 -- not an error: somebody asked
    """The trainer was asked to stop."""


@dataclass(frozen=True, slots=True)
class RetrainOptions:
    """When to learn, and how much.

    Attributes:
        min_new_steps: training steps to wait for before a round.
        schedule: how many training steps the log holds when a round is read, one number a round, ascending; after the
            last, and for an empty one, `min_new_steps` says.
        replay_ratio: updates per new transition.
        max_versions: versions to make before returning; 0: until stopped.
        poll_seconds: how often to look at the log.
        source: the log's address, for people.
        reader: the name under which the log keeps what was not read yet; empty: it is not told.
        off_policy_steps: logged steps, the newest, from which the gates estimate what a candidate is worth; 0: none.
        device: where the learner computes, by name.
    """

    min_new_steps: int = 200
    schedule: Sequence[int] = ()
    replay_ratio: float = 4.0
    max_versions: int = 0
    poll_seconds: float = 0.5
    source: str = ""
    reader: str = ""
    off_policy_steps: int = 2000
    device: DeviceName = "cpu"


@dataclass(slots=True)
class Returns:
    """Returns of training episodes by the deployment that decided them."""

    sums: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, episodes: Sequence[EpisodeSummary]) -> None:
        """Take in ended episodes; evaluation episodes are passed over."""
        for episode in episodes:
            if not episode.is_evaluation:
                total, count = self.sums.get(episode.deployment, (0.0, 0))
                self.sums[episode.deployment] = (total + episode.episode_return, count + 1)

    def means(self) -> dict[int, tuple[float, int]]:
        """Return each deployment's mean return and number of episodes."""
        return {deployment: (total / count, count) for deployment, (total, count) in self.sums.items()}


class Retrainer:
    """Learns from one model's log, version after version."""

    def __init__(
        self,
        source: LogSource,
        checkpoints: Checkpoints,
        releases: Releases,
        options: RetrainOptions,
        state: TrainerState,
        arrays: State | None,
        *,
        stop: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        """Take up the work where `state` and `arrays` (None for a newborn learner) stand.

        `clock` tells Unix time; `stop` is set by whoever wants the trainer to end.
        """
        self._source = source
        self._tracking = releases.tracking
        self._checkpoints = checkpoints
        self._releases = releases
        self._options = options
        self._state = state
        self._stop = stop
        self._clock = clock
        spec = spec_of_state(state)
        self._learner: Learner = make_learner(state, arrays, options.device)
        self._replay = self._learner.make_replay()
        config = state.config
        self._n_step = NStepAssembler(config.num_td_steps, spec.discount, config.reward_view)
        self._ingest = Ingest(spec)
        self._returns = Returns()
        max_steps = min(
            options.off_policy_steps, _episodes_budget_bytes // (2 * TensorChecker(spec.observation).num_bytes)
        )
        self._episodes = EpisodeCollector(max_steps, max_open_steps=max_steps)
        self._curves = Curves()
        self._unplaced: list[NStepTransition] = []
        self._written_returns: dict[int, tuple[float, int]] = {}
        self._is_away = False
        self._told_lost: set[str] = set()
        self._may_be_registered = True
        self._last_save_seconds = clock()

    def run(self) -> int:
        """Learn until stopped or until enough versions were made; return how many were. Raises LogLostError."""
        num_versions = 0
        # The first export is slow, for it imports much: better now than when a version is waited for.
        to_onnx(self._learner.hypermodel_on_cpu(), self._learner.spec)
        try:
            self._acknowledge()
            self._rebuild()
            while not self._options.max_versions or num_versions < self._options.max_versions:
                if not self._state.num_updates_due and not self._state.has_candidate:
                    self._take_next_round()
                self._learn()
                if self._state.has_candidate:
                    self._settle_candidate()
                    num_versions += 1
        except Stopped:
            logger.info("stopped", versions=num_versions, learner_steps=self._learner.num_learner_steps)
        self._end_run()
        return num_versions

    def _rebuild(self) -> None:
        """Fill the replay buffer from the rounds that the checkpoint covers."""
        if not self._state.rounds:
            return
        logger.info("reading the log again up to the checkpoint", rounds=len(self._state.rounds))
        extent = self._extent()
        begins: Positions = {}
        for record in self._state.rounds:
            kept = {partition: end for partition, end in record.ends.items() if end > extent.begins.get(partition, end)}
            begins = {partition: max(begin, extent.begins.get(partition, 0)) for partition, begin in begins.items()}
            if not kept:
                begins = record.ends
                continue
            num_transitions = self._take(begins, kept, record.time_seconds, extent)
            if num_transitions != record.num_transitions:
                logger.warning(
                    "the log changed since it was learned from: going on, but not bit for bit",
                    transitions_then=record.num_transitions,
                    transitions_now=num_transitions,
                )
            begins = record.ends
        self._write_returns()

    def _take_next_round(self) -> None:
        """Wait for enough new training steps and read them."""
        time_seconds, extent = self._wait_for_steps()
        num_transitions = self._take(self._state.ends, extent.ends, time_seconds, extent)
        self._state.rounds.append(
            RoundRecord(
                ends=extent.ends,
                time_seconds=time_seconds,
                num_training_steps=extent.num_training_steps,
                num_transitions=num_transitions,
            )
        )
        self._state.num_new_transitions += num_transitions
        self._state.num_updates_due += round(num_transitions * self._options.replay_ratio)
        self._save()
        self._acknowledge()
        counts = self._ingest.counts
        logger.info(
            "round read",
            transitions=num_transitions,
            updates=self._state.num_updates_due,
            entries=counts.num_entries,
            duplicates=self._ingest.num_duplicates + counts.num_repeated_entries,
            unusable=self._ingest.num_unusable,
            misfits=counts.num_misfits,
        )
        self._write_returns()

    def _acknowledge(self) -> None:
        """Have the log keep what is still to be read; a service that is away is told at the next round."""
        if self._options.reader:
            try:
                self._source.acknowledge(self._options.reader, self._state.needed_from())
            except LogUnavailableError as error:
                logger.warning("the log was not told what to keep", problem=str(error))

    def _wait_for_steps(self) -> tuple[float, Extent]:
        """Return when and how far the log went once it held enough new training steps."""
        is_told = False
        while True:
            now_seconds = self._clock() - commit_margin_seconds
            extent = self._extent()
            # Without a partition that was counted then, the counts do not compare: what is new is seen by reading it.
            is_less = any(partition in extent.set_aside for partition in self._state.ends)
            num_before = 0 if is_less else self._state.num_training_steps
            num_new = extent.num_training_steps - num_before
            scheduled = next((total for total in self._options.schedule if total > num_before), None)
            num_needed = self._options.min_new_steps if scheduled is None else scheduled - num_before
            num_due = self._ingest.num_due(now_seconds) if scheduled is None else 0
            if num_new + num_due >= num_needed:
                return now_seconds, extent
            if not is_told:
                logger.info("waiting for steps", have=num_new, need=num_needed)
                is_told = True
            self._wait()

    def _extent(self) -> Extent:
        while True:
            try:
                extent = self._source.extent(self._state.ends, self._state.num_training_steps)
            except LogUnavailableError as error:
                self._pause(error)
                continue
            if self._is_away:
                logger.info("the log is back")
                self._is_away = False
            self._check_covered(extent)
            return extent

    def _check_covered(self, extent: Extent) -> None:
        for partition, end in self._state.ends.items():
            if partition in extent.set_aside:
                if partition not in self._told_lost:
                    logger.warning("a partition of the log was damaged and set aside: going on", partition=partition)
                    self._told_lost.add(partition)
                continue
            if extent.ends.get(partition, 0) < end:
                raise LogLostError(
                    f"{self._checkpoints.path} covers partition {partition} up to offset {end}, but the log of "
                    f"{self._options.source} ends at {extent.ends.get(partition, 0)}: is it another log? "
                    "Move the checkpoint away to learn anew from what there is"
                )

    def _take(self, begins: Positions, ends: Positions, time_seconds: float, extent: Extent) -> int:
        """Read a round into the replay buffer; return how many transitions it gave."""
        num_before = self._replay.num_added
        for entries in self._source.read(begins, ends, extent, self._pause):
            if self._stop.is_set():
                raise Stopped
            self._place(self._ingest.push(entries))
        self._place(self._ingest.close_windows(time_seconds))
        self._replay.add(self._unplaced)
        self._unplaced = []
        return self._replay.num_added - num_before

    def _place(self, taken: Taken) -> None:
        """Store transitions in whole chunks: messages of the log may be cut anywhere, the prior's batches may not."""
        self._returns.add(taken.episodes)
        self._episodes.push(taken.transitions)
        self._unplaced.extend(self._n_step.push(taken.transitions))
        num_whole = len(self._unplaced) // chunk_size * chunk_size
        self._replay.add(self._unplaced[:num_whole])
        del self._unplaced[:num_whole]

    def _learn(self) -> None:
        """Make the updates that are due, and note that what was learned is a candidate."""
        if not self._state.num_updates_due:
            return
        while self._state.num_updates_due:
            if self._stop.is_set():
                self._save()
                raise Stopped
            if self._clock() - self._last_save_seconds > save_period_seconds:
                self._save()
                logger.info("learning", updates_left=self._state.num_updates_due)
            statistics = self._learner.update(self._replay)
            self._state.num_updates_due -= 1
            self._curves.add(self._learner.num_learner_steps, statistics)
        self._state.has_candidate = True
        self._save()

    def _settle_candidate(self) -> None:
        """Register, judge and promote what was learned, however often MLflow goes away meanwhile."""
        while True:
            try:
                release = self._release()
                break
            except TrackingUnavailableError as error:
                self._may_be_registered = True
                logger.warning("MLflow is away: waiting", problem=str(error))
                self._wait()
        self._may_be_registered = False
        self._state.has_candidate = False
        if release.version:
            self._state.parent_version = release.version
        if release.deployment is not None:
            self._state.num_new_transitions = 0
        self._save()
        self._tell(release)
        self._log_run(release)

    def _release(self) -> Release:
        state = self._state
        name = f"{state.lineage}/{self._learner.num_learner_steps}"
        now = datetime.fromtimestamp(self._clock(), UTC)
        if self._may_be_registered:
            candidate = self._tracking.find_candidate(name)
            if candidate is not None:
                return self._releases.finish(candidate, state.num_new_transitions, now)
        self._ensure_run()
        lineage = Lineage(
            model=state.model,
            dataset=dataset(state.ends),
            parent_version=state.parent_version,
            run_id=state.run_id,
            num_learner_steps=self._learner.num_learner_steps,
            environment=state.environment,
        )
        recent = Recent(self._replay.recent_observations(num_recent_observations), self._episodes.episodes)
        return self._releases.release(name, self._learner, recent, lineage, state.num_new_transitions, now)

    def _ensure_run(self) -> None:
        if self._state.run_id and self._tracking.resume_run(self._state.run_id):
            return
        named = parameters(self._state.config, self._learner.spec) | {
            "seed": self._state.seed,
            "replay_ratio": self._options.replay_ratio,
            "min_new_steps": self._options.min_new_steps,
        }
        tags = {"hyperact.lineage": self._state.lineage, "hyperact.environment": self._state.environment}
        self._state.run_id = self._tracking.start_run("retrain", named, tags)
        # A new run knows nothing of what earlier deployments returned.
        self._written_returns = {}
        self._save()

    def _tell(self, release: Release) -> None:
        if release.deployment is not None:
            logger.info(
                "promoted",
                version=release.version,
                deployment=release.deployment.number,
                transitions=release.deployment.num_transitions,
                gates=release.gate_report,
            )
        elif release.version:
            logger.info("registered, not promoted", version=release.version, gates=release.gate_report)
        else:
            logger.error("not registered", gates=release.gate_report)

    def _log_run(self, release: Release) -> None:
        """Add curves, figure, data set and the learner's state to the run; what fails is told and not tried again."""
        run_id, now = self._state.run_id, datetime.fromtimestamp(self._clock(), UTC)
        if not run_id:
            return
        try:
            self._tracking.log_points(run_id, self._curves.take(), now)
            if release.manifest is not None:
                self._tracking.log_dataset(run_id, release.manifest, self._options.source)
            curves = {name: self._tracking.curve(run_id, name) for name in names[:3]}
            self._tracking.log_figure(run_id, learning_figure(curves, self._returns.means()), "learning.png")
            self._tracking.log_file(run_id, self._checkpoints.path, "learner")
        except TrackingUnavailableError as error:
            logger.warning("the run could not be logged", problem=str(error))
        self._write_returns()

    def _write_returns(self) -> None:
        """Tell the ledger and the run what deployments returned, where that changed."""
        means = self._returns.means()
        changed = {number: mean for number, mean in means.items() if self._written_returns.get(number) != mean}
        if not changed or not self._state.parent_version:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            self._tracking.write_returns(changed)
            if self._state.run_id:
                self._tracking.log_points(self._state.run_id, _return_points(changed), now)
            self._written_returns = means
        except TrackingUnavailableError as error:
            logger.warning("the returns could not be written", problem=str(error))

    def _end_run(self) -> None:
        if not self._state.run_id:
            return
        try:
            self._tracking.end_run(self._state.run_id)
        except TrackingUnavailableError as error:
            logger.warning("the run could not be ended", problem=str(error))

    def _save(self) -> None:
        self._checkpoints.save(self._state, self._learner.get_state())
        self._last_save_seconds = self._clock()

    def _pause(self, error: LogUnavailableError) -> None:
        if not self._is_away:
            logger.warning("the log is away: waiting", address=self._options.source, problem=str(error))
            self._is_away = True
        self._wait()

    def _wait(self) -> None:
        if self._stop.wait(self._options.poll_seconds):
            raise Stopped


def _return_points(means: dict[int, tuple[float, int]]) -> list[MetricPoint]:
    points = []
    for deployment, (mean, num_episodes) in means.items():
        points.append(MetricPoint("mean_return_by_deployment", mean, deployment))
        points.append(MetricPoint("num_episodes_by_deployment", num_episodes, deployment))
    return points
