import json
from datetime import UTC, datetime
from pathlib import Path

import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnxruntime
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from hyperact.trainer.export import Lineage, write_version
from hyperact.trainer.plots import learning_figure, returns_figure
from hyperact.trainer.tracking import (
    Candidate,
    MetricPoint,
    Tracking,
    TrackingUnavailableError,
    candidate_tag,
    gate_tag,
)
from hyperact.v1 import manifests
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.deployments import read_ledger, to_tag
from hyperact.v1.made_up import made_up_observations
from hyperact.v1.model_pb2 import LogRange, Manifest
from toy_trainer import learner_with_replay
from toys import make_registry

now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    make_registry(tmp_path)
    return Tracking("", tmp_path, "default", "champion")


@pytest.fixture
def client(tracking: Tracking) -> MlflowClient:
    return MlflowClient(tracking.uri, tracking.uri)


def export(directory: Path, run_id: str = "") -> Manifest:
    learner, _ = learner_with_replay()
    ranges = [LogRange(partition="a" * 32, begin_offset=1, end_offset=9)]
    lineage = Lineage("default", ranges, "", run_id, 17, "Toy-v0")
    return write_version(directory, learner.hypermodel, learner.spec, made_up_observations(learner.spec), lineage, now)


@pytest.fixture
def version(tracking: Tracking, tmp_path: Path) -> str:
    run_id = tracking.start_run("retrain", {"seed": 0}, {})
    manifest = export(tmp_path / "export", run_id)
    tags = {candidate_tag: "life/17", gate_tag: "passed"}
    return tracking.register(tmp_path / "export", manifest, run_id, tags, "17 learner steps")


class TestVersions:
    def test_a_downloaded_version_runs_with_onnx_runtime_alone(
        self, tracking: Tracking, version: str, tmp_path: Path
    ) -> None:
        """models:/NAME/VERSION holds model.onnx and manifest.json on top: all that a service needs."""
        mlflow.set_tracking_uri(tracking.uri)
        root = Path(download_artifacts(f"models:/default/{version}", dst_path=str(tmp_path / "download")))

        manifest = manifests.from_json((root / "manifest.json").read_bytes())
        session = onnxruntime.InferenceSession(root / manifest.onnx_file, providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {"observations": np.zeros((5, 3), np.float32)})

        assert (5, 2, 5) == answer.shape
        assert (tmp_path / "export" / "model.onnx").read_bytes() == (root / "model.onnx").read_bytes()

    def test_any_mlflow_tool_can_load_it(self, tracking: Tracking, version: str) -> None:
        """The ONNX flavour carries signature and input example, so pyfunc predicts from a named tensor."""
        mlflow.set_tracking_uri(tracking.uri)
        model = mlflow.pyfunc.load_model(f"models:/default/{version}")

        answer = model.predict({"observations": np.zeros((2, 3), np.float32)})

        assert (2, 2, 5) == answer["coefficients"].shape
        assert ["observations"] == model.metadata.get_input_schema().input_names()
        assert model.metadata.saved_input_example_info is not None

    def test_a_version_has_its_tags_from_the_first_moment(self, client: MlflowClient, version: str) -> None:
        """Whoever finds a version finds what it was made from and what the gates said."""
        tags = client.get_model_version("default", version).tags

        assert ("life/17", "passed") == (tags[candidate_tag], tags[gate_tag])

    def test_a_candidate_is_found_by_its_name(self, tracking: Tracking, version: str) -> None:
        """A trainer that was killed after registering does not register again."""
        assert Candidate(version, "passed") == tracking.find_candidate("life/17")
        assert tracking.find_candidate("life/18") is None

    def test_the_serving_version_comes_with_its_manifest_and_graph(self, tracking: Tracking, version: str) -> None:
        """The gates compare with what is in service."""
        before = tracking.serving()

        tracking.promote(version, "somebody", 0, "passed", now)
        serving = tracking.serving()

        assert before is None
        assert serving is not None
        assert (version, 17) == (serving.version, serving.manifest.num_learner_steps)

    def test_an_empty_registry_has_nothing(self, tracking: Tracking) -> None:
        """No model, no version, no error."""
        assert ("", "", None) == (tracking.serving_version(), tracking.newest_version(), tracking.find_candidate("x"))


