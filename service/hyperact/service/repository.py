"""The registry, as the service needs it. The only file of this room that imports MLflow.

Rules:

1. A call has a deadline: it runs in a thread of its own, and one that hangs is left behind, at most `max_hanging_calls`
   of them, and as many downloads: these do not keep anybody from asking where the alias stands. Nobody waits for MLflow
   on the event loop or at exit.
2. What is asked about a version is in its manifest and its ONNX file: only these two are downloaded, after the store
   has told their sizes.
3. Two kinds of failure: the version is at fault (VersionRefusedError: trying again cannot help) or the registry is
   (RegistryUnavailableError: it may come back).
4. The alias is moved first, then the ledger is written.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from hyperact.service.errors import RegistryUnavailableError, VersionRefusedError
from hyperact.service.patient_calls import PatientCalls, TooManyHangError
from hyperact.service.version_cache import CachedVersion, VersionCache
from hyperact.v1 import golden, local_store, manifests
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.deployments import (
    CHAMPION,
    alias_of,
    challenger_alias,
    entry_for,
    last_of,
    new_entry,
    observed,
    read_ledger,
    role_of,
    shadow_alias,
    to_tag,
)
from hyperact.v1.errors import FieldError
from hyperact.v1.golden import Golden

logger = logging.getLogger(__name__)
max_manifest_bytes = 16 << 20
max_hanging_calls = 8
_not_found = "RESOURCE_DOES_NOT_EXIST"
_Result = TypeVar("_Result")
_process_settings = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow takes these from the environment alone; what the operator set there stands."""
logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # it tells of every table that it makes


@dataclass(frozen=True, slots=True)
class RegistryView:
    """What the registry says of one model, read in one call.

    Attributes:
        alias_version: where the alias stands, in decimal; empty if it does not or there is no such model.
        ledger: the deployments, by number.
        challenger_version, shadow_version: where those aliases stand.
        identity: differs between registries that use the same name; empty if there is no such model.
    """

    alias_version: str = ""
    ledger: list[Deployment] = field(default_factory=list)
    identity: str = ""
    challenger_version: str = ""
    shadow_version: str = ""


