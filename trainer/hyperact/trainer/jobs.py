"""What the commands do: settings in, parts put together, work done. The composition root of the room."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import structlog
from google.protobuf import json_format
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hyperact.trainer import train as training
from hyperact.trainer.births import Birth, make_learner, new_state, parameters
from hyperact.trainer.checkpoints import CheckpointError, Checkpoints, TrainerState
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import Environment, make_environment, optimal_return, spec_of
from hyperact.trainer.evaluate import evaluate_version, log_evaluation
from hyperact.trainer.export import Lineage
from hyperact.trainer.gate_evidence import Examiner, Recent
from hyperact.trainer.ingest import StepSource
from hyperact.trainer.learner import Learner, State
from hyperact.trainer.log_source import LogLostError, LogSource, LogUnavailableError
from hyperact.trainer.off_policy.report import evaluation_figure, evaluation_table, verdict
from hyperact.trainer.plots import returns_figure
from hyperact.trainer.releases import Release, Releases
from hyperact.trainer.retrain import Retrainer, RetrainOptions, num_recent_observations
from hyperact.trainer.sea_walk import SeaWalk, can_walk
from hyperact.trainer.settings import (
    CommonSettings,
    EvaluateSettings,
    InitSettings,
    RetrainSettings,
    TrainSettings,
    agent_kinds,
)
from hyperact.trainer.tracking import MetricPoint, Tracking, TrackingUnavailableError
from hyperact.trainer.training_checkpoint import TrainingCheckpoint
from hyperact.trainer.variants import default_variant
from hyperact.v1.channels import open_channel
from hyperact.v1.errors import FieldError
from hyperact.v1.gates import GateLimits
from hyperact.v1.manifests import check_spec
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.streams import parse_stream_address

logger = structlog.get_logger()

_max_message_bytes = 64 << 20
_default_evaluation_period = 1000


class JobError(Exception):
    """A job cannot be done as asked; the message says what to change."""


def init(settings: InitSettings) -> None:
    """Register an untrained hypermodel, and keep its learner for `retrain` to go on with. Raises JobError."""
    checkpoints = Checkpoints(settings.data_dir, settings.model)
    with _translating(), checkpoints.locked():
        if checkpoints.load() is not None:
            raise JobError(
                f"model {settings.model!r} has a learner already, in {checkpoints.path}: "
                "retrain it, move the file away, or choose another --model"
            )
        tracking = _tracking(settings)
        birth = _birth(settings, tracking.serving_version())
        state = new_state(birth, settings.learner, settings.variant or default_variant)
        learner = make_learner(state)
        state.run_id = tracking.start_run("init", parameters(state.config, learner.spec), {})
        releases = Releases(tracking, GateLimits(), "hyperact init", settings.promote, Examiner(tracking))
        release = _release_untrained(state, learner, releases)
        tracking.end_run(state.run_id)
        state.parent_version, state.run_id = release.version, ""
        checkpoints.save(state, learner.get_state())
    _tell(release)


def train(settings: TrainSettings) -> None:
    """Learn in process, show it, and register the result. Raises JobError."""
    keywords = settings.env_kwargs | ({"size": settings.size} if settings.size else {})
    with _translating():
        environment, evaluation = (make_environment(settings.env, keywords) for _ in range(2))
        spec = spec_of(environment, agent_kinds[settings.agent_kind], settings.discount, settings.index_dim)
        birth = Birth(settings.model, spec, settings.seed, uuid.uuid4().hex, settings.env)
        state = new_state(birth, settings.learner, settings.variant or default_variant)
        learner = make_learner(state, device=settings.device)
        run = _TrainingRun(settings, environment, evaluation, learner)
        run.run()
        release = run.register(_tracking(settings), state) if settings.register else None
        run.forget()
    Console().print(run.table(release))


def retrain(settings: RetrainSettings, stop: Event) -> None:
    """Learn from a service's log until stopped. Raises JobError."""
    checkpoints = Checkpoints(settings.data_dir, settings.model)
    tracking = _tracking(settings)
    with _translating(), checkpoints.locked(), _opened_log(settings) as source:
        taken_up = _take_up(settings, checkpoints, tracking, stop)
        if taken_up is None:
            return
        state, arrays = taken_up
        options = RetrainOptions(
            min_new_steps=settings.min_new_steps,
            schedule=settings.schedule,
            replay_ratio=settings.replay_ratio or state.config.replay_ratio,
            max_versions=settings.max_versions,
            poll_seconds=settings.poll_seconds,
            source=settings.log or settings.address,
            reader=settings.reader or f"trainer of {settings.model}"[:64],
            off_policy_steps=settings.off_policy_steps,
            device=settings.device,
        )
        retrainer = Retrainer(
            source,
            checkpoints,
            _releases(settings, tracking),
            options,
            state,
            arrays,
            stop=stop,
            clock=time.time,
        )
        retrainer.run()


