"""The lanes that are open, each with the batch that gathers for it."""

from collections.abc import Callable
from dataclasses import dataclass

from hyperact.service.batching import Batcher
from hyperact.service.lanes import FallbackLane, Lane, VersionLane
from hyperact.service.model_versions import LoadedVersion, ModelVersions
from hyperact.service.rhythm import Rhythm, make_rhythm
from hyperact.service.rows import Row


@dataclass(slots=True)
class OpenLane:
    """A lane and the batch that gathers for it."""

    lane: Lane
    batcher: Batcher[Row]


class OpenLanes:
    """Opens lanes when they are first needed.

    Args:
        fallback_num_actions: what the fallback chooses from while nothing serves; 0: there is none.
        make_batcher: makes the batcher that runs a lane.
    """

    def __init__(
        self, index_key: bytes, fallback_num_actions: int, make_batcher: Callable[[Lane], Batcher[Row]]
    ) -> None:
        self._index_key = index_key
        self._fallback_num_actions = fallback_num_actions
        self._make_batcher = make_batcher
        self._plain_rhythm = Rhythm(index_key)
        self._lanes: dict[tuple[str, str], OpenLane] = {}

    def open(self, versions: ModelVersions, loaded: LoadedVersion | None) -> OpenLane:
        """Return the lane of a loaded version; without one, the fallback's."""
        place = versions.model, loaded.version if loaded is not None else ""
        known = self._lanes.get(place)
        if known is not None and _is_current(known.lane, versions, loaded):
            return known
        lane: Lane
        if loaded is not None:
            lane = VersionLane(self._index_key, loaded.version, loaded.hypermodel)
        else:
            lane = self._make_fallback(versions.serving)
        made = self._lanes[place] = OpenLane(lane, self._make_batcher(lane))
        return made

    def close_unloaded(self, versions: ModelVersions) -> None:
        """Let go of the lanes of versions that are not loaded any more, unless they have work."""
        for (model, version), known in list(self._lanes.items()):
            if model == versions.model and versions.get(version) is None and known.batcher.is_idle:
                del self._lanes[model, version]

    def _make_fallback(self, serving: LoadedVersion | None) -> FallbackLane:
        """Return the fallback.

        Beside a serving version, for episodes that began before it, and in its place, when the kill switch put it
        there, it keeps to that version's spec.
        """
        if serving is None:
            return FallbackLane(self._index_key, self._fallback_num_actions, self._plain_rhythm)
        hypermodel = serving.hypermodel
        rhythm = make_rhythm(self._index_key, hypermodel.spec)
        return FallbackLane(self._index_key, hypermodel.num_actions, rhythm, hypermodel.checker)


def _is_current(lane: Lane, versions: ModelVersions, loaded: LoadedVersion | None) -> bool:
    if loaded is not None:
        return isinstance(lane, VersionLane) and lane.hypermodel is loaded.hypermodel
    serving = versions.serving
    return lane.checker is (serving.hypermodel.checker if serving is not None else None)