class Repository:
    """One registry, with a cache of its versions on disk.

    Args:
        tracking_uri: MLflow's: a database or a server.
        cache: where downloads go.
        alias: the alias that is followed and moved.
        max_version_bytes: the largest ONNX file to download.
        call_seconds: how long a call may take, and `download_seconds` a download.
    """

    def __init__(
        self,
        tracking_uri: str,
        cache: VersionCache,
        *,
        alias: str = "champion",
        max_version_bytes: int = 1 << 30,
        call_seconds: float = 15.0,
        download_seconds: float = 600.0,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.cache = cache
        self.alias = alias
        self._max_version_bytes = max_version_bytes
        self._call_seconds = call_seconds
        self._download_seconds = download_seconds
        self._calls = PatientCalls("registry-call", max_hanging_calls)
        self._downloads = PatientCalls("registry-download", max_hanging_calls)
        self._making_store = threading.Lock()
        self._has_store = False
        for name, value in _process_settings.items():
            os.environ.setdefault(name, value)

    async def look(self, model: str) -> RegistryView:
        """Return where the alias stands and the ledger. Raises RegistryUnavailableError."""
        return await self._call(lambda: self._look(model))

    async def fetch(self, model: str, version: str) -> CachedVersion:
        """Return a version's folder, downloaded unless it is in the cache.

        Raises:
            VersionRefusedError: MISSING, CORRUPT, WRONG_MODEL or TOO_LARGE.
            RegistryUnavailableError: the registry or the artefact store cannot be reached.
        """
        return await self._transfer(lambda: self._fetch(model, version))

    async def record(self, model: str, entry: Deployment) -> None:
        """Write one entry of the ledger. Raises RegistryUnavailableError."""
        await self._call(lambda: self._client().set_registered_model_tag(model, *to_tag(entry)))

    async def promote(self, model: str, version: str, now: datetime, note: Deployment) -> Deployment:
        """Move the alias to a version and write the ledger; return the deployment.

        `note` says who and why: its actor, gate_report, reason and is_forced go into the entry.

        Raises:
            VersionRefusedError: MISSING, naming the versions that there are.
            RegistryUnavailableError: the registry cannot be reached.
        """
        return await self._call(lambda: self._promote(model, version, now, note))

    async def deploy(self, model: str, version: str, now: datetime, note: Deployment) -> Deployment:
        """Move the alias of a role to a version, or away ("" for no version), and write a new entry of the ledger.

        `note` says the rest: its role, actor, reason, share and so on go into the entry.

        Raises:
            VersionRefusedError: MISSING, naming the versions that there are.
            RegistryUnavailableError: the registry cannot be reached.
        """
        return await self._call(lambda: self._deploy(model, version, now, note))

    async def fetch_golden(self, model: str, version: str) -> Golden | None:
        """Return what a version's learner answered at its export; None if nobody kept it.

        Raises:
            VersionRefusedError: MISSING or CORRUPT.
            RegistryUnavailableError: the registry or the artefact store cannot be reached.
        """
        return await self._transfer(lambda: self._fetch_golden(model, version))

    async def version_tags(self, model: str, version: str) -> dict[str, str]:
        """Return a version's tags. Raises VersionRefusedError (MISSING) or RegistryUnavailableError."""
        return await self._call(lambda: dict(self._get_version(model, version).tags))

    async def set_version_tag(self, model: str, version: str, name: str, value: str) -> None:
        """Set a tag of a version. Raises RegistryUnavailableError."""
        await self._call(lambda: self._client().set_model_version_tag(model, version, name, value))

    async def log_text(self, run_id: str, text: str, file: str) -> None:
        """Save a text with a run, over an earlier one of that name. Raises RegistryUnavailableError."""
        await self._call(lambda: self._client().log_text(run_id, text, file))

    async def list_versions(self, model: str) -> list[str]:
        """Return the registered versions, oldest first, empty without a model. Raises RegistryUnavailableError."""
        return await self._call(lambda: self._list_versions(model))

    async def _call(self, function: Callable[[], _Result]) -> _Result:
        return await self._ask(self._calls, function, self._call_seconds)

    async def _transfer(self, function: Callable[[], _Result]) -> _Result:
        return await self._ask(self._downloads, function, self._download_seconds)

    async def _ask(self, calls: PatientCalls, function: Callable[[], _Result], seconds: float) -> _Result:
        try:
            return await calls.run(function, seconds)
        except (VersionRefusedError, RegistryUnavailableError):
            raise
        except TimeoutError:
            raise RegistryUnavailableError(f"{self.tracking_uri} did not answer within {seconds:g} s") from None
        except TooManyHangError as error:
            raise RegistryUnavailableError(str(error)) from None
        except Exception as error:  # MLflow and what it stands on raise classes of many libraries
            raise RegistryUnavailableError(f"{self.tracking_uri}: {_first_line(error)}") from error

    # Below: blocking.

    def _client(self) -> MlflowClient:
        with self._making_store:
            if self._has_store:
                return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
            client = local_store.open_store(self.tracking_uri, _open_store)
            self._has_store = True
            return client

    def _look(self, model: str) -> RegistryView:
        try:
            found = self._client().get_registered_model(model)
        except MlflowException as error:
            if error.error_code == _not_found:
                return RegistryView()
            raise
        return RegistryView(
            alias_version=str(found.aliases.get(self.alias, "")),
            ledger=read_ledger(found.tags),
            identity=str(found.creation_timestamp),
            challenger_version=str(found.aliases.get(challenger_alias, "")),
            shadow_version=str(found.aliases.get(shadow_alias, "")),
        )

    def _list_versions(self, model: str) -> list[str]:
        quote = '"' if "'" in model else "'"
        found = self._client().search_model_versions(f"name = {quote}{model}{quote}")
        return [str(number) for number in sorted(int(version.version) for version in found)]

    def _promote(self, model: str, version: str, now: datetime, note: Deployment) -> Deployment:
        client = self._client()
        self._catch_up(model, now)
        self._move_alias(model, self.alias, version)
        entry = entry_for(self._look(model).ledger, version, note.actor, now)
        entry.MergeFrom(Deployment(gate_report=note.gate_report, reason=note.reason, is_forced=note.is_forced))
        client.set_registered_model_tag(model, *to_tag(entry))
        return entry

    def _deploy(self, model: str, version: str, now: datetime, note: Deployment) -> Deployment:
        role = role_of(note)
        self._catch_up(model, now)
        self._move_alias(model, alias_of.get(role, self.alias), version)
        entry = new_entry(self._look(model).ledger, version, note.actor, now, role)
        entry.MergeFrom(note)
        self._client().set_registered_model_tag(model, *to_tag(entry))
        return entry

    def _catch_up(self, model: str, now: datetime) -> None:
        """Write down a champion that nobody wrote down yet: the number that services gave it must not be another's."""
        view = self._look(model)
        last = last_of(view.ledger, CHAMPION)
        if view.alias_version and (last is None or last.to_version != view.alias_version):
            entry = new_entry(view.ledger, view.alias_version, observed, now, CHAMPION)
            self._client().set_registered_model_tag(model, *to_tag(entry))

    def _move_alias(self, model: str, alias: str, version: str) -> None:
        client = self._client()
        try:
            if version:
                client.set_registered_model_alias(model, alias, version)
            else:
                client.delete_registered_model_alias(model, alias)
        except MlflowException as error:
            if not version or version in (versions := self._list_versions(model)):
                raise
            known = f"there are {', '.join(versions)}" if versions else "there are none"
            raise VersionRefusedError("MISSING", f"model {model!r} has no version {version}: {known}") from error

    def _get_version(self, model: str, version: str) -> Any:
        try:
            return self._client().get_model_version(model, version)
        except MlflowException as error:
            _refuse_if_missing(error, f"version {version} is not in the registry")

    def _fetch_golden(self, model: str, version: str) -> Golden | None:
        client = self._client()
        store = self._artifact_store(client, client.get_model_version_download_uri(model, version))
        sizes = {file.path: file.file_size for file in store.list_artifacts() if not file.is_dir}
        if golden.file_name not in sizes:
            return None
        with tempfile.TemporaryDirectory() as directory:
            _download_file(store, sizes, golden.file_name, golden.max_bytes, Path(directory))
            try:
                return golden.from_bytes((Path(directory) / golden.file_name).read_bytes())
            except FieldError as error:
                raise VersionRefusedError("CORRUPT", str(error)) from error

    def _fetch(self, model: str, version: str) -> CachedVersion:
        client = self._client()
        found = self._get_version(model, version)
        origin = f"{found.creation_timestamp} {found.run_id or ''} {found.source}"
        cached = self.cache.find(model, version)
        if cached is not None and cached.origin == origin:
            return cached
        store = self._artifact_store(client, client.get_model_version_download_uri(model, version))
        with self.cache.scratch(model) as directory:
            self._download(store, model, directory)
            return self.cache.place(directory, model, version, origin)

    def _artifact_store(self, client: MlflowClient, uri: str) -> Any:
        if uri.startswith("models:/m-"):
            uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
        return get_artifact_repository(uri, tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def _download(self, store: Any, model: str, directory: Path) -> None:
        """Download the manifest, judge it, download the ONNX file."""
        sizes = {file.path: file.file_size for file in store.list_artifacts() if not file.is_dir}
        _download_file(store, sizes, manifests.file_name, max_manifest_bytes, directory)
        try:
            manifest = manifests.from_json((directory / manifests.file_name).read_bytes())
        except FieldError as error:
            raise VersionRefusedError("CORRUPT", f"{manifests.file_name}: {error}") from error
        if manifest.model != model:
            raise VersionRefusedError("WRONG_MODEL", f"made for model {manifest.model!r}, registered as {model!r}")
        _download_file(store, sizes, manifest.onnx_file, self._max_version_bytes, directory)


def _download_file(store: Any, sizes: dict[str, int | None], name: str, max_bytes: int, directory: Path) -> None:
    if name not in sizes:
        raise VersionRefusedError("MISSING", f"{name} is not among the artefacts: {_names(sizes)}")
    num_bytes = sizes[name]
    if num_bytes is None or num_bytes > max_bytes:
        size = "a size that the store does not tell" if num_bytes is None else f"{num_bytes} bytes"
        raise VersionRefusedError("TOO_LARGE", f"{name} has {size}, the limit is {max_bytes}")
    try:
        path = Path(store.download_artifacts(name, dst_path=str(directory)))
    except MlflowException as error:
        _refuse_if_missing(error, f"{name} is not to be had")
    if path.stat().st_size != num_bytes:
        raise RegistryUnavailableError(f"{name} came with {path.stat().st_size} of {num_bytes} bytes")


def _names(sizes: dict[str, int | None]) -> str:
    shown = ", ".join(sorted(sizes)[:8])
    return shown or "there are none"


def _refuse_if_missing(error: MlflowException, message: str) -> NoReturn:
    if error.error_code == _not_found:
        raise VersionRefusedError("MISSING", message) from error
    raise error


def _first_line(error: Exception) -> str:
    """Return an error's class and what it says, short enough for a log line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _open_store(tracking_uri: str) -> MlflowClient:
    """Return a client of a store that is whole."""
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    if tracking_uri.startswith(local_store.prefix):
        client.search_experiments(max_results=1)
    return client
