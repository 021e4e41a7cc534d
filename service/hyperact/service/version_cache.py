"""Versions on this machine's disk: what was downloaded, and which one served last.

    <directory>/<model>/<version>/      manifest.json, the ONNX file, origin.json
    <directory>/<model>/serving.json    the version that served last, for a start without the registry

Rules:

1. A version's folder appears whole or not at all: it is filled under another name and then renamed. Workers share the
   cache without a lock; the first rename wins.
2. A number alone does not name a version: another registry counts from 1 too. `origin` says which one is meant, and a
   folder of another origin is replaced.
"""

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from google.protobuf import json_format

from hyperact.v1.model_pb2 import ModelSpec

_origin_file = "origin.json"
_serving_file = "serving.json"
_scratch_prefix = ".scratch-"


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A version's folder, and the registry's words for what it is.

    `is_new` tells a folder that was just filled from one that was found.
    """

    directory: Path
    origin: str
    is_new: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class LastServed:
    """What served last: its version and deployment, the registry that it came from, and its spec.

    `identity` is empty and `spec` None if whoever wrote it down did not know of them.
    """

    version: str
    deployment: int
    identity: str = ""
    spec: ModelSpec | None = None


class VersionCache:
    """The cache under one directory. Everything here blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, model: str, version: str) -> CachedVersion | None:
        """Return the version if it is here, and note that it was used."""
        directory = self._folder(model) / _as_name(version)
        try:
            origin = json.loads((directory / _origin_file).read_text())["origin"]
            os.utime(directory)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return CachedVersion(directory, str(origin))

    @contextlib.contextmanager
    def scratch(self, model: str) -> Iterator[Path]:
        """Give an empty folder to fill; what is not placed is removed afterwards."""
        self._folder(model).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_scratch_prefix, dir=self._folder(model)) as directory:
            filled = Path(directory) / "version"
            filled.mkdir()
            yield filled

    def place(self, filled: Path, model: str, version: str, origin: str) -> CachedVersion:
        """Make a filled scratch folder the version's."""
        (filled / _origin_file).write_text(json.dumps({"origin": origin}))
        target = self._folder(model) / _as_name(version)
        present = self.find(model, version)
        if present is not None and present.origin == origin:
            return present
        if target.exists():
            self._remove(target)
        try:
            filled.rename(target)
        except OSError:
            present = self.find(model, version)
            if present is None or present.origin != origin:
                raise
        return CachedVersion(target, origin, is_new=True)

    def discard(self, cached: CachedVersion) -> None:
        """Remove a folder that turned out to be of no use."""
        self._remove(cached.directory)

    def prune(self, model: str, keep: Collection[str], unused_since: float) -> list[str]:
        """Remove versions that are not to be kept and were last used before a Unix time; return them."""
        kept = {_as_name(version) for version in keep}
        removed = []
        for path in self._folder(model).glob("*"):
            if path.is_dir() and path.name not in kept and path.stat().st_mtime < unused_since:
                self._remove(path)
                removed.append(path.name)
        return sorted(removed)

    def _remove(self, directory: Path) -> None:
        aside = directory.with_name(f"{_scratch_prefix}{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            directory.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def read_last_served(self, model: str) -> LastServed | None:
        """Return what served last, if that is known."""
        try:
            content = json.loads((self._folder(model) / _serving_file).read_text())
            spec = json_format.ParseDict(content["spec"], ModelSpec()) if content.get("spec") else None
            identity = str(content.get("identity", ""))
            return LastServed(str(content["version"]), int(content["deployment"]), identity, spec)
        except (OSError, ValueError, KeyError, TypeError, json_format.ParseError):
            return None

    def write_last_served(self, model: str, served: LastServed) -> None:
        """Remember what serves."""
        self._folder(model).mkdir(parents=True, exist_ok=True)
        path = self._folder(model) / f"{_scratch_prefix}{uuid.uuid4().hex}.json"
        spec = None if served.spec is None else json_format.MessageToDict(served.spec)
        content = {
            "version": served.version,
            "deployment": served.deployment,
            "identity": served.identity,
            "spec": spec,
        }
        path.write_text(json.dumps(content) + "\n")
        path.replace(self._folder(model) / _serving_file)

    def _folder(self, model: str) -> Path:
        return self._directory / _as_name(model)


def _as_name(text: str) -> str:
    """Return one file name for any text, never one with a meaning of its own such as ".."."""
    return quote(text, safe="").replace(".", "%2E")
