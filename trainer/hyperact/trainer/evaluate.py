"""Off-policy evaluation of a registered version: the log is read, versions are fetched, and what they say is weighed.

The rules:

1. The log is read once, from its beginning to where it ended when asked. A service that is away is not waited for.
2. The version that is evaluated says how the log is to be read: its spec's observation, rewards and end of episodes.
3. Every version that decided an episode is fetched from the registry, for the probabilities of its actions together.
   The log alone has the probability of each action by itself.
"""

from collections.abc import Iterable
from datetime import datetime

import structlog
from matplotlib.figure import Figure

from hyperact.trainer.export import OnnxGraph
from hyperact.trainer.ingest import Ingest
from hyperact.trainer.log_source import LogSource, LogUnavailableError
from hyperact.trainer.off_policy.episodes import Episode, EpisodeCollector
from hyperact.trainer.off_policy.evaluation import Evaluation, EvaluationOptions, evaluate
from hyperact.trainer.off_policy.fitted import FitConfig
from hyperact.trainer.off_policy.policies import Policy
from hyperact.trainer.off_policy.support import SupportLimits
from hyperact.trainer.settings import EvaluateSettings
from hyperact.trainer.tracking import MetricPoint, Tracking
from hyperact.v1.indices import bank_size
from hyperact.v1.manifests import spec_differences
from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.probabilities import make_reference

logger = structlog.get_logger()


def evaluate_version(
    source: LogSource, tracking: Tracking, settings: EvaluateSettings, now_seconds: float
) -> Evaluation:
    """Return what the log says of a version. Raises LogUnavailableError, TrackingUnavailableError, ValueError."""
    target = _load(tracking, settings.version, settings.num_indices)
    if target is None:
        raise ValueError(f"version {settings.version!r} of model {settings.model!r} is not in the registry")
    if target.spec.agent_kind == AgentKind.AGENT_KIND_CONTINUING:
        raise ValueError("a continuing agent has no episodes, and so no return that could be estimated")
    collector = EpisodeCollector(settings.max_steps, settings.first_deployment)
    _read(source, target.spec, collector, now_seconds)
    episodes = collector.episodes
    policies = _policies(tracking, target, episodes, settings.num_indices)
    logger.info("weighing", episodes=len(episodes), versions=sorted(policies))
    options = EvaluationOptions(
        discount=settings.return_discount,
        confidence=settings.confidence,
        limits=SupportLimits(min_effective_size=settings.min_effective_size),
        fit=FitConfig(seed=settings.seed),
    )
    return evaluate(episodes, target, policies, options)


def log_evaluation(tracking: Tracking, evaluation: Evaluation, figure: Figure, now: datetime) -> None:
    """Log an evaluation as a run of its own. Raises TrackingUnavailableError."""
    tags = {"hyperact.version": evaluation.version, "hyperact.refused": "; ".join(evaluation.refusals)}
    run_id = tracking.start_run(f"evaluate {evaluation.version}", {"confidence": evaluation.confidence}, tags)
    tracking.log_points(run_id, list(_points(evaluation)), now)
    tracking.log_figure(run_id, figure, "evaluation.png")
    tracking.end_run(run_id)


def _read(source: LogSource, spec: ModelSpec, collector: EpisodeCollector, now_seconds: float) -> None:
    ingest = Ingest(spec)
    extent = source.extent()
    for entries in source.read({}, extent.ends, extent, _give_up):
        collector.push(ingest.push(entries).transitions)
    collector.push(ingest.close_windows(now_seconds).transitions)


def _give_up(error: LogUnavailableError) -> None:
    raise error


def _policies(tracking: Tracking, target: Policy, episodes: Iterable[Episode], num_indices: int) -> dict[str, Policy]:
    """Return the versions that decided, as far as they are to be had."""
    decided = set().union(*(episode.versions for episode in episodes)) - {""}
    policies = {target.version: target} if target.version in decided else {}
    for version in sorted(decided - {target.version}):
        policy = _load(tracking, version, num_indices)
        if policy is not None and not spec_differences(policy.spec, target.spec):
            policies[version] = policy
    return policies


def _load(tracking: Tracking, version: str, num_indices: int) -> Policy | None:
    found = tracking.load_version(version)
    if found is None:
        return None
    manifest, graph = found.manifest, OnnxGraph(found.graph)
    num_logged = manifest.bank_size or bank_size
    whole = make_reference(manifest.spec, manifest.graph_kind, max(num_indices, num_logged))
    return Policy(
        version,
        manifest.spec,
        lambda observations: graph.beliefs(observations, whole),
        num_indices,
        manifest.graph_kind,
        num_logged,
    )


def _points(evaluation: Evaluation) -> Iterable[MetricPoint]:
    for row in evaluation.rows:
        name = row.estimator.replace(" ", "_").replace("-", "_")
        yield MetricPoint(name, row.interval.value, 0)
        if row.has_interval:
            yield MetricPoint(f"{name}_low", row.interval.low, 0)
            yield MetricPoint(f"{name}_high", row.interval.high, 0)
    if evaluation.support is not None:
        yield MetricPoint("effective_size", evaluation.support.effective_size, 0)
        yield MetricPoint("mean_weight", evaluation.support.mean_weight.value, 0)