class TestLedger:
    def test_a_promotion_moves_the_alias_and_writes_the_ledger(
        self, tracking: Tracking, client: MlflowClient, version: str
    ) -> None:
        """Who, when, to what, after how many transitions, and what the gates said."""
        tracking.promote(version, "hyperact retrain", 200, "passed", now)

        model = client.get_registered_model("default")
        (entry,) = read_ledger(model.tags)
        assert version == str(model.aliases["champion"])
        assert (1, version, 200, "passed") == (
            entry.number,
            entry.to_version,
            entry.num_transitions,
            entry.gate_report,
        )

    def test_promoting_again_changes_nothing(self, tracking: Tracking, client: MlflowClient, version: str) -> None:
        """A trainer that was killed before it could note its promotion promotes again: one deployment."""
        for _ in range(2):
            tracking.promote(version, "hyperact retrain", 200, "passed", now)

        assert 1 == len(read_ledger(client.get_registered_model("default").tags))

    def test_returns_are_added_to_their_deployments(
        self, tracking: Tracking, client: MlflowClient, version: str
    ) -> None:
        """Those of deployments that the ledger does not know (the fallback) are passed over."""
        tracking.promote(version, "hyperact retrain", 200, "passed", now)

        tracking.write_returns({0: (-1.0, 3), 1: (0.5, 20)})

        (entry,) = read_ledger(client.get_registered_model("default").tags)
        assert (0.5, 20, "passed") == (entry.mean_return, entry.num_episodes, entry.gate_report)

    def test_an_observation_does_not_hide_who_promoted(
        self, tracking: Tracking, client: MlflowClient, version: str
    ) -> None:
        """A service that saw the alias move a moment too early writes "observed": the next write sets it right."""
        promoted = tracking.promote(version, "hyperact retrain", 200, "passed", now)
        seen = Deployment(number=1, to_version=version, actor="observed", time=promoted.time)
        client.set_registered_model_tag("default", *to_tag(seen))

        tracking.write_returns({1: (0.5, 20)})

        (entry,) = read_ledger(client.get_registered_model("default").tags)
        assert ("hyperact retrain", 200, 0.5) == (entry.actor, entry.num_transitions, entry.mean_return)


class TestRuns:
    def test_a_run_has_parameters_curves_figures_and_files(
        self, tracking: Tracking, client: MlflowClient, tmp_path: Path
    ) -> None:
        """What MLflow's page shows of a training."""
        run_id = tracking.start_run("retrain", {"learning_rate": 0.001}, {"hyperact.lineage": "life"})
        tracking.log_points(run_id, [MetricPoint("loss", 2.0, 50), MetricPoint("loss", 1.0, 100)], now)
        figure = learning_figure({"loss": tracking.curve(run_id, "loss")}, {0: (0.0, 20), 1: (0.5, 20)})
        tracking.log_figure(run_id, figure, "learning.png")
        tracking.log_figure(run_id, returns_figure([0.0, 1.0], [(2, 0.5)]), "returns.png")
        (tmp_path / "state.npz").write_bytes(b"state")
        tracking.log_file(run_id, tmp_path / "state.npz", "learner")
        tracking.end_run(run_id)

        run = client.get_run(run_id)
        assert ("0.001", "FINISHED") == (run.data.params["learning_rate"], run.info.status)
        assert [(50, 2.0), (100, 1.0)] == tracking.curve(run_id, "loss")
        assert {"learner", "learning.png", "returns.png"} == {file.path for file in client.list_artifacts(run_id)}
        assert "hyperact/default" == client.get_experiment(run.info.experiment_id).name

    def test_a_run_names_the_stretch_of_the_log_that_it_learned_from(
        self, tracking: Tracking, client: MlflowClient, tmp_path: Path
    ) -> None:
        """As a data set of MLflow's and as a tag."""
        run_id = tracking.start_run("retrain", {}, {})

        tracking.log_dataset(run_id, export(tmp_path / "export"), "127.0.0.1:1")

        run = client.get_run(run_id)
        assert run.inputs is not None
        (used,) = run.inputs.dataset_inputs
        assert {"a" * 32: [1, 9]} == json.loads(run.data.tags["hyperact.dataset"])
        assert run.data.tags["hyperact.dataset"] == used.dataset.profile

    def test_a_run_goes_on_after_a_restart(self, tracking: Tracking, client: MlflowClient) -> None:
        """The curves of one learner's life stand in one run; one that was deleted is not gone on with."""
        run_id = tracking.start_run("retrain", {}, {})
        tracking.end_run(run_id)

        assert tracking.resume_run(run_id)
        assert "RUNNING" == client.get_run(run_id).info.status
        assert not tracking.resume_run("0" * 32)

    def test_artifacts_lie_in_the_data_directory(self, tracking: Tracking, tmp_path: Path) -> None:
        """Without a server everything is in one place."""
        tracking.start_run("retrain", {}, {})

        (experiment,) = MlflowClient(tracking.uri).search_experiments(filter_string="name = 'hyperact/default'")

        assert str(tmp_path / "artifacts") == experiment.artifact_location


def test_a_server_that_is_away_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every road to MLflow ends in the one error that the trainer waits on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = Tracking("http://127.0.0.1:1", tmp_path, "default", "champion")

    with pytest.raises(TrackingUnavailableError, match=r"127\.0\.0\.1:1"):
        tracking.serving_version()
