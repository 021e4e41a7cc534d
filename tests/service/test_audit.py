"""Logged decisions computed again: clean logs agree to the last bit, and every planted fault gets its grade."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

import toys
from hyperact.service.audit import Case, Grade, VersionJudge, check_segment, propensity_range
from hyperact.service.audit_settings import Bound, parse_bound
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.rhythm import Rhythm
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE, index_bank, index_key_id
from hyperact.v1.model_pb2 import ActingRule, AgentKind, GraphKind, IndexSchedule
from hyperact.v1.probabilities import Reference, make_reference, probabilities
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import to_tensor
from toy_audits import Change, audited, changed_copy, not_exact, play_for_audit, read_log
from toys import toy_spec

key = bytes(range(32))
every_distribution = [GAUSSIAN, UNIT_SPHERE, ONE_HOT, COORDINATE]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A worker's log of 75 steps: the fallback's, and those of two versions with re-pins between them."""
    made = tmp_path_factory.mktemp("audit") / "data"
    play_for_audit(made)
    return made


def by(version: str) -> Callable[[list[Step]], Step]:
    """Return what finds a step of a version that is not masked and not the first of its episode."""
    return lambda steps: next(
        step for step in steps if step.version == version and step.step_id.number > 1 and not step.action_mask
    )


def set_field(version: str, field: str, value: Any) -> Change:
    """Return a change of one field of one step; `value` may be a function of the old one."""

    def change(steps: list[Step]) -> None:
        step = by(version)(steps)
        setattr(step, field, value(getattr(step, field)) if callable(value) else value)

    return change


class TestCleanLogs:
    def test_a_workers_log_is_exact(self, data_dir: Path) -> None:
        """Fallback, promotion, re-pin and masks included, every decision is the same to the last bit."""
        graded = audited(data_dir)

        steps = [one.entry.step for one in graded]
        assert [] == not_exact(graded)
        assert {"": 3, "1": 48, "2": 24} == Counter(step.version for step in steps)
        assert 4 == sum(step.repinned for step in steps)

    @pytest.mark.parametrize(
        "spec",
        [
            {"num_actions": 2, "index_dim": 0},
            {"num_actions": 2, "reference_distribution": UNIT_SPHERE},
            {"num_actions": 3, "reference_distribution": ONE_HOT},
            {"index_schedule": IndexSchedule.INDEX_SCHEDULE_GEOMETRIC, "discount": 0.6},
            {"index_schedule": IndexSchedule.INDEX_SCHEDULE_STEP, "reference_distribution": COORDINATE},
            {"agent_kind": AgentKind.AGENT_KIND_CONTINUING, "discount": 0.7},
            {"agent_kind": AgentKind.AGENT_KIND_ONE_SHOT},
            {"is_indexed": True, "bank_size": 64},
            {"is_indexed": True, "num_actions": 2, "reference_distribution": ONE_HOT},
            {"num_actions": 3, "index_dim": 0, "acting_rule": ActingRule(epsilon=0.5)},
            {"acting_rule": ActingRule(num_indices=5, quantile=0.8, epsilon=0.1)},
            {"is_indexed": True, "bank_size": 32, "acting_rule": ActingRule(num_indices=3)},
            {"reference_distribution": ONE_HOT, "acting_rule": ActingRule(num_indices=2)},
            {"reference_distribution": ONE_HOT, "acting_rule": ActingRule(num_indices=0, epsilon=0.2)},
        ],
    )
    def test_every_kind_of_model_is(self, tmp_path: Path, spec: dict[str, Any]) -> None:
        """Whatever the agents, the schedule, the distribution, the graph and the acting rule."""
        play_for_audit(tmp_path, **spec)

        graded = audited(tmp_path)

        assert [] == not_exact(graded)
        assert len(graded) > 60

    def test_a_part_of_it_can_be_audited(self, data_dir: Path) -> None:
        """By offset or by time, the begin included and the end not."""
        entries = read_log(data_dir)
        times = [entry.step.time.ToNanoseconds() for entry in entries]

        some = audited(data_dir, Bound(offset=10), Bound(offset=30))
        later = audited(data_dir, Bound(nanoseconds=times[40]), Bound(nanoseconds=times[60]))

        assert list(range(10, 30)) == [one.entry.offset for one in some]
        assert [time for time in times if times[40] <= time < times[60]] == [
            one.entry.step.time.ToNanoseconds() for one in later
        ]
        assert [] == not_exact([*some, *later])