def evaluate(settings: EvaluateSettings) -> None:
    """Estimate a version's value from a service's log, print and plot it. Raises JobError, also if it is refused."""
    tracking = Tracking(settings.tracking_uri, settings.data_dir, settings.model, "")
    with _translating(), _opened_log(settings) as source:
        evaluation = evaluate_version(source, tracking, settings, time.time())
        path = settings.plot or settings.data_dir / f"evaluation-{evaluation.version}.png"
        figure = evaluation_figure(evaluation)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        if settings.log_run:
            log_evaluation(tracking, evaluation, figure, datetime.now(UTC))
    Console().print(evaluation_table(evaluation))
    logger.info("plot saved", path=str(path))
    if evaluation.refusals:
        raise JobError(f"no estimate of version {evaluation.version}: {'; '.join(evaluation.refusals)}")
    Console().print(verdict(evaluation), highlight=False)


@contextmanager
def _opened_log(settings: RetrainSettings | EvaluateSettings) -> Iterator[LogSource]:
    """Give the log that the settings name. Raises JobError, and FieldError for an address that is none."""
    if not settings.log:
        channel_options = [("grpc.max_receive_message_length", _max_message_bytes)]
        with open_channel(settings.address, settings, channel_options) as channel:
            yield StepSource(channel, settings.model)
        return
    try:
        from hyperact.trainer.jet_stream_source import JetStreamSource
    except ModuleNotFoundError as error:
        raise JobError(f"--log needs {error.name}: pip install 'hyperact[nats]'") from error
    with JetStreamSource(parse_stream_address(settings.log), settings.stream_access, settings.model) as source:
        yield source


