"""Judges a registered version before it serves: what the gates ask is measured here, without torch.

The rules:

1. The version, the one that serves and those that decided lately are loaded as the service loads them; one that the
   service would refuse is held back with that reason.
2. Parity: the golden answers that its trainer kept beside the version are asked of the graph again, on this machine.
3. What agents saw lately comes from the service's log, or, if none answers, from the log in the data directory; without
   either, what needs it is not measured.
4. The evaluation return is the one that the trainer measured, from the version's tag: there is no environment here.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hyperact.service.episode_weights import estimate_worth
from hyperact.service.errors import DecisionError, VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.operation_settings import GateSettings
from hyperact.service.recent_log import RecentLog, read_recent
from hyperact.service.repository import Repository
from hyperact.service.step_sources import LocalSteps, RemoteSteps, StepSource
from hyperact.service.version_loader import VersionLoader
from hyperact.v1.gates import Evidence, Policy, PolicyChange, Verdict, judge, measure_change
from hyperact.v1.golden import parity_problem
from hyperact.v1.indices import Float32s
from hyperact.v1.made_up import made_up_observations
from hyperact.v1.manifests import spec_differences
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.off_policy import OffPolicy

evaluation_return_tag = "hyperact.evaluation_return"
num_made_up = 64


class Judgement:
    """Judges versions of one model. To be closed."""

    def __init__(self, repository: Repository, settings: GateSettings) -> None:
        self._repository = repository
        self._settings = settings
        self._executor = ThreadPoolExecutor(1, "version-loader")
        self._loader = VersionLoader(
            settings.model,
            repository,
            partial(Hypermodel.load, max_onnx_bytes=settings.max_version_bytes),
            warm_up_batch_sizes=(1,),
            executor=self._executor,
            now=time.time,
            notify=lambda: None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False)

    async def judge(self, version: str) -> Verdict:
        """Return the verdict on a version. Raises RegistryUnavailableError."""
        try:
            evidence = await self._evidence(version)
        except VersionRefusedError as error:
            is_finite = error.reason != "BAD_OUTPUT"
            evidence = Evidence(parity_problem=f"{error.reason}: {error}", is_finite=is_finite)
        return judge(evidence, self._settings.limits)

    async def run_of(self, version: str) -> str:
        """Return the run that made a version; empty if that is not known. Raises RegistryUnavailableError."""
        try:
            return (await self._load(version)).manifest.run_id
        except VersionRefusedError:
            return ""

    async def _evidence(self, version: str) -> Evidence:
        candidate = await self._load(version)
        tags = await self._repository.version_tags(self._settings.model, version)
        golden = await self._repository.fetch_golden(self._settings.model, version)
        serving_version = (await self._repository.look(self._settings.model)).alias_version
        recent, no_log = await self._read_log(candidate.spec)
        is_finite = _is_finite(candidate, recent)
        serving = await self._try_to_load(serving_version)
        differences = spec_differences(serving.spec, candidate.spec) if serving else []
        change, no_change = None, no_log
        off_policy, no_off_policy = None, no_log
        if not is_finite:
            no_change = no_off_policy = "it answers no finite numbers"
        elif not differences:
            change, no_change = _change(serving, candidate, recent, no_log)
            off_policy, no_off_policy = await self._worth(candidate, recent, no_log)
        return Evidence(
            parity_problem=parity_problem(golden, _to_policy(candidate).graph) if golden else "",
            spec_differences=differences,
            is_finite=is_finite,
            serving_version=serving_version,
            change=change,
            no_change=no_change,
            off_policy=off_policy,
            no_off_policy=no_off_policy,
            evaluation_return=_to_float(tags.get(evaluation_return_tag, "")),
        )

    async def _worth(self, candidate: Hypermodel, recent: RecentLog, no_log: str) -> tuple[OffPolicy | None, str]:
        if no_log:
            return None, no_log
        decided = {step.version for episode in recent.episodes for step in episode} - {""}
        policies = {}
        for version in sorted(decided):
            found = await self._try_to_load(version)
            if found is not None and not spec_differences(found.spec, candidate.spec):
                policies[version] = _to_policy(found)
        return estimate_worth(recent.episodes, _to_policy(candidate), policies)

    async def _read_log(self, spec: ModelSpec) -> tuple[RecentLog, str]:
        """Return what the log held lately, and why it cannot be read, if so."""
        settings = self._settings
        problem = "no log"
        openers = (lambda: RemoteSteps(settings.address, settings), lambda: LocalSteps(settings.data_dir))
        for open_source in openers:
            try:
                source: StepSource = open_source()
                try:
                    return await read_recent(source, settings.model, spec, settings.off_policy_steps), ""
                finally:
                    await source.close()
            except DecisionError as error:
                problem = f"no log: {error}"
        return RecentLog(np.zeros((0, *spec.observation.shape))), problem

    async def _load(self, version: str) -> Hypermodel:
        return (await self._loader.load(version)).hypermodel

    async def _try_to_load(self, version: str) -> Hypermodel | None:
        try:
            return await self._load(version) if version else None
        except VersionRefusedError:
            return None


def _change(
    serving: Hypermodel | None, candidate: Hypermodel, recent: RecentLog, no_log: str
) -> tuple[PolicyChange | None, str]:
    """Return how the candidate differs from what serves, or why that is not known."""
    if serving is None:
        return None, "nothing serves that could be compared with"
    if not len(recent.observations):
        return None, no_log or "the log holds no recent observations"
    made_up = made_up_observations(candidate.spec, num_made_up)
    return measure_change(_to_policy(serving), _to_policy(candidate), recent.observations, made_up), ""


def _to_policy(hypermodel: Hypermodel) -> Policy:
    reference = hypermodel.reference

    def answer(observations: NDArray[Any]) -> Float32s:
        shape = len(observations), reference.num_indices, hypermodel.index_dim
        return hypermodel.ask(observations, np.broadcast_to(reference.bank[: reference.num_indices], shape)).beliefs

    return Policy(answer, hypermodel.spec, reference)


def _is_finite(candidate: Hypermodel, recent: RecentLog) -> bool:
    made_up = made_up_observations(candidate.spec, num_made_up)
    batches = [made_up, *([recent.observations] if len(recent.observations) else [])]
    return all(bool(np.isfinite(_to_policy(candidate).graph(batch)).all()) for batch in batches)


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