PLANTED: dict[str, tuple[Change, Grade, str]] = {
    "a flipped action": (set_field("1", "action", lambda action: (action + 1) % 4), Grade.MISMATCH, "action: logged"),
    "an action that there is not": (set_field("1", "action", 4), Grade.MISMATCH, "the version has 4"),
    "a changed propensity": (
        set_field("2", "propensity", lambda propensity: propensity * 1.02),
        Grade.MISMATCH,
        "propensity: logged",
    ),
    "a changed margin": (set_field("2", "margin", lambda margin: margin + 0.1), Grade.MISMATCH, "margin: logged"),
    "a rounded margin": (
        set_field("2", "margin", lambda margin: margin * (1 + 1e-6)),
        Grade.WITHIN_TOLERANCE,
        "margin: logged",
    ),
    "another version's number": (set_field("1", "version", "2"), Grade.MISMATCH, "is that of version 1"),
    "a number that there never was": (set_field("1", "version", "77"), Grade.MISMATCH, "is that of version 1"),
    "another version's number and digest": (
        lambda steps: set_version(by("1")(steps), by("2")(steps)),
        Grade.MISMATCH,
        "logged",
    ),
    "a wrong segment": (set_field("1", "segment", 1), Grade.MISMATCH, "segment: logged 1, derived 0"),
    "a changed observation": (
        lambda steps: by("1")(steps).observation.CopyFrom(to_tensor(np.full(3, 0.3, np.float32))),
        Grade.MISMATCH,
        "logged",
    ),
    "an observation of another shape": (
        lambda steps: by("1")(steps).observation.CopyFrom(to_tensor(np.zeros(5, np.float32))),
        Grade.MISMATCH,
        "observation.shape: expected [3]",
    ),
    "a mask": (set_field("1", "action_mask", b"\1\1\0\0"), Grade.MISMATCH, "logged"),
    "a mask that allows nothing": (set_field("1", "action_mask", bytes(4)), Grade.MISMATCH, "the mask allows nothing"),
    "a mask for another number of actions": (set_field("1", "action_mask", b"\1"), Grade.MISMATCH, "mask of 1"),
    "another distribution": (set_field("1", "reference_distribution", ONE_HOT), Grade.MISMATCH, "ONE_HOT"),
    "an unknown distribution": (set_field("1", "reference_distribution", 99), Grade.MISMATCH, "logged number 99"),
    "another run": (lambda steps: rename(by("1")(steps)), Grade.MISMATCH, "logged"),
    "a decision that is called the fallback's": (set_field("1", "fallback", True), Grade.MISMATCH, "fallback is true"),
    "a fallback's other action": (
        set_field("", "action", lambda action: (action + 1) % 4),
        Grade.MISMATCH,
        "action: logged",
    ),
    "a fallback's other propensity": (set_field("", "propensity", 0.5), Grade.MISMATCH, "propensity: logged 0.5"),
    "a fallback's impossible propensity": (
        lambda steps: spoil(by("")(steps)),
        Grade.MISMATCH,
        "no action was allowed",
    ),
    "another key's step": (set_field("1", "index_key_id", b"abcd"), Grade.NOT_REPRODUCIBLE, "index key 61626364"),
    "a digest that no version has": (
        set_field("1", "version_digest", b"12345678"),
        Grade.NOT_REPRODUCIBLE,
        "is another one now",
    ),
}


def set_version(step: Step, other: Step) -> None:
    step.version, step.version_digest = other.version, other.version_digest


def spoil(step: Step) -> None:
    step.num_actions, step.propensity = 0, 1e-30


def rename(step: Step) -> None:
    step.step_id.run += "x"