class _TrainingRun:
    """One in-process run: the consumer of `training.train` that shows, evaluates and ends it."""

    def __init__(
        self, settings: TrainSettings, environment: Environment, evaluation: Environment, learner: Learner
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._evaluation = evaluation
        self._walk = SeaWalk(evaluation) if can_walk(evaluation, learner) else None
        self._learner = learner
        self._replay = learner.make_replay()
        self._curves = Curves()
        self._optimal = optimal_return(environment)
        self._period = settings.evaluation_period or (_default_evaluation_period if self._optimal is not None else 0)
        self._returns: list[float] = []
        self._evaluations: list[tuple[float, float]] = []
        self._is_solved = False
        self._seconds = 0.0
        self._checkpoint = TrainingCheckpoint(settings.checkpoint) if settings.checkpoint else None
        self._start = self._go_on()
        self._num_steps = self._start.num_steps

    def run(self) -> None:
        """Play and learn until solved or until the steps are used up."""
        begin = time.perf_counter()
        settings = self._settings
        steps = training.train(
            self._environment, self._learner, self._replay, self._curves, settings.model, settings.seed, self._start
        )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn(
                "episodes {task.fields[episodes]}  return {task.fields[recent]}  evaluation {task.fields[mean]}"
            ),
        )
        with Progress(*columns, console=Console(stderr=True)) as display:
            task = display.add_task("training", total=settings.num_steps, episodes=0, recent="-", mean="-")
            while not self._is_solved and self._num_steps < settings.num_steps:
                step = next(steps)
                self._take(step)
                if step.episode_return is not None or self._is_solved:
                    display.update(task, completed=step.num_steps, **self._shown())
                if self._checkpoint and step.num_steps % settings.checkpoint_period == 0:
                    self._save(self._checkpoint, step.num_episodes, self._seconds + time.perf_counter() - begin)
        self._seconds += time.perf_counter() - begin

    def register(self, tracking: Tracking, state: TrainerState) -> Release:
        """Register the result with its curves and figure."""
        state.run_id = tracking.start_run(
            "train",
            parameters(state.config, self._learner.spec) | {"seed": state.seed},
            {"hyperact.environment": state.environment},
        )
        now = datetime.now(UTC)
        points = [MetricPoint("evaluation_return", mean, int(episode)) for episode, mean in self._evaluations]
        points += [MetricPoint("episode_return", value, number) for number, value in enumerate(self._returns, 1)]
        tracking.log_points(state.run_id, self._curves.take() + points, now)
        tracking.log_figure(state.run_id, returns_figure(self._returns, self._evaluations), "returns.png")
        recent = Recent(self._replay.recent_observations(num_recent_observations))
        releases = Releases(tracking, GateLimits(), "hyperact train", self._settings.promote, Examiner(tracking))
        release = releases.release(
            f"{state.lineage}/{self._learner.num_learner_steps}",
            self._learner,
            recent,
            _lineage(state, self._learner),
            self._num_steps,
            now,
        )
        tracking.end_run(state.run_id)
        return release

    def table(self, release: Release | None) -> Table:
        """Return what came of the run."""
        table = Table(title=f"{self._settings.env}, seed {self._settings.seed}")
        for name in ("steps", "episodes", "solved", "last evaluation", "steps per second", "version"):
            table.add_column(name, justify="right")
        table.add_row(
            str(self._num_steps),
            str(len(self._returns)),
            "yes" if self._is_solved else "no" if self._optimal is not None else "-",
            f"{self._evaluations[-1][1]:.4f}" if self._evaluations else "-",
            f"{self._num_steps / self._seconds:.0f}",
            (release.version if release else "") or "-",
        )
        return table

    def forget(self) -> None:
        """Remove the checkpoint: the run has ended."""
        if self._checkpoint:
            self._checkpoint.remove()

    def _go_on(self) -> training.Progress:
        """Return where to begin: where the checkpoint stood, if there is one. ValueError if it is of another run."""
        facts = self._checkpoint.facts() if self._checkpoint else None
        if self._checkpoint is None or facts is None:
            return training.beginning
        if facts["run"] != self._run():
            raise ValueError(f"{self._settings.checkpoint} is of a run with other settings: move it away to begin anew")
        self._checkpoint.load(self._learner, self._replay)
        self._returns = facts["returns"]
        self._evaluations = [(episode, mean) for episode, mean in facts["evaluations"]]
        self._is_solved = facts["solved"]
        self._seconds = facts["seconds"]
        logger.info("going on from the checkpoint", path=str(self._settings.checkpoint), steps=facts["num_steps"])
        return training.Progress(facts["num_steps"], facts["num_episodes"], None)

    def _save(self, checkpoint: TrainingCheckpoint, num_episodes: int, seconds: float) -> None:
        facts = {
            "run": self._run(),
            "num_steps": self._num_steps,
            "num_episodes": num_episodes,
            "returns": self._returns,
            "evaluations": self._evaluations,
            "solved": self._is_solved,
            "seconds": seconds,
        }
        checkpoint.save(self._learner, self._replay, facts)

    def _run(self) -> dict[str, Any]:
        """Return what makes this run the same as another, as JSON says it."""
        settings, learner = self._settings, self._learner
        return {
            "environment": [settings.env, settings.env_kwargs, settings.size],
            "seed": settings.seed,
            "spec": json_format.MessageToDict(learner.spec),
            "config": learner.config.model_dump(mode="json"),
        }

    def _take(self, step: training.Progress) -> None:
        self._num_steps = step.num_steps
        if step.episode_return is not None:
            self._returns.append(step.episode_return)
        if self._period and step.num_steps % self._period == 0:
            self._evaluate(step.num_episodes)

    def _evaluate(self, num_episodes: int) -> None:
        settings = self._settings
        whose = (self._learner, settings.model, settings.seed, settings.evaluation_episodes)
        if self._walk is not None:
            returns = [float(value) for value in self._walk.evaluation_returns(*whose)]
        else:
            returns = training.evaluation_returns(self._evaluation, *whose)
        self._evaluations.append((num_episodes, float(np.mean(returns))))
        self._is_solved = self._optimal is not None and training.is_solved(returns, self._optimal)

    def _shown(self) -> dict[str, Any]:
        recent = self._returns[-20:]
        return {
            "episodes": len(self._returns),
            "recent": f"{np.mean(recent):.3f}" if recent else "-",
            "mean": f"{self._evaluations[-1][1]:.3f}" if self._evaluations else "-",
        }


def _take_up(
    settings: RetrainSettings, checkpoints: Checkpoints, tracking: Tracking, stop: Event
) -> tuple[TrainerState, State | None] | None:
    """Return the state to go on from and the learner's arrays (None: newborn); None if stopped meanwhile."""
    found = checkpoints.load()
    if found is not None:
        state, arrays = found
        _warn_of_other_settings(settings, state)
        logger.info("going on from the checkpoint", path=str(checkpoints.path), parent=state.parent_version)
        return state, arrays
    while not stop.is_set():
        try:
            birth = _retrain_birth(settings, tracking)
            break
        except TrackingUnavailableError as error:
            logger.warning("MLflow is away: waiting", problem=str(error))
            stop.wait(settings.poll_seconds)
    else:
        return None
    return new_state(birth, _overrides(settings), settings.variant or default_variant), None


