"""From a learner to a registered version: export, judge, register, promote, in this order.

Parity is checked before anything is registered; a version that the gates hold back stays registered with the reason as
its tag; the alias moves last.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from hyperact.trainer.export import Lineage, OnnxGraph, ParityError, golden_observations, write_version
from hyperact.trainer.gates import Evidence, GateLimits, PolicyChange, Verdict, compare_policies, judge
from hyperact.trainer.learner import Learner
from hyperact.trainer.observations import Observations
from hyperact.trainer.tracking import (
    Candidate,
    ServingVersion,
    Tracking,
    candidate_tag,
    dataset_json,
    dataset_tag,
    gate_tag,
    learner_steps_tag,
)
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.manifests import spec_differences
from hyperact.v1.model_pb2 import Manifest

_passed = "passed"
_num_golden = 64


@dataclass(frozen=True, slots=True)
class Release:
    """What became of a candidate. `version` is empty if it was not registered, `deployment` None if not promoted."""

    version: str
    gate_report: str
    deployment: Deployment | None = None
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class Releases:
    """Makes versions of one model.

    Attributes:
        actor: who promotes, for the ledger.
        is_promoting: whether a candidate that passes the gates is promoted.
        evaluate: measures the return of a learner; None if there is no environment to do so in.
    """

    tracking: Tracking
    limits: GateLimits
    actor: str
    is_promoting: bool
    evaluate: Callable[[Learner], float] | None = None

    def release(
        self,
        name: str,
        learner: Learner,
        recent_observations: Observations,
        lineage: Lineage,
        num_transitions: int,
        now: datetime,
    ) -> Release:
        """Export, judge, register and, if all is well, promote a learner.

        Args:
            name: names the candidate for good; a retry after a death finds what was registered under it.
            learner: what is released.
            recent_observations: [N, *shape], N may be 0; parity and the policy's change are measured on them.
            lineage: goes into the manifest.
            num_transitions: training transitions since the last promotion, for the ledger.
            now: the time of export and promotion.

        Raises:
            TrackingUnavailableError: MLflow is away; calling again with the same name is safe.
        """
        serving = self.tracking.serving()
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            golden = _golden(learner, recent_observations)
            try:
                manifest = write_version(directory, learner.hypermodel, learner.spec, golden, lineage, now)
            except ParityError as error:
                verdict = judge(Evidence(parity_problem=str(error)), self.limits)
                return Release("", verdict.report)
            verdict = judge(self._evidence(learner, recent_observations, serving), self.limits)
            tags = {
                candidate_tag: name,
                gate_tag: verdict.report,
                dataset_tag: dataset_json(manifest),
                learner_steps_tag: str(lineage.num_learner_steps),
            }
            version = self.tracking.register(directory, manifest, lineage.run_id, tags, _description(lineage, verdict))
        candidate = Candidate(version, verdict.report)
        return self.finish(candidate, num_transitions, now, manifest)

    def finish(
        self, candidate: Candidate, num_transitions: int, now: datetime, manifest: Manifest | None = None
    ) -> Release:
        """Promote a registered candidate if it passed the gates; harmless if that happened already."""
        deployment = None
        if self.is_promoting and candidate.gate_report.startswith(_passed):
            deployment = self.tracking.promote(
                candidate.version, self.actor, num_transitions, candidate.gate_report, now
            )
        return Release(candidate.version, candidate.gate_report, deployment, manifest)

    def _evidence(self, learner: Learner, observations: Observations, serving: ServingVersion | None) -> Evidence:
        coefficients = learner.coefficients(_golden(learner, observations))
        differences: Sequence[str] = ()
        change: PolicyChange | None = None
        if serving is not None:
            differences = spec_differences(serving.manifest.spec, learner.spec)
            if not differences and len(observations):
                current = OnnxGraph(serving.graph).coefficients(observations)
                change = compare_policies(
                    current, serving.manifest.spec, learner.coefficients(observations), learner.spec
                )
        return Evidence(
            spec_differences=differences,
            is_finite=bool(np.isfinite(coefficients).all()),
            change=change,
            evaluation_return=self.evaluate(learner) if self.evaluate else None,
        )


def _golden(learner: Learner, recent_observations: Observations) -> Observations:
    """Return some of the recent observations, or made-up ones if there are none."""
    if len(recent_observations):
        return recent_observations[-_num_golden:]
    return golden_observations(learner.spec)


def _description(lineage: Lineage, verdict: Verdict) -> str:
    parent = f"continues version {lineage.parent_version}" if lineage.parent_version else "a first version"
    return f"{lineage.num_learner_steps} learner steps, {parent}. Gates: {verdict.report}."