class TestPlantedFaults:
    @pytest.mark.parametrize("fault", PLANTED)
    def test_each_gets_its_grade_and_nothing_else_does(self, data_dir: Path, tmp_path: Path, fault: str) -> None:
        """One step was tampered with: it is found, with the reason, and no other step is suspected."""
        change, grade, words = PLANTED[fault]

        graded = audited(changed_copy(data_dir, tmp_path / "copy", change))

        found = not_exact(graded)
        assert [grade] == [one.finding.grade for one in found]
        assert words in found[0].finding.detail

    def test_another_key_is_named_and_not_a_thousand_differences(self, data_dir: Path, tmp_path: Path) -> None:
        """Nothing can be said of the decisions, and that is what is said."""
        copy = changed_copy(data_dir, tmp_path / "copy", lambda steps: None)
        (copy / "keys" / "index.key").write_text("ab" * 32 + "\n")

        graded = audited(copy)

        assert {Grade.NOT_REPRODUCIBLE} == {one.finding.grade for one in graded}
        assert "decided with the index key" in graded[0].finding.detail

    def test_a_version_that_is_gone_is_named(self, data_dir: Path, tmp_path: Path) -> None:
        """Whoever deletes a version loses its decisions, and no other's; a copy in the cache is no registry."""
        copy = changed_copy(data_dir, tmp_path / "copy", lambda steps: None)
        uri = f"sqlite:///{copy / 'mlflow.db'}"
        MlflowClient(uri, uri).delete_model_version("default", "1")

        graded = audited(copy)

        assert {("", "exact"), ("1", "not reproducible"), ("2", "exact")} == {
            (one.entry.step.version, str(one.finding.grade)) for one in graded
        }
        assert "version 1: MISSING" in not_exact(graded)[0].finding.detail

    def test_a_number_that_means_another_version_now_is_told(self, data_dir: Path, tmp_path: Path) -> None:
        """A registry that was made anew counts from 1 too."""
        copy = changed_copy(data_dir, tmp_path / "copy", lambda steps: None)
        uri = toys.make_registry(copy)
        for seed in (1, 99):
            toys.toy_version(copy / "other" / str(seed), seed=seed, num_actions=4, index_dim=3, hidden_sizes=(8,))
            toys.register(uri, copy / "other" / str(seed))

        found = not_exact(audited(copy))

        assert {("2", "not reproducible")} == {(one.entry.step.version, str(one.finding.grade)) for one in found}
        assert "version 2 is another one now: digest" in found[0].finding.detail

    def test_logs_of_before_steps_named_their_version_and_key_are_graded_too(
        self, data_dir: Path, tmp_path: Path
    ) -> None:
        """Without the names everything is computed by what the registry and the key are now."""

        def forget(steps: list[Step]) -> None:
            for step in steps:
                for name in ("version_digest", "index_key_id", "num_actions"):
                    step.ClearField(name)

        assert [] == not_exact(audited(changed_copy(data_dir, tmp_path / "copy", forget)))


class TestTies:
    def judge(self, tmp_path: Path, gap: float) -> VersionJudge:
        """Return the judge of a version whose second action is better by `gap`, whatever the index."""
        toys.toy_version(tmp_path, coefficients=np.array([[1.0] + [0.0] * 4, [1.0 + gap] + [0.0] * 4]))
        return VersionJudge(key, Hypermodel.load(tmp_path, model="default", max_onnx_bytes=1 << 20))

    def step(self, action: int, margin: float, propensity: float) -> Step:
        """Return the record of a decision of such a version."""
        return Step(
            step_id=StepKey("default", "s", "r", 0, 0).to_message(),
            observation=to_tensor(np.zeros(3, np.float32)),
            action=action,
            version="1",
            margin=margin,
            propensity=propensity,
            reference_distribution=GAUSSIAN,
            index_key_id=index_key_id(key),
        )

    @pytest.mark.parametrize(
        ("gap", "margin", "grade"),
        [
            (1e-6, 0.0, Grade.TIE),
            (1e-6, 5e-7, Grade.TIE),
            (1e-6, 0.5, Grade.MISMATCH),
            (1e-2, 0.0, Grade.MISMATCH),
        ],
    )
    def test_the_other_of_two_equal_actions_is_a_tie(
        self, tmp_path: Path, gap: float, margin: float, grade: Grade
    ) -> None:
        """On another device rounding may fall otherwise; a real difference is none of that."""
        judge = self.judge(tmp_path, gap)

        finding = judge.grade([Case(self.step(0, margin, 0.5))])[0]

        assert grade is finding.grade
        assert 1 == finding.action

    def test_an_exact_tie_is_broken_as_it_was(self, tmp_path: Path) -> None:
        """The service's own tie break is a function of the step."""
        judge = self.judge(tmp_path, 0.0)

        grades = {str(judge.grade([Case(self.step(action, 0.0, 0.5))])[0].grade) for action in (0, 1)}

        assert {"exact", "tie"} == grades


