"""Whether this worker can do what it is for, and if not, why not."""

from hyperact.service.step_log import StepLog
from hyperact.service.versions import Versions
from hyperact.v1.deployment_pb2 import ModelStatus, VersionState


class Readiness:
    """Ready means that the log can be written and every model can be decided.

    A model can be decided when a version is loaded and warm, or the registry holds none yet and the uniform fallback
    can stand in, or the kill switch put that in a version's place.
    """

    def __init__(self, versions: Versions, step_log: StepLog, *, is_fallback_enough: bool) -> None:
        self._versions = versions
        self._step_log = step_log
        self._is_fallback_enough = is_fallback_enough
        self._is_draining = False

    def drain(self) -> None:
        """Be unready from now on."""
        self._is_draining = True

    def problem(self) -> str:
        """Return why the worker is not ready; empty if it is."""
        if self._is_draining:
            return "the service is shutting down"
        if log_problem := self._step_log.problem():
            return log_problem
        problems = (
            _problem_of(status, is_fallback_enough=self._is_fallback_enough) for status in self._versions.status()
        )
        return next(filter(None, problems), "")


def _problem_of(status: ModelStatus, *, is_fallback_enough: bool) -> str:
    by_state = {version.state: version for version in status.versions}
    is_uniform = status.HasField("kill") and not status.kill.to_version
    if VersionState.VERSION_STATE_SERVING in by_state or (is_uniform and status.HasField("spec")):
        return ""
    if loading := by_state.get(VersionState.VERSION_STATE_LOADING):
        return f"version {loading.version} of model {status.model!r} is being loaded"
    if refused := by_state.get(VersionState.VERSION_STATE_REFUSED):
        return f"version {refused.version} of model {status.model!r} cannot be served: {refused.problem}"
    if not status.HasField("registry_time"):
        return f"the registry of model {status.model!r} was not read yet: {status.registry_problem}"
    if is_fallback_enough:
        return ""
    return f"no version of model {status.model!r} has the alias {status.alias!r} yet"
