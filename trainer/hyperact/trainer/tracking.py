"""Runs, versions and deployments in MLflow. The only file of the room that imports mlflow, and it does so late.

The rules:

1. A version appears in one call, with all its tags. The tag "hyperact.candidate" names what it was made from, so a
   trainer that was killed after registering finds its version instead of making another.
2. A promotion moves the alias first and writes the ledger then.
3. Whatever goes wrong on the way to MLflow is TrackingUnavailableError: it may work later.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperact.v1 import deployments, golden, local_store, manifests
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.errors import FieldError
from hyperact.v1.model_pb2 import GraphKind, Manifest
from hyperact.v1.tensors import numpy_dtype

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

candidate_tag = "hyperact.candidate"
gate_tag = "hyperact.gate"
dataset_tag = "hyperact.dataset"
learner_steps_tag = "hyperact.num_learner_steps"
evaluation_return_tag = "hyperact.evaluation_return"

# MLflow takes these from the environment alone; what the operator set there stands. Nothing here is for others to
# count, and a server that is away should be noticed before a person does.
_process_settings = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_max_metrics_per_call = 1000
# What `mlflow models serve` needs to run a version; given outright, for inferring it takes many seconds.
_required_packages = ("mlflow", "onnx", "onnxruntime", "numpy")


class TrackingUnavailableError(Exception):
    """MLflow cannot be reached or refused; it may work later."""


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One point of a curve; `step` is a learner step or a deployment, as the curve says."""

    name: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class ServingVersion:
    """A registered version with its files."""

    version: str
    manifest: Manifest
    graph: bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A registered version that may be promoted."""

    version: str
    gate_report: str


class Tracking:
    """One model's experiment and registry."""

    def __init__(self, tracking_uri: str, data_dir: Path, model: str, alias: str) -> None:
        """Take the settings; nothing is contacted yet. An empty `tracking_uri` is the SQLite store in `data_dir`."""
        self.uri = tracking_uri or f"sqlite:///{(data_dir / 'mlflow.db').resolve()}"
        self._data_dir = data_dir
        self._is_embedded = self.uri.startswith("sqlite:")
        self._model = model
        self._alias = alias
        self._promoted: dict[int, Deployment] = {}

    @cached_property
    def _client(self) -> "MlflowClient":
        for name, value in _process_settings.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        # A store that is being made has much to say.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)

        def open_at(uri: str) -> MlflowClient:
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
            return client

        return local_store.open_store(self.uri, open_at)

    def start_run(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Begin a run with its parameters and return its id."""
        from mlflow.entities import Param

        with _reaching(self.uri):
            run = self._client.create_run(self._experiment_id(), run_name=name, tags=dict(tags))
            run_id: str = run.info.run_id
            entries = [Param(key, str(value)) for key, value in parameters.items()]
            self._client.log_batch(run_id, params=entries)
        return run_id

    def resume_run(self, run_id: str) -> bool:
        """Mark a run as running again; False if the store does not know it."""
        from mlflow.exceptions import MlflowException

        with _reaching(self.uri):
            try:
                self._client.update_run(run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
        return True

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        with _reaching(self.uri):
            self._client.set_terminated(run_id, status)

    def log_points(self, run_id: str, points: Sequence[MetricPoint], now: datetime) -> None:
        """Add points to a run's curves."""
        from mlflow.entities import Metric

        now_ms = int(now.timestamp() * 1000)
        metrics = [Metric(point.name, point.value, now_ms, point.step) for point in points]
        with _reaching(self.uri):
            for start in range(0, len(metrics), _max_metrics_per_call):
                self._client.log_batch(run_id, metrics=metrics[start : start + _max_metrics_per_call])

    def curve(self, run_id: str, name: str) -> list[tuple[float, float]]:
        """Return a run's curve, by step; a point that was logged twice counts once."""
        with _reaching(self.uri):
            history = self._client.get_metric_history(run_id, name)
        return sorted({metric.step: metric.value for metric in history}.items())

    def log_figure(self, run_id: str, figure: "Figure", file: str) -> None:
        """Save a figure with a run, over an earlier one of that name."""
        with _reaching(self.uri):
            self._client.log_figure(run_id, figure, file)

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Save a text with a run, over an earlier one of that name."""
        with _reaching(self.uri):
            self._client.log_text(run_id, text, file)

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        """Save a file with a run, over an earlier one of that name."""
        with _reaching(self.uri):
            self._client.log_artifact(run_id, str(path), folder)

    def log_dataset(self, run_id: str, manifest: Manifest, source: str) -> None:
        """Note which stretch of the log a run learned from, as MLflow's dataset and as a tag."""
        from mlflow.entities import Dataset, DatasetInput

        ranges = dataset_json(manifest)
        digest = hashlib.sha256(ranges.encode()).hexdigest()[:16]
        entry = Dataset(
            name="step log",
            digest=digest,
            source_type="hyperact",
            source=json.dumps({"address": source}),
            profile=ranges,
        )
        with _reaching(self.uri):
            self._client.log_inputs(run_id, [DatasetInput(entry, [])])
            self._client.set_tag(run_id, dataset_tag, ranges)

    def register(
        self, directory: Path, manifest: Manifest, run_id: str, tags: Mapping[str, str], description: str
    ) -> str:
        """Register what an export wrote into a directory, in MLflow's ONNX flavour; return the new version."""
        with tempfile.TemporaryDirectory() as temporary:
            model_dir = Path(temporary) / "model"
            _save_onnx_flavour(model_dir, directory, manifest)
            with _reaching(self.uri):
                self._ensure_model()
                return self._register(model_dir, run_id, tags, description)

    def find_candidate(self, name: str) -> Candidate | None:
        """Return the version that was registered under a candidate's name, or None."""
        with _reaching(self.uri):
            found = self._client.search_model_versions(
                f"name = '{_quoted(self._model)}'", max_results=200, order_by=["version_number DESC"]
            )
        for version in found:
            if version.tags.get(candidate_tag) == name:
                return Candidate(str(version.version), version.tags.get(gate_tag, ""))
        return None

    def serving(self) -> ServingVersion | None:
        """Return the version that the alias stands at, downloaded; None if there is none or it is not readable."""
        version = self.serving_version()
        return self.load_version(version) if version else None

    def load_version(self, version: str) -> ServingVersion | None:
        """Return a registered version, downloaded; None if there is none of that number or it is not readable."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with _reaching(self.uri), tempfile.TemporaryDirectory() as temporary:
            try:
                source = self._client.get_model_version_download_uri(self._model, version)
                root = Path(download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=self.uri))
                manifest = manifests.from_json((root / manifests.file_name).read_bytes())
                return ServingVersion(version, manifest, (root / manifest.onnx_file).read_bytes())
            except (FieldError, FileNotFoundError, MlflowException) as error:
                logging.getLogger(__name__).warning("version %s of %s is not readable: %s", version, self._model, error)
                return None

    def serving_version(self) -> str:
        """Return the version that the alias stands at; empty if there is none."""
        from mlflow.exceptions import MlflowException

        with _reaching(self.uri):
            try:
                aliases = self._client.get_registered_model(self._model).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return ""
                raise
        return str(aliases.get(self._alias, ""))

    def newest_version(self) -> str:
        """Return the newest version; empty if there is none."""
        with _reaching(self.uri):
            found = self._client.search_model_versions(
                f"name = '{_quoted(self._model)}'", max_results=1, order_by=["version_number DESC"]
            )
        return str(found[0].version) if found else ""

    def has_served(self, version: str) -> bool:
        """Tell whether the ledger knows of a deployment of a version as the champion."""
        with _reaching(self.uri):
            return any(
                entry.to_version == version and deployments.role_of(entry) == deployments.CHAMPION
                for entry in self._ledger()
            )

    def standing_kill(self) -> Deployment | None:
        """Return the kill switch's deployment while it stands: then nobody but a person promotes."""
        with _reaching(self.uri):
            kill = deployments.standing_kill(self._ledger())
        return kill if kill is not None and kill.to_version == self.serving_version() else None

    def promote(self, version: str, actor: str, num_transitions: int, gate_report: str, now: datetime) -> Deployment:
        """Move the alias to a version and write the ledger; harmless if it stands there already."""
        with _reaching(self.uri):
            if self.serving_version() != version:
                self._client.set_registered_model_alias(self._model, self._alias, version)
            entry = deployments.entry_for(self._ledger(), version, actor, now)
            entry.num_transitions = num_transitions
            entry.gate_report = gate_report
            self._client.set_registered_model_tag(self._model, *deployments.to_tag(entry))
        self._promoted[entry.number] = entry
        return entry

    def write_returns(self, returns: Mapping[int, tuple[float, int]]) -> None:
        """Write mean return and number of episodes into the ledger's entries, where they changed.

        A service that saw the alias move before the ledger was written may have written its "observed" over the
        promotion: what is known of it is written again.
        """
        with _reaching(self.uri):
            for found in self._ledger():
                entry = self._promoted.get(found.number, found) if found.actor == deployments.observed else found
                mean, num_episodes = returns.get(entry.number, (0.0, 0))
                if num_episodes and (entry.num_episodes, entry.mean_return) != (num_episodes, mean):
                    entry.mean_return, entry.num_episodes = mean, num_episodes
                    self._client.set_registered_model_tag(self._model, *deployments.to_tag(entry))

    def _ledger(self) -> list[Deployment]:
        """Return the ledger; empty without a model."""
        from mlflow.exceptions import MlflowException

        try:
            return deployments.read_ledger(self._client.get_registered_model(self._model).tags)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise

    def _experiment_id(self) -> str:
        name = f"hyperact/{self._model}"
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = str((self._data_dir / "artifacts").resolve()) if self._is_embedded else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self._model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _register(self, model_dir: Path, run_id: str, tags: Mapping[str, str], description: str) -> str:
        run = self._client.get_run(run_id)
        logged = self._client.create_logged_model(
            run.info.experiment_id, name=_artifact_name(self._model), source_run_id=run_id, model_type="hypermodel"
        )
        self._client.log_model_artifacts(logged.model_id, str(model_dir))
        self._client.finalize_logged_model(logged.model_id, "READY")
        # The plain location: readers need no second look-up in the tracking store.
        version: ModelVersion = self._client.create_model_version(
            self._model,
            source=logged.artifact_location,
            run_id=run_id,
            tags=dict(tags),
            description=description,
            model_id=logged.model_id,
        )
        return str(version.version)


def dataset_json(manifest: Manifest) -> str:
    """Return the log ranges of a manifest in one line: partition id to [first offset, offset after the last]."""
    return json.dumps(
        {log_range.partition: [log_range.begin_offset, log_range.end_offset] for log_range in manifest.dataset}
    )


@contextmanager
def _reaching(uri: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or its HTTP client raise into TrackingUnavailableError."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise TrackingUnavailableError(f"{uri}: {error}") from error


def _save_onnx_flavour(model_dir: Path, export_dir: Path, manifest: Manifest) -> None:
    """Write an MLflow model directory: MLmodel, model.onnx, signature, input example, and manifest.json on top."""
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    spec, numbers = manifest.spec, np.dtype(np.float32)
    dtype, shape = numpy_dtype(spec.observation.dtype), tuple(spec.observation.shape)
    inputs: list[ColSpec | TensorSpec] = [TensorSpec(dtype, (-1, *shape), "observations")]
    output = TensorSpec(numbers, (-1, spec.action.discrete.num_actions, spec.index_dim + 1), "coefficients")
    example = {"observations": np.zeros((1, *shape), dtype)}
    if manifest.graph_kind == GraphKind.GRAPH_KIND_INDEXED:
        inputs.append(TensorSpec(numbers, (-1, -1, spec.index_dim), "indices"))
        output = TensorSpec(numbers, (-1, -1, spec.action.discrete.num_actions), "values")
        example["indices"] = np.zeros((1, 1, spec.index_dim), numbers)
    signature = ModelSignature(inputs=Schema(inputs), outputs=Schema([output]))
    mlflow.onnx.save_model(
        onnx.load(str(export_dir / manifest.onnx_file)),
        str(model_dir),
        signature=signature,
        input_example=example,
        pip_requirements=_requirements(),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    # The digest in the manifest is of the exported bytes: MLflow's copy is written anew.
    for file in (manifest.onnx_file, manifests.file_name, golden.file_name):
        (model_dir / file).write_bytes((export_dir / file).read_bytes())


def _requirements() -> list[str]:
    requirements = []
    for package in _required_packages:
        try:
            requirements.append(f"{package}=={metadata.version(package)}")
        except metadata.PackageNotFoundError:
            requirements.append(package)
    return requirements


def _artifact_name(model: str) -> str:
    """Return a name that MLflow takes for a logged model, which forbids some characters that a model may have."""
    return "".join("-" if character in "/:.%\"'" else character for character in model)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
