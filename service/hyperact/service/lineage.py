"""Where a version comes from: the version that it continues, and so on, by the manifests in the registry."""

from dataclasses import dataclass

from hyperact.service.errors import VersionRefusedError
from hyperact.service.repository import Repository
from hyperact.v1 import manifests
from hyperact.v1.errors import FieldError
from hyperact.v1.model_pb2 import Manifest

max_ancestors = 10


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A version of the lineage; without a manifest, it is not in the registry any more."""

    version: str
    manifest: Manifest | None


async def trace(repository: Repository, model: str, version: str) -> list[Ancestor]:
    """Return a version and those before it, the newest first, at most `max_ancestors`.

    Raises RegistryUnavailableError.
    """
    found: list[Ancestor] = []
    while version and len(found) < max_ancestors and version not in [ancestor.version for ancestor in found]:
        manifest = await _read_manifest(repository, model, version)
        found.append(Ancestor(version, manifest))
        version = manifest.parent_version if manifest is not None else ""
    return found


async def _read_manifest(repository: Repository, model: str, version: str) -> Manifest | None:
    try:
        cached = await repository.fetch(model, version)
        return manifests.from_json((cached.directory / manifests.file_name).read_bytes())
    except (VersionRefusedError, FieldError, OSError):
        return None
