"""From a learner to a registered version: export, judge, register, promote, in this order.

Parity is checked before anything is registered; a version that the gates hold back stays registered with the verdict as
its tag; the alias moves last. The verdict is a tag, and its report a table and a picture in the version's run.
"""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import structlog

from hyperact.trainer.export import Lineage, ParityError, write_version
from hyperact.trainer.gate_evidence import Examiner, Recent
from hyperact.trainer.gate_figure import gate_figure
from hyperact.trainer.learner import Learner
from hyperact.trainer.observations import Observations
from hyperact.trainer.tracking import (
    Candidate,
    Tracking,
    TrackingUnavailableError,
    candidate_tag,
    dataset_json,
    dataset_tag,
    evaluation_return_tag,
    gate_tag,
    learner_steps_tag,
)
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.gates import Evidence, GateLimits, Verdict, judge, passed
from hyperact.v1.made_up import made_up_observations
from hyperact.v1.model_pb2 import Manifest

logger = structlog.get_logger()

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
        examiner: gathers what the gates judge.
    """

    tracking: Tracking
    limits: GateLimits
    actor: str
    is_promoting: bool
    examiner: Examiner

    def release(
        self,
        name: str,
        learner: Learner,
        recent: Recent,
        lineage: Lineage,
        num_transitions: int,
        now: datetime,
    ) -> Release:
        """Export, judge, register and, if all is well, promote a learner.

        Args:
            name: names the candidate for good; a retry after a death finds what was registered under it.
            learner: what is released.
            recent: parity, the policy's change and the off-policy estimate are measured on it.
            lineage: goes into the manifest.
            num_transitions: training transitions since the last promotion, for the ledger.
            now: the time of export and promotion.

        Raises:
            TrackingUnavailableError: MLflow is away; calling again with the same name is safe.
        """
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            golden = _golden(learner, recent.observations)
            try:
                manifest = write_version(directory, learner.hypermodel_on_cpu(), learner.spec, golden, lineage, now)
            except ParityError as error:
                one_index = np.zeros((len(golden), 1, learner.spec.index_dim), np.float32)
                is_finite = bool(np.isfinite(learner.values(golden, one_index)).all())
                evidence = Evidence(parity_problem=str(error), is_finite=is_finite)
                verdict = judge(evidence, self.limits)
                self._tell(lineage.run_id, "", evidence, verdict)
                return Release("", verdict.report)
            evidence = self.examiner.examine(learner, (directory / manifest.onnx_file).read_bytes(), manifest, recent)
            verdict = judge(evidence, self.limits)
            tags = {
                candidate_tag: name,
                gate_tag: verdict.report,
                dataset_tag: dataset_json(manifest),
                learner_steps_tag: str(lineage.num_learner_steps),
            }
            if evidence.evaluation_return is not None:
                tags[evaluation_return_tag] = repr(evidence.evaluation_return)
            version = self.tracking.register(directory, manifest, lineage.run_id, tags, _description(lineage, verdict))
        self._tell(lineage.run_id, version, evidence, verdict)
        return self._promote(Candidate(version, verdict.report), num_transitions, now, manifest)

    def finish(self, candidate: Candidate, num_transitions: int, now: datetime) -> Release:
        """Go on with a candidate that was registered before a death.

        One that served already is not promoted again: where the alias stands elsewhere now, somebody moved it back.
        """
        is_back = self.tracking.has_served(candidate.version) and self.tracking.serving_version() != candidate.version
        if is_back:
            logger.warning("the candidate was promoted before and does not serve any more", version=candidate.version)
            return Release(candidate.version, candidate.gate_report)
        return self._promote(candidate, num_transitions, now, None)

    def _promote(self, candidate: Candidate, num_transitions: int, now: datetime, manifest: Manifest | None) -> Release:
        """Promote a registered candidate if it passed the gates; harmless if that happened already.

        While the kill switch stands nothing is promoted: a person threw it, and a person lifts it.
        """
        deployment = None
        kill = self.tracking.standing_kill() if self.is_promoting else None
        if kill is not None:
            logger.warning("the kill switch stands: not promoted", version=candidate.version, reason=kill.reason)
        elif self.is_promoting and candidate.gate_report.startswith(passed):
            deployment = self.tracking.promote(
                candidate.version, self.actor, num_transitions, candidate.gate_report, now
            )
        return Release(candidate.version, candidate.gate_report, deployment, manifest)

    def _tell(self, run_id: str, version: str, evidence: Evidence, verdict: Verdict) -> None:
        """Save the report with the run; what fails is told and not tried again, for the tag has the verdict."""
        if not run_id:
            return
        title = f"gates of version {version}" if version else "gates of what was not registered"
        name = f"gates/{f'version-{version}' if version else 'not-registered'}"
        try:
            self.tracking.log_text(run_id, verdict.to_markdown(title), f"{name}.md")
            self.tracking.log_figure(run_id, gate_figure(title, evidence, self.limits, verdict), f"{name}.png")
        except TrackingUnavailableError as error:
            logger.warning("the gate report could not be logged", problem=str(error))


def _golden(learner: Learner, recent_observations: Observations) -> Observations:
    """Return some of the recent observations, or made-up ones if there are none."""
    if len(recent_observations):
        return recent_observations[-_num_golden:]
    return made_up_observations(learner.spec)


def _description(lineage: Lineage, verdict: Verdict) -> str:
    parent = f"continues version {lineage.parent_version}" if lineage.parent_version else "a first version"
    return f"{lineage.num_learner_steps} learner steps, {parent}. Gates: {verdict.report}."
