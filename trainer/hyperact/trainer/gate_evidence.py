"""What is known of a candidate before its promotion, measured on its exported graph and on what the log held lately."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyperact.trainer.export import OnnxGraph
from hyperact.trainer.learner import Learner
from hyperact.trainer.observations import Observations
from hyperact.trainer.off_policy.episodes import Episode, find_situations
from hyperact.trainer.off_policy.policies import Policy as WeighedPolicy
from hyperact.trainer.off_policy.weights import weigh
from hyperact.trainer.tracking import ServingVersion, Tracking
from hyperact.v1.gates import Evidence, Policy, PolicyChange, measure_change
from hyperact.v1.joint_probabilities import default_num_groups
from hyperact.v1.made_up import made_up_observations
from hyperact.v1.manifests import spec_differences
from hyperact.v1.model_pb2 import GraphKind, Manifest, ModelSpec
from hyperact.v1.off_policy import OffPolicy, estimate
from hyperact.v1.probabilities import logged_reference

num_made_up = 64
_max_versions_kept = 8


@dataclass(frozen=True, slots=True)
class Recent:
    """What the log held lately.

    Attributes:
        observations: [N, *shape], oldest first; N may be 0.
        episodes: whole ones, for the off-policy estimate; none where it is not asked for.
    """

    observations: Observations
    episodes: Sequence[Episode] = ()


class Versions:
    """The registered versions that were asked for last, with their graphs loaded."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._kept: dict[str, Policy | None] = {}

    def policy(self, version: str) -> Policy | None:
        """Return a version's policy; None if it is not to be had. Raises TrackingUnavailableError."""
        if version in self._kept:
            self._kept[version] = self._kept.pop(version)
        else:
            self.keep(self._tracking.load_version(version), version)
        return self._kept[version]

    def keep(self, found: ServingVersion | None, version: str) -> None:
        """Remember a version that was loaded already."""
        self._kept.pop(version, None)
        self._kept[version] = None if found is None else _to_policy(found.graph, found.manifest)
        while len(self._kept) > _max_versions_kept:
            del self._kept[next(iter(self._kept))]


@dataclass(frozen=True)
class Examiner:
    """Gathers evidence.

    Attributes:
        evaluate: measures the return of a learner; None if there is no environment to do so in.
    """

    tracking: Tracking
    evaluate: Callable[[Learner], float] | None = None
    _versions: list[Versions] = field(default_factory=list)

    def examine(self, learner: Learner, graph: bytes, manifest: Manifest, recent: Recent) -> Evidence:
        """Return what is known of a candidate with this graph. Raises TrackingUnavailableError."""
        candidate = _to_policy(graph, manifest)
        made_up = made_up_observations(learner.spec, num_made_up)
        is_finite = all(_is_finite(candidate, some) for some in (recent.observations, made_up))
        serving = self.tracking.serving()
        differences: Sequence[str] = ()
        change, no_change = None, "nothing serves"
        if serving is not None:
            self._shelf.keep(serving, serving.version)
            differences = spec_differences(serving.manifest.spec, learner.spec)
            change, no_change = self._change(candidate, serving.version, recent.observations, made_up, is_finite)
        off_policy, no_off_policy = None, "it answers no finite numbers"
        if is_finite and not differences:
            off_policy, no_off_policy = self._off_policy(candidate, recent.episodes)
        return Evidence(
            spec_differences=differences,
            is_finite=is_finite,
            serving_version=serving.version if serving else "",
            change=change,
            no_change=no_change,
            off_policy=off_policy,
            no_off_policy=no_off_policy,
            evaluation_return=self.evaluate(learner) if self.evaluate and is_finite else None,
        )

    @property
    def _shelf(self) -> Versions:
        if not self._versions:
            self._versions.append(Versions(self.tracking))
        return self._versions[0]

    def _change(
        self, candidate: Policy, version: str, observations: Observations, made_up: Observations, is_finite: bool
    ) -> tuple[PolicyChange | None, str]:
        """Return how the candidate differs from what serves, or why that is not known."""
        current = self._shelf.policy(version)
        if current is None or spec_differences(current.spec, candidate.spec):
            return None, "the specs differ"
        if not is_finite:
            return None, "it answers no finite numbers"
        if not len(observations):
            return None, "the log holds no recent observations"
        return measure_change(current, candidate, observations, made_up), ""

    def _off_policy(self, candidate: Policy, episodes: Sequence[Episode]) -> tuple[OffPolicy | None, str]:
        """Return what the log says of the candidate's worth, or why it says nothing."""
        if not episodes:
            return None, "the log holds no whole episode"
        policies = self._policies(episodes, candidate.spec)
        return estimate_worth(episodes, candidate, policies)

    def _policies(self, episodes: Iterable[Episode], spec: ModelSpec) -> dict[str, Policy]:
        """Return the versions that decided, as far as they are to be had."""
        decided = set().union(*(episode.versions for episode in episodes)) - {""}
        found = {version: self._shelf.policy(version) for version in sorted(decided, key=int)}
        return {
            version: policy for version, policy in found.items() if policy and not spec_differences(policy.spec, spec)
        }


def estimate_worth(
    episodes: Sequence[Episode], candidate: Policy, policies: dict[str, Policy]
) -> tuple[OffPolicy | None, str]:
    """Return what episodes that `policies` (by their versions) or the fallback decided say of a candidate."""
    situations = find_situations(episodes, candidate.spec.action.discrete.num_actions)
    target = _to_weighed("candidate", candidate)
    others = {version: _to_weighed(version, policy) for version, policy in policies.items()}
    weighed = weigh(list(episodes), situations, target, others, default_num_groups)
    if not weighed.rows:
        return None, f"no episode can be weighed: {'; '.join(weighed.left_out)}"
    rewards = np.array([step.reward for episode in episodes for step in episode.steps])
    returns = np.array([rewards[rows].sum() for rows in weighed.rows])
    last = [target[-1] - logged[-1] for target, logged in zip(weighed.log_target, weighed.log_logged, strict=True)]
    return estimate(returns, np.exp(np.stack(last))), ""


def _to_policy(graph: bytes, manifest: Manifest) -> Policy:
    session, reference = OnnxGraph(graph), logged_reference(manifest)
    return Policy(lambda observations: session.beliefs(observations, reference), manifest.spec, reference)


def _to_weighed(version: str, policy: Policy) -> WeighedPolicy:
    """Return a policy to weigh by. One that answers values does so for the bank that it declares and no longer one."""
    reference = policy.reference
    if reference.is_affine:
        return WeighedPolicy(version, policy.spec, policy.graph, num_logged=reference.num_draws)
    num_indices = reference.num_draws // default_num_groups * default_num_groups
    kind = GraphKind.GRAPH_KIND_INDEXED
    return WeighedPolicy(version, policy.spec, policy.graph, num_indices, kind, reference.num_draws)


def _is_finite(policy: Policy, observations: "np.ndarray[Any, Any]") -> bool:
    return not len(observations) or bool(np.isfinite(policy.graph(observations)).all())
