"""Following the registry: promotions by every road, versions at fault, a registry that is away, draining."""

import asyncio
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

import toys
from hyperact.service import model_versions
from hyperact.service.errors import RegistryUnavailableError, UnknownNameError, VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.metrics import Metrics
from hyperact.service.model_versions import ModelVersions
from hyperact.service.repository import Repository, max_hanging_calls
from hyperact.service.version_cache import VersionCache
from hyperact.service.versions import Versions
from hyperact.v1 import manifests
from hyperact.v1.deployment_pb2 import Deployment, VersionState
from hyperact.v1.deployments import read_ledger
from toy_hypermodels import coefficients_of
from toy_registry import registry_server

drain_deadline_seconds = 100.0
max_version_bytes = 1 << 20
nowhere = "http://127.0.0.1:1"
"""Nothing answers on this port."""


class World:
    """A registry with its data directory, a clock that stands still, and services that follow the registry."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.uri = toys.make_registry(data_dir)
        self.client = MlflowClient(self.uri, self.uri)
        self.now = 1_800_000_000.0
        self.services: list[Versions] = []

    def register(self, alias: str = "", edit: Callable[[Path], object] | None = None, **version: Any) -> str:
        """Register a new version; `edit` may spoil its folder before."""
        directory = self.data_dir / "made" / str(time.monotonic_ns())
        toys.toy_version(directory, **version)
        if edit is not None:
            edit(directory)
        return toys.register(self.uri, directory, version.get("model", "default"), alias)

    def point_alias(self, version: str) -> None:
        """Move the alias and write no ledger."""
        self.client.set_registered_model_alias("default", "champion", version)

    def repository(self, uri: str = "", cache: str = "versions", **options: Any) -> Repository:
        """Return the registry as a service sees it."""
        options = {"max_version_bytes": max_version_bytes, **options}
        return Repository(uri or self.uri, VersionCache(self.data_dir / cache), **options)

    def service(self, uri: str = "", models: tuple[str, ...] = ("default",), **options: Any) -> Versions:
        """Return versions that are stopped at the end of the test."""
        repository = options.pop("repository", None) or self.repository(uri, options.pop("cache", "versions"))
        versions = Versions(
            repository,
            models,
            load=partial(Hypermodel.load, max_onnx_bytes=max_version_bytes),
            metrics=options.pop("metrics", None) or Metrics(),
            poll_seconds=options.pop("poll_seconds", 0.05),
            drain_deadline_seconds=drain_deadline_seconds,
            now=lambda: self.now,
            **options,
        )
        self.services.append(versions)
        return versions

    async def started(self, **options: Any) -> ModelVersions:
        """Return the default model's versions of a service that looks only when asked."""
        versions = self.service(poll_seconds=3600.0, **options)
        await versions.start()
        return versions["default"]

    def ledger(self) -> list[tuple[int, str, str, str]]:
        """Return number, from, to and who."""
        entries = read_ledger(self.client.get_registered_model("default").tags)
        return [(entry.number, entry.from_version, entry.to_version, entry.actor) for entry in entries]

    async def wait_for_authors(self, versions: ModelVersions) -> None:
        """Let the time pass after which a move that nobody wrote down is recorded, and look once more."""
        self.now += model_versions.observe_seconds
        await versions.look()

    async def promote(self, version: str) -> None:
        """Move the alias and write the ledger."""
        now = datetime.fromtimestamp(self.now, UTC)
        await self.repository().promote("default", version, now, Deployment(actor="somebody"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    for versions in world.services:
        await versions.stop()


def serving(versions: ModelVersions) -> tuple[str, int] | None:
    return None if versions.serving is None else (versions.serving.version, versions.serving.deployment)


def states(versions: ModelVersions) -> dict[str, str]:
    return {
        version.version: VersionState.Name(version.state).removeprefix("VERSION_STATE_")
        for version in versions.status().versions
    }


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 what is waited for is another process's doing
            await asyncio.sleep(0.02)


class TestDeployments:
    async def test_an_empty_registry_serves_nothing_and_is_no_problem(self, world: World) -> None:
        """Before the first version there is nothing to load and nothing wrong."""
        versions = await world.started()

        assert versions.serving is None
        assert "" == versions.status().registry_problem

    async def test_an_alias_moved_without_a_ledger_is_recorded_as_observed(self, world: World) -> None:
        """Somebody moves the alias on MLflow's page: it is a deployment like any other."""
        world.register("champion")
        versions = await world.started()

        assert ("1", 1) == serving(versions)
        assert "observed" == versions.status().deployment.actor
        await world.wait_for_authors(versions)
        assert [(1, "", "1", "observed")] == world.ledger()

    async def test_who_moved_the_alias_has_time_to_say_so(self, world: World) -> None:
        """Promoting is two writes: a service that looks in between must not put its words over the author's."""
        world.register("champion")
        versions = await world.started()
        await versions.look()

        assert [] == world.ledger()
        await world.promote("1")
        await world.wait_for_authors(versions)
        assert ("1", 1) == serving(versions)
        assert [(1, "", "1", "somebody")] == world.ledger()
        assert "somebody" == versions.status().deployment.actor

    async def test_a_service_that_stops_leaves_no_deployment_unwritten(self, world: World) -> None:
        """What only this service knows would be lost with it."""
        world.register("champion")
        await world.started()

        await world.services[0].stop()

        assert [(1, "", "1", "observed")] == world.ledger()

    async def test_a_replica_that_has_not_seen_an_unwritten_deployment_takes_its_episodes(self, world: World) -> None:
        """The alias moved, one replica was quicker: its sessions are welcome at the other, without a ledger."""
        world.register("champion")
        versions = await world.started()
        world.register("champion", seed=1)

        obtained = await versions.obtain("2")

        assert obtained is not None
        assert ("2", 2) == (obtained.version, obtained.deployment)

    async def test_a_promotion_keeps_its_author(self, world: World) -> None:
        """Who wrote the ledger stays there; the service does not write over it."""
        version = world.register()
        await world.promote(version)

        versions = await world.started()

        assert ("1", 1) == serving(versions)
        assert [(1, "", "1", "somebody")] == world.ledger()

    async def test_deployments_are_numbered_without_gaps_and_a_rollback_is_one(self, world: World) -> None:
        """Forward, forward, back: three numbers, each with the version before."""
        versions = await world.started()
        for version in (world.register(seed=1), world.register(seed=2), "1"):
            world.point_alias(version)
            await versions.look()

        assert ("1", 3) == serving(versions)
        await world.wait_for_authors(versions)
        assert [(1, "", "1", "observed"), (2, "1", "2", "observed"), (3, "2", "1", "observed")] == world.ledger()

    async def test_two_replicas_agree_on_the_number(self, world: World) -> None:
        """A second replica that sees the same alias finds the entry of the first."""
        world.register("champion")
        first = await world.started(cache="a")
        second = await world.started(cache="b")

        assert ("1", 1) == serving(first) == serving(second)
        await world.wait_for_authors(first)
        await second.look()
        assert ("1", 1) == serving(first) == serving(second)
        assert 1 == len(world.ledger())

    async def test_a_ledger_that_cannot_be_written_does_not_stop_serving(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A registry that may only be read still decides; numbers go on from what is known."""
        repository = world.repository()

        async def refuse(*_: object) -> None:
            raise RegistryUnavailableError("read only")

        monkeypatch.setattr(repository, "record", refuse)
        world.register("champion")
        versions = await world.started(repository=repository)
        world.register("champion", seed=1)
        await versions.look()

        await world.wait_for_authors(versions)

        assert ("2", 2) == serving(versions)
        assert [] == world.ledger()

    async def test_the_metrics_tell(self, world: World) -> None:
        """Swaps, the deployment's number and refusals are to be seen without asking the service."""
        metrics = Metrics()
        world.register("champion")
        versions = await world.started(metrics=metrics)
        world.register("champion", edit=lambda directory: (directory / "model.onnx").write_bytes(b"nothing"))
        await versions.look()

        assert 1 == metrics.registry.get_sample_value("hyperact_deployment", {"model": "default"})
        labels = {"model": "default", "reason": "CORRUPT"}
        assert 1 == metrics.registry.get_sample_value("hyperact_version_load_failures_total", labels)

    async def test_an_unknown_model_is_named(self, world: World) -> None:
        """A model that is not served is an error that tells which are."""
        with pytest.raises(UnknownNameError, match="served: default"):
            world.service()["other"]

    async def test_many_models_are_looked_at_together(self, world: World) -> None:
        """Calls that are merely under way are not calls that hang."""
        models = tuple(f"model-{number}" for number in range(2 * max_hanging_calls))
        for model in models:
            world.client.create_registered_model(model)

        service = world.service(models=models, poll_seconds=3600.0)
        await service.start()

        assert {""} == {status.registry_problem for status in service.status()}

    async def test_models_have_their_own_versions(self, world: World) -> None:
        """Two models side by side do not mix."""
        world.register("champion", model="a")
        world.register("champion", model="b", num_actions=5)
        service = world.service(models=("a", "b"))
        await service.start()

        assert "a" == service.default_model
        assert [2, 5] == [status.spec.action.discrete.num_actions for status in service.status()]


class TestRoads:
    """An alias moved by somebody else comes into service by itself."""

    async def test_by_an_mlflow_client(self, world: World) -> None:
        """`MlflowClient.set_registered_model_alias` is all that a promotion needs; watchers hear of it."""
        service = world.service()
        await service.start()
        changed = service.changed

        world.register("champion")

        await wait_until(lambda: serving(service["default"]) == ("1", 1))
        assert changed.is_set()

    async def test_by_rest_on_an_mlflow_server(self, world: World, server_uri: str) -> None:
        """A real server: the alias is moved by a plain HTTP request, the artefacts come through the server."""
        import requests

        client = MlflowClient(server_uri, server_uri)
        toys.toy_version(world.data_dir / "made")
        run = client.create_run("0")
        for name in ("model.onnx", manifests.file_name):
            client.log_artifact(run.info.run_id, str(world.data_dir / "made" / name), "model")
        client.create_registered_model("default")
        client.create_model_version("default", f"runs:/{run.info.run_id}/model", run.info.run_id)
        service = world.service(server_uri)
        await service.start()
        assert service["default"].serving is None

        answer = await asyncio.to_thread(
            requests.post,
            f"{server_uri}/api/2.0/mlflow/registered-models/alias",
            json={"name": "default", "alias": "champion", "version": "1"},
            timeout=10,
        )

        assert answer.ok
        await wait_until(lambda: serving(service["default"]) == ("1", 1))
        world.now += model_versions.observe_seconds
        await wait_until(lambda: bool(read_ledger(client.get_registered_model("default").tags)))
        assert ["1"] == [entry.to_version for entry in read_ledger(client.get_registered_model("default").tags)]


@pytest.fixture
def server_uri(tmp_path: Path) -> Iterator[str]:
    """An MLflow server of its own process on a free loopback port."""
    pytest.importorskip("mlflow.server")
    with registry_server(tmp_path / "server") as server:
        yield server.uri


def edit_manifest(**changes: object) -> Callable[[Path], object]:
    def edit(directory: Path) -> None:
        path = directory / manifests.file_name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def forge(directory: Path) -> None:
    """Put another graph under the promised digest."""
    other = directory / "other"
    toys.toy_version(other, seed=99)
    (other / "model.onnx").replace(directory / "model.onnx")
    shutil.rmtree(other)


def fill(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(bytes(max_version_bytes + 1))


class TestVersionsAtFault:
    @pytest.mark.parametrize(
        ("reason", "edit", "version"),
        [
            ("CORRUPT", lambda directory: (directory / "model.onnx").write_bytes(b"no graph"), {}),
            ("CORRUPT", forge, {}),
            ("CORRUPT", lambda directory: (directory / manifests.file_name).write_text("{"), {}),
            ("CORRUPT", edit_manifest(onnxFile="../../model.onnx"), {}),
            ("MISSING", lambda directory: (directory / manifests.file_name).unlink(), {}),
            ("MISSING", lambda directory: (directory / "model.onnx").unlink(), {}),
            ("TOO_LARGE", fill, {}),
            ("WRONG_MODEL", edit_manifest(model="other"), {}),
            ("WRONG_SPEC", None, {"num_actions": 3}),
            ("WRONG_SPEC", None, {"observation_shape": (4,)}),
            ("BAD_OUTPUT", None, {"coefficients": np.full((2, 5), np.nan)}),
        ],
    )
    async def test_the_last_good_version_goes_on(
        self, world: World, reason: str, edit: Callable[[Path], object] | None, version: dict[str, Any]
    ) -> None:
        """A version that is at fault never serves; the one before does, and the status says why."""
        world.register("champion")
        versions = await world.started()
        world.register("champion", edit, **version)

        await versions.look()

        assert ("1", 1) == serving(versions)
        assert {"1": "SERVING", "2": "REFUSED"} == states(versions)
        assert versions.status().versions[1].problem.startswith(f"{reason}: ")
        await world.wait_for_authors(versions)
        assert [(1, "", "1", "observed")] == world.ledger()

    async def test_it_is_not_tried_again_until_somebody_asks(self, world: World) -> None:
        """A refusal stands while the alias does; Reload tries again, and the repaired version serves."""
        world.register("champion")
        source = Path(str(world.client.get_model_version("default", "1").source).removeprefix("file://"))
        good = (source / "model.onnx").read_bytes()
        (source / "model.onnx").write_bytes(b"no graph")
        versions = await world.started()
        (source / "model.onnx").write_bytes(good)

        await versions.look()
        assert {"1": "REFUSED"} == states(versions)

        await versions.look(is_forced=True)
        assert {"1": "SERVING"} == states(versions)

    async def test_a_damaged_copy_in_the_cache_is_downloaded_again(self, world: World) -> None:
        """A disk's error is not the version's fault: a restart mends it."""
        world.register("champion")
        await world.started()
        (world.data_dir / "versions" / "default" / "1" / "model.onnx").write_bytes(b"rot")

        versions = await world.started()

        assert {"1": "SERVING"} == states(versions)

    async def test_a_refusal_ends_when_the_alias_moves_on(self, world: World) -> None:
        """The next good version serves, and the old reason is gone."""
        versions = await world.started()
        world.register("champion", fill)
        await versions.look()
        world.register("champion")

        await versions.look()

        assert {"2": "SERVING"} == states(versions)

    async def test_an_alias_at_a_deleted_version_is_told(self, world: World) -> None:
        """A version deleted under the alias leaves the alias empty; what served goes on."""
        world.register("champion")
        versions = await world.started()
        world.client.delete_model_version("default", "1")

        await versions.look()

        assert ("1", 1) == serving(versions)
        assert "alias 'champion' is gone" in versions.status().registry_problem

    async def test_the_last_good_version_goes_on_after_a_restart(self, world: World) -> None:
        """A service that starts while the alias stands at a version at fault serves what served last."""
        world.register("champion")
        await world.started()
        world.register("champion", fill)

        versions = await world.started()

        assert ("1", 1) == serving(versions)
        assert {"1": "SERVING", "2": "REFUSED"} == states(versions)


class TestRegistryAway:
    async def test_the_last_version_serves_from_the_cache(self, world: World) -> None:
        """A start without the registry: what served last serves, and the status says what is wrong."""
        world.register("champion")
        await world.started()
        versions = await world.started(uri=nowhere)

        assert ("1", 1) == serving(versions)
        assert nowhere in versions.status().registry_problem

    async def test_a_start_with_nothing_serves_nothing(self, world: World) -> None:
        """No registry and no cache: the service starts all the same."""
        versions = await world.started(uri=nowhere)

        assert versions.serving is None

    async def test_it_comes_back_by_itself(self, world: World) -> None:
        """Started without the registry, the service serves as soon as it is there."""
        world.register("champion")
        repository = world.repository(nowhere)
        service = world.service(repository=repository)
        await service.start()
        assert service["default"].serving is None

        repository.tracking_uri = world.uri

        await wait_until(lambda: serving(service["default"]) == ("1", 1))
        assert "" == service["default"].status().registry_problem

    async def test_a_registry_that_goes_away_later_changes_nothing(self, world: World) -> None:
        """What serves goes on; Reload says that the registry cannot be read."""
        world.register("champion")
        repository = world.repository()
        service = world.service(repository=repository, poll_seconds=3600.0)
        await service.start()
        repository.tracking_uri = nowhere

        with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:1"):
            await service.reload()

        assert ("1", 1) == serving(service["default"])
        assert "127.0.0.1:1" in service["default"].status().registry_problem

    async def test_a_registry_that_never_answers_is_given_up(self, world: World) -> None:
        """A server that accepts and says nothing holds nobody up."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
            repository = world.repository(uri, call_seconds=0.2)

            with pytest.raises(RegistryUnavailableError, match="did not answer within"):
                await repository.look("default")

    async def test_another_registry_s_version_of_that_number_is_not_taken_for_it(self, world: World) -> None:
        """A number names a version only within one registry: after a change of registry the cache does not count."""
        world.register("champion", seed=1)
        before = await world.started()
        other = World(world.data_dir / "other")
        other.register("champion", seed=2)

        versions = await world.started(uri=other.uri)

        assert before.serving is not None
        assert versions.serving is not None
        observations = np.ones((1, 3), np.float32)
        first, second = (
            coefficients_of(loaded.hypermodel, observations) for loaded in (before.serving, versions.serving)
        )
        assert not np.allclose(first, second)

    async def test_a_removed_alias_leaves_the_last_version_serving(self, world: World) -> None:
        """Taking the alias away does not stop decisions; the status says that it is gone."""
        world.register("champion")
        versions = await world.started()
        world.client.delete_registered_model_alias("default", "champion")

        await versions.look()

        assert ("1", 1) == serving(versions)
        assert "goes on serving" in versions.status().registry_problem


class TestDraining:
    @staticmethod
    async def promoted(world: World, num_pins: int) -> ModelVersions:
        """Return versions in which 1 drains with so many episodes and 2 serves."""
        await world.promote(world.register(seed=1))
        versions = await world.started()
        for _ in range(num_pins):
            versions.pin("1")
        world.now += 1000
        await world.promote(world.register(seed=2))
        await versions.look()
        return versions

    async def test_the_old_version_stays_until_its_last_episode_ends(self, world: World) -> None:
        """Both versions decide until the last pinned episode has ended."""
        versions = await self.promoted(world, num_pins=2)
        world.now += model_versions.min_drain_seconds
        versions.unpin("1")
        await versions.sweep()
        assert {"2": "SERVING", "1": "DRAINING"} == states(versions)
        assert 1 == versions.status().versions[1].num_pinned_episodes

        versions.unpin("1")
        await versions.sweep()

        assert {"2": "SERVING"} == states(versions)
        assert versions.get("1") is None

    async def test_it_stays_a_few_seconds_for_tokens_from_elsewhere(self, world: World) -> None:
        """A replica without episodes of its own keeps the old version for those that others began."""
        versions = await self.promoted(world, num_pins=0)

        await versions.sweep()

        assert {"2": "SERVING", "1": "DRAINING"} == states(versions)

    async def test_the_deadline_ends_it(self, world: World) -> None:
        """An episode without end does not keep a version for ever: after the deadline it is overdue, then unloaded."""
        versions = await self.promoted(world, num_pins=1)
        world.now += drain_deadline_seconds - 1
        assert not versions.is_overdue("1")

        world.now += 1
        assert versions.is_overdue("1")
        assert not versions.is_overdue("2")
        await versions.sweep()

        assert {"2": "SERVING"} == states(versions)
        assert await versions.obtain("1") is None

    async def test_a_rollback_to_a_draining_version_loads_nothing(self, world: World) -> None:
        """The version that still drains serves again at once, as a new deployment."""
        versions = await self.promoted(world, num_pins=1)
        draining = versions.get("1")
        await world.promote("1")

        await versions.look()

        assert ("1", 3) == serving(versions)
        assert draining is not None
        assert versions.serving is not None
        assert draining.hypermodel is versions.serving.hypermodel
        assert {"1": "SERVING", "2": "DRAINING"} == states(versions)

    async def test_steps_are_counted_per_version(self, world: World) -> None:
        """The status tells how many steps each version decided here."""
        versions = await self.promoted(world, num_pins=1)
        versions.count_steps("1", 3)
        versions.count_steps("2", 5)

        assert {"1": 3, "2": 5} == {version.version: version.num_steps for version in versions.status().versions}


class TestObtain:
    async def test_a_version_of_another_replica_s_token_is_loaded_again(self, world: World) -> None:
        """A replica that started after the promotion still serves episodes of the version before."""
        await world.promote(world.register(seed=1))
        await world.promote(world.register(seed=2))
        versions = await world.started()

        loaded = await versions.obtain("1")

        assert loaded is not None
        assert ("1", 1) == (loaded.version, loaded.deployment)
        assert {"2": "SERVING", "1": "DRAINING"} == states(versions)

    async def test_a_token_from_a_replica_that_is_ahead_is_served(self, world: World) -> None:
        """The registry is looked at when a token names a version that this replica has not heard of."""
        await world.promote(world.register(seed=1))
        versions = await world.started()
        await world.promote(world.register(seed=2))

        loaded = await versions.obtain("2")

        assert loaded is not None
        assert ("2", 2) == (loaded.version, loaded.deployment)

    async def test_after_the_deadline_the_session_is_repinned(self, world: World) -> None:
        """A version whose time has passed is not loaded again."""
        await world.promote(world.register(seed=1))
        await world.promote(world.register(seed=2))
        world.now += drain_deadline_seconds
        versions = await world.started()

        assert await versions.obtain("1") is None

    @pytest.mark.parametrize("version", ["", "3", "77"])
    async def test_what_was_never_deployed_is_not_loaded(self, world: World, version: str) -> None:
        """A version that exists but never served, or does not exist, is nobody's."""
        for seed in range(3):
            world.register(seed=seed)
        await world.promote("1")
        versions = await world.started()

        assert await versions.obtain(version) is None

    async def test_those_who_want_it_at_once_share_the_work(self, world: World) -> None:
        """A hundred sessions of one version load it once."""
        await world.promote(world.register(seed=1))
        await world.promote(world.register(seed=2))
        versions = await world.started()

        found = await asyncio.gather(*(versions.obtain("1") for _ in range(100)))

        assert found[0] is not None
        assert 1 == len({id(loaded) for loaded in found})


class TestRepository:
    async def test_promoting_a_version_that_is_not_there_names_those_that_are(self, world: World) -> None:
        """A slip of the finger is answered with what could have been meant."""
        world.register()
        world.register()

        with pytest.raises(VersionRefusedError, match="has no version 9: there are 1, 2"):
            await world.promote("9")

    async def test_only_what_is_needed_is_downloaded(self, world: World) -> None:
        """Other artefacts of a version stay where they are, however large."""
        version = world.register(edit=lambda directory: (directory / "notes.bin").write_bytes(bytes(1 << 22)))

        cached = await world.repository().fetch("default", version)

        assert {"manifest.json", "model.onnx", "origin.json"} == {path.name for path in cached.directory.iterdir()}

    async def test_old_downloads_are_forgotten(self, tmp_path: Path) -> None:
        """The cache keeps what is in use and what was used lately."""
        cache = VersionCache(tmp_path)
        for version in ("1", "2", "3"):
            with cache.scratch("m") as directory:
                cache.place(directory, "m", version, "origin")
        os.utime(tmp_path / "m" / "1", (0, 0))
        os.utime(tmp_path / "m" / "2", (0, 0))

        removed = cache.prune("m", {"2"}, unused_since=time.time() - 60)

        assert ["1"] == removed
        assert {"2", "3"} == {path.name for path in (tmp_path / "m").iterdir()}

    @pytest.mark.parametrize("model", ["..", "a/b", ".", "é ü"])
    async def test_a_model_s_name_stays_inside_the_cache(self, tmp_path: Path, model: str) -> None:
        """No name leads out of the cache's directory."""
        cache = VersionCache(tmp_path / "cache")
        with cache.scratch(model) as directory:
            placed = cache.place(directory, model, "1", "origin")

        assert tmp_path / "cache" == placed.directory.parent.parent
        assert placed == cache.find(model, "1")