class TestPropensityRange:
    @pytest.mark.parametrize("distribution", every_distribution)
    @pytest.mark.parametrize("num_actions", [1, 2, 5])
    def test_it_holds_whatever_rounding_does(self, num_actions: int, distribution: Any) -> None:
        """Coefficients that are off by at most the error give no propensity beyond the range."""
        random = np.random.default_rng(num_actions)
        reference = Reference(distribution, index_bank(4, distribution))
        for error in (1e-6, 1e-3, 0.1):
            exact = random.normal(size=(num_actions, 5)).astype(np.float32)
            low, high = propensity_range(exact, None, reference, 0, error)
            off = exact + random.uniform(-error, error, size=(50, num_actions, 5)).astype(np.float32)
            found = probabilities(off, None, reference, np.zeros(50, np.intp))

            assert low <= found.min()
            assert found.max() <= high
            assert high - low < 20 * error + 1e-6 or num_actions > 2 or distribution in (ONE_HOT, COORDINATE)

    @pytest.mark.parametrize("num_actions", [2, 4])
    @pytest.mark.parametrize("rule", [ActingRule(), ActingRule(num_indices=4, quantile=0.7, epsilon=0.2)])
    @pytest.mark.parametrize("kind", [GraphKind.GRAPH_KIND_INDEXED, GraphKind.GRAPH_KIND_COEFFICIENTS])
    def test_it_holds_for_every_rule_and_graph(
        self, kind: "GraphKind.ValueType", rule: ActingRule, num_actions: int
    ) -> None:
        """Values under the bank that are off by at most the error likewise, and quantiles of several."""
        random = np.random.default_rng(num_actions)
        reference = make_reference(toy_spec(num_actions, acting_rule=rule), kind, 64)
        width = 5 if reference.is_affine else len(reference.bank)
        for error in (1e-6, 1e-3, 0.1):
            exact = random.normal(size=(num_actions, width)).astype(np.float32)
            low, high = propensity_range(exact, None, reference, 0, error)
            off = exact + random.uniform(-error, error, size=(50, num_actions, width)).astype(np.float32)
            found = probabilities(off, None, reference, np.zeros(50, np.intp))

            assert low <= found.min()
            assert found.max() <= high
            assert high - low < 1.0

    def test_a_mask_leaves_what_is_allowed(self) -> None:
        """A forbidden action has no chance, and the only one every."""
        coefficients = np.eye(3, dtype=np.float32)
        reference = Reference(GAUSSIAN, index_bank(2, GAUSSIAN))

        only = propensity_range(coefficients, np.array([True, False, False]), reference, 0, 1e-5)
        forbidden = propensity_range(coefficients, np.array([True, False, False]), reference, 1, 1e-5)

        assert ((1.0, 1.0), (0.0, 0.0)) == (only, forbidden)


class TestSegments:
    def case(self, number: int, segment: int, before: int | None = None) -> Case:
        """Return a step of an episode."""
        step_id = StepKey("default", "s", "r", 0, number).to_message()
        return Case(Step(step_id=step_id, segment=segment), before)

    def test_a_segment_that_the_rhythm_derives_is_right(self) -> None:
        """With or without the step before."""
        rhythm = Rhythm(key, discount=0.7, schedule=IndexSchedule.INDEX_SCHEDULE_GEOMETRIC)
        name = StepKey("default", "s", "r", 0, 0)
        segments = [rhythm.segment_of(name._replace(number=number), None) for number in range(30)]

        found = [check_segment(rhythm, self.case(number, segment)) for number, segment in enumerate(segments)]

        assert len(set(segments)) > 3
        assert [None] * 30 == found

    def test_a_re_pinned_episode_goes_on_with_the_index_that_it_has(self) -> None:
        """The version before drew at every step, the one after draws at none: the segment is the last one drawn."""
        rhythm = Rhythm(key)

        assert check_segment(rhythm, self.case(5, 4, before=4)) is None

    def test_a_segment_that_hangs_on_a_step_unread_is_not_judged(self) -> None:
        """It may be right, and cannot be told."""
        finding = check_segment(Rhythm(key), self.case(5, 4))

        assert finding is not None
        assert Grade.NOT_REPRODUCIBLE is finding.grade

    @pytest.mark.parametrize(("number", "segment", "before"), [(5, 3, 4), (5, 6, None), (0, 1, None), (5, 5, 0)])
    def test_one_that_nothing_derives_is_wrong(self, number: int, segment: int, before: int | None) -> None:
        """Neither drawn there, nor carried on."""
        finding = check_segment(Rhythm(key), self.case(number, segment, before))

        assert finding is not None
        assert Grade.MISMATCH is finding.grade


class TestBounds:
    def test_digits_are_an_offset_and_anything_else_a_time(self) -> None:
        """A time without a zone is this machine's."""
        assert Bound() == parse_bound("")
        assert Bound(offset=12) == parse_bound("12")
        assert Bound(nanoseconds=1_700_000_000_000_000_000) == parse_bound("2023-11-14T22:13:20+00:00")
        with pytest.raises(ValueError, match="expected an offset or a time"):
            parse_bound("yesterday")