def _retrain_birth(settings: RetrainSettings, tracking: Tracking) -> Birth:
    serving = tracking.serving()
    if serving is None:
        if tracking.newest_version():
            logger.warning("versions are registered and none serves: learning anew", model=settings.model)
        return _birth(settings, "")
    logger.warning(
        "no learner of the serving version is here: learning anew from the whole log", version=serving.version
    )
    return Birth(
        model=settings.model,
        spec=serving.manifest.spec,
        seed=settings.seed,
        lineage=uuid.uuid4().hex,
        environment=serving.manifest.environment,
        parent_version=serving.version,
    )


def _overrides(settings: RetrainSettings) -> dict[str, Any]:
    return settings.learner | ({"batch_size": settings.batch_size} if settings.batch_size else {})


def _warn_of_other_settings(settings: RetrainSettings, state: TrainerState) -> None:
    is_other_variant = settings.variant not in ("", state.config.variant)
    if is_other_variant or state.config.with_overrides(_overrides(settings)) != state.config:
        logger.warning("the checkpoint's learner settings stand; move it away to begin anew with other ones")


def _birth(settings: CommonSettings, parent_version: str) -> Birth:
    """Return the birth of a learner for the environment or the spec that the settings name."""
    if settings.spec:
        spec = _read_spec(Path(settings.spec))
    elif settings.env:
        environment = make_environment(settings.env, settings.env_kwargs)
        spec = spec_of(environment, agent_kinds[settings.agent_kind], settings.discount, settings.index_dim)
        environment.close()
        spec.reward_window.FromNanoseconds(round(settings.reward_window_seconds * 1e9))
        if settings.default_reward is not None:
            spec.default_reward = settings.default_reward
    else:
        raise JobError(f"no version of model {settings.model!r} is in service: say what to learn with --env or --spec")
    return Birth(settings.model, spec, settings.seed, uuid.uuid4().hex, settings.env, parent_version)


def _read_spec(path: Path) -> ModelSpec:
    try:
        spec = json_format.Parse(path.read_text(), ModelSpec())
        check_spec(spec)
    except (OSError, json_format.ParseError, FieldError) as error:
        raise JobError(f"{path}: expected the JSON form of hyperact.v1.ModelSpec: {error}") from error
    return spec


def _tracking(settings: CommonSettings) -> Tracking:
    return Tracking(settings.tracking_uri, settings.data_dir, settings.model, settings.alias)


def _releases(settings: RetrainSettings, tracking: Tracking) -> Releases:
    limits = GateLimits(
        max_action_flip_rate=settings.max_action_flip_rate,
        max_divergence=settings.max_divergence,
        min_exploration=settings.min_exploration,
        min_off_policy_gain=settings.min_off_policy_gain,
        min_effective_size=settings.min_effective_size,
        min_evaluation_return=settings.min_evaluation_return,
    )
    return Releases(tracking, limits, "hyperact retrain", settings.promote, Examiner(tracking, _evaluator(settings)))


def _evaluator(settings: RetrainSettings) -> Callable[[Learner], float] | None:
    if settings.min_evaluation_return is None:
        return None
    environment = make_environment(settings.env, settings.env_kwargs)

    def evaluate(learner: Learner) -> float:
        returns = training.evaluation_returns(
            environment, learner, settings.model, settings.seed, settings.evaluation_episodes
        )
        return float(np.mean(returns))

    return evaluate


def _release_untrained(state: TrainerState, learner: Learner, releases: Releases) -> Release:
    nothing = np.zeros((0, *learner.spec.observation.shape))
    name = f"{state.lineage}/0"
    return releases.release(name, learner, Recent(nothing), _lineage(state, learner), 0, datetime.now(UTC))


def _lineage(state: TrainerState, learner: Learner) -> Lineage:
    return Lineage(
        model=state.model,
        parent_version=state.parent_version,
        run_id=state.run_id,
        num_learner_steps=learner.num_learner_steps,
        environment=state.environment,
    )


def _tell(release: Release) -> None:
    if release.deployment is not None:
        logger.info("promoted", version=release.version, deployment=release.deployment.number)
    else:
        logger.info("registered", version=release.version)


@contextmanager
def _translating() -> Iterator[None]:
    """Turn what is the caller's to mend into JobError."""
    try:
        yield
    except (CheckpointError, LogLostError, LogUnavailableError, TrackingUnavailableError, ValueError) as error:
        raise JobError(str(error)) from error
