"""What `hyperact retrain` measures of a candidate before it promotes it, on real versions in a real store."""

from collections.abc import Iterator

import numpy as np
import pytest

from hyperact.trainer.export import to_onnx
from hyperact.trainer.gate_evidence import Examiner, Recent, Versions
from hyperact.trainer.gate_figure import gate_figure
from hyperact.trainer.off_policy.episodes import EpisodeCollector
from hyperact.trainer.tracking import Tracking
from hyperact.v1.gates import Evidence, GateLimits, judge
from hyperact.v1.model_pb2 import GraphKind, Manifest
from toy_candidates import Scene, planted, spoil, staged, transitions

region = GateLimits(max_divergence=0.4, max_action_flip_rate=0.4, min_effective_size=10.0)


# The scene's learners learn for ten seconds, and for minutes where others use the cores.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with staged(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


def recent(scene: Scene) -> Recent:
    """Return the newest of the scene's log, as a trainer keeps it."""
    steps = transitions(scene.log, scene.spec)
    collector = EpisodeCollector(2000)
    collector.push(steps)
    return Recent(np.stack([step.observation for step in steps[-512:]]), collector.episodes)


def examine(scene: Scene, kind: str = "", some: Recent | None = None) -> Evidence:
    learner = scene.spiteful if kind == "worse return" else scene.honest
    graph = spoil(to_onnx(learner.hypermodel, scene.spec), kind, scene.spec, 0)
    examiner = Examiner(Tracking(scene.uri, scene.data_dir, "default", "champion"))
    manifest = Manifest(spec=scene.spec, graph_kind=GraphKind.GRAPH_KIND_COEFFICIENTS)
    return examiner.examine(learner, graph, manifest, some or recent(scene))


class TestExaminer:
    def test_an_honest_candidate_passes(self, scene: Scene) -> None:
        """Everything is measured but the return in an environment, and lies within the region."""
        evidence = examine(scene)

        assert judge(evidence, region).is_promotion
        assert "1" == evidence.serving_version
        assert evidence.off_policy is not None
        assert 400 == evidence.off_policy.num_episodes

    @pytest.mark.parametrize("kind", planted)
    def test_a_planted_fault_is_held_back(self, scene: Scene, kind: str) -> None:
        """On the graph that would serve, whatever the learner in memory says."""
        assert not judge(examine(scene, kind), region).is_promotion

    def test_a_log_without_episodes_says_nothing_of_worth(self, scene: Scene) -> None:
        """And the report says why."""
        evidence = examine(scene, some=Recent(recent(scene).observations))

        assert evidence.off_policy is None
        assert "the log holds no whole episode" == evidence.no_off_policy
        assert not judge(evidence, region).is_promotion

    def test_without_recent_observations_nothing_is_compared(self, scene: Scene) -> None:
        """What would be needed for a declared region is missing: held back."""
        evidence = examine(scene, some=Recent(np.zeros((0, 7), np.float32)))

        assert evidence.change is None
        assert not judge(evidence, region).is_promotion
        assert judge(evidence, GateLimits()).is_promotion

    @pytest.mark.parametrize("kind", ["", "permuted actions", "NaN weights"])
    def test_every_report_can_be_drawn(self, scene: Scene, kind: str) -> None:
        """Also where little or nothing was measured."""
        evidence = examine(scene, kind)

        figure = gate_figure("gates of version 7", evidence, region, judge(evidence, region))

        assert 3 == len(figure.axes)


class TestEpisodeCollector:
    def test_what_never_ends_is_given_up(self, scene: Scene) -> None:
        """Agents that went away leave no more behind than the limit; whole episodes go on coming out."""
        collector = EpisodeCollector(100, max_open_steps=20)
        steps = transitions(scene.log, scene.spec)

        collector.push(step for step in steps if step.key.number < 4)
        collector.push(steps[:50])

        assert 10 == len(collector.episodes)

    def test_no_steps_keep_nothing(self, scene: Scene) -> None:
        """The estimate can be turned off."""
        collector = EpisodeCollector(0, max_open_steps=0)

        collector.push(transitions(scene.log, scene.spec))

        assert not collector.episodes


class TestVersions:
    def test_an_old_version_is_found_after_many_newer_ones(self, scene: Scene) -> None:
        """A log that twenty versions decided names more than are kept loaded, the oldest among them."""
        versions = Versions(Tracking(scene.uri, scene.data_dir, "default", "champion"))

        newer = [versions.policy(str(number)) for number in range(100, 120)]

        assert [None] * 20 == newer
        assert versions.policy("1") is not None
