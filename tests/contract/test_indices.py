"""The index and every other random choice are functions of ids, and stay the same functions for ever."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperact.v1 import indices
from hyperact.v1.errors import FieldError
from hyperact.v1.steps import StepKey, step_digest

golden: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("golden_indices.json").read_text())
key = hashlib.sha256(b"key of the tests").digest()
step = StepKey("default", "session", "run", 0, 0)
continuous = [indices.GAUSSIAN, indices.UNIT_SPHERE]
discrete = [indices.ONE_HOT, indices.COORDINATE]


def draws(count: int, index_dim: int, distribution: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the indices of the first episodes of one run: [count, M]."""
    return np.stack(
        [indices.derive_index(key, step._replace(episode=n), 0, index_dim, distribution) for n in range(count)]
    )


class TestGoldenVectors:
    """Equal to the last bit to a second implementation of the specification (make_golden_indices.py)."""

    def test_an_index_is_the_one_that_was_written_down(self) -> None:
        """A decision of years ago can be recomputed: the derivation never changes."""
        for case in golden["indices"]:
            index = indices.derive_index(
                bytes.fromhex(case["key"]),
                StepKey(*case["step"]),
                case["segment"],
                case["index_dim"],
                case["distribution"],
            )

            assert case["index"] == index.tolist(), case
            assert index.dtype == np.float32

    def test_several_indices_are_those_that_were_written_down(self) -> None:
        """The first is the one index, and the others follow from the same uniforms."""
        for case in golden["several_indices"]:
            ids = StepKey(*case["step"]), case["segment"], case["index_dim"], case["distribution"]
            case_key = bytes.fromhex(case["key"])
            found = indices.derive_indices(case_key, *ids, 5)

            assert case["indices"] == found.tolist(), case
            assert case["indices"][0] == indices.derive_index(case_key, *ids).tolist()

    def test_a_drawn_bank_is_the_one_that_was_written_down(self) -> None:
        """Combinations of several indices are drawn from, of a discrete distribution too."""
        for case in golden["drawn_rows"]:
            bank = indices.drawn_bank(case["index_dim"], case["distribution"], 5120)

            assert case["values"] == bank[case["row"]].tolist(), case

    def test_a_perturbation_is_the_one_that_was_written_down(self) -> None:
        """A trainer that reads the same log again stores the same perturbations."""
        for case in golden["perturbations"]:
            perturbation = indices.derive_perturbation(StepKey(*case["step"]), case["index_dim"])

            assert case["perturbation"] == perturbation.tolist(), case

    def test_the_bank_is_the_one_that_was_written_down(self) -> None:
        """Propensities of different services and years are comparable: they are over the same indices."""
        for case in golden["bank_rows"]:
            bank = indices.index_bank(case["index_dim"], case["distribution"])

            assert (1024, case["index_dim"]) == bank.shape
            assert case["values"] == bank[case["row"]].tolist(), case

    def test_choices_are_those_that_were_written_down(self) -> None:
        """The fallback's actions, the breaking of ties and exploration can be recomputed too."""
        for case in golden["choices"]:
            case_key, case_step = bytes.fromhex(case["key"]), StepKey(*case["step"])

            assert case["uniform_action"] == indices.derive_uniform_action(case_key, case_step)
            assert case["tie_break"] == indices.derive_tie_break(case_key, case_step)
            assert not indices.is_exploring(case_key, case_step, case["exploration"])
            assert indices.is_exploring(case_key, case_step, np.nextafter(case["exploration"], 1.0))

    def test_segments_start_where_it_was_written_down(self) -> None:
        """Any replica knows when a continuing session draws a new index."""
        for case in golden["segments"]:
            case_key, case_step = bytes.fromhex(case["key"]), StepKey(*[*case["step"], 0])
            starts = [
                number
                for number in range(200)
                if indices.is_segment_start(case_key, case_step._replace(number=number), case["discount"])
            ]

            assert case["starts"] == starts

    def test_a_step_digest_is_the_one_that_was_written_down(self) -> None:
        """A step's short name, by which duplicates are found, never changes."""
        for case in golden["digests"]:
            assert case["digest"] == step_digest(StepKey(*case["step"])).hex()

    def test_a_key_is_named_as_it_was_written_down(self) -> None:
        """An auditor with another key learns that from the log, and not from a thousand decisions that differ."""
        for case in golden["key_ids"]:
            assert case["id"] == indices.index_key_id(bytes.fromhex(case["key"])).hex()

    def test_a_session_falls_to_the_challenger_as_it_was_written_down(self) -> None:
        """Every replica, and whoever looks later, knows who had the canary."""
        for case in golden["canaries"]:
            found = indices.derive_canary(bytes.fromhex(case["key"]), case["model"], case["session"], case["version"])

            assert case["canary"] == found


class TestDependence:
    @pytest.mark.parametrize(
        "other",
        [
            step._replace(model="other"),
            step._replace(session="other"),
            step._replace(run="other"),
            step._replace(episode=1),
            # The same letters, divided otherwise between the names.
            step._replace(model="defaults", session="ession"),
        ],
    )
    def test_another_id_gives_another_index(self, other: StepKey) -> None:
        """Agents explore apart from each other: each name has its own index."""
        mine = indices.derive_index(key, step, 0, 4, indices.GAUSSIAN)

        assert not np.array_equal(mine, indices.derive_index(key, other, 0, 4, indices.GAUSSIAN))

    def test_another_key_or_segment_gives_another_index(self) -> None:
        """Nobody without the key can tell the index, and a new segment has a new one."""
        mine = indices.derive_index(key, step, 0, 4, indices.GAUSSIAN)

        assert not np.array_equal(mine, indices.derive_index(b"k" * 16, step, 0, 4, indices.GAUSSIAN))
        assert not np.array_equal(mine, indices.derive_index(key, step, 1, 4, indices.GAUSSIAN))

    def test_the_steps_of_a_segment_share_their_index(self) -> None:
        """Exploration is deep: one index is followed through the whole segment."""
        first = indices.derive_index(key, step, 0, 4, indices.GAUSSIAN)
        later = indices.derive_index(key, step._replace(number=7), 0, 4, indices.GAUSSIAN)

        assert first.tolist() == later.tolist()

    def test_purposes_do_not_share_randomness(self) -> None:
        """The fallback's choice says nothing about how a tie is broken."""
        assert indices.derive_uniform_action(key, step) != indices.derive_tie_break(key, step)

    def test_the_perturbation_of_each_step_is_its_own(self) -> None:
        """Two steps of one episode are perturbed independently."""
        one = indices.derive_perturbation(step, 4)

        assert one.tolist() != indices.derive_perturbation(step._replace(number=1), 4).tolist()


class TestDistributions:
    def test_gaussian_indices_have_mean_zero_and_covariance_one(self) -> None:
        """The sampled value functions spread as the posterior says."""
        count, index_dim = 4000, 3

        sample = draws(count, index_dim, indices.GAUSSIAN).astype(float)

        # The mean of n standard normals has standard deviation 1/sqrt(n), an entry of the covariance at most
        # sqrt(2/n); five of them leave a chance below 1e-6 for all twelve numbers, and the draws are fixed anyway.
        assert np.abs(sample.mean(axis=0)).max() < 5 / math.sqrt(count)
        assert np.abs(sample.T @ sample / count - np.eye(index_dim)).max() < 5 * math.sqrt(2 / count)

    @pytest.mark.parametrize("index_dim", [1, 2, 16])
    def test_sphere_indices_have_norm_one_and_no_preferred_direction(self, index_dim: int) -> None:
        """Every direction is as likely as every other."""
        count = 2000

        sample = draws(count, index_dim, indices.UNIT_SPHERE).astype(float)

        assert np.allclose(np.linalg.norm(sample, axis=1), 1.0, atol=1e-6)
        # An entry has variance 1/M.
        assert np.abs(sample.mean(axis=0)).max() < 5 / math.sqrt(count * index_dim)

    @pytest.mark.parametrize("index_dim", [1, 2, 5])
    def test_one_hot_indices_choose_every_member_equally_often(self, index_dim: int) -> None:
        """Each member of an ensemble gets its share of the episodes."""
        count = 2000

        sample = draws(count, index_dim, indices.ONE_HOT)

        assert np.array_equal(np.sort(sample, axis=1), np.sort(np.eye(index_dim)[np.zeros(count, int)], axis=1))
        shares = sample.mean(axis=0)
        # A share has standard deviation sqrt(p (1 - p) / n) <= 1 / (2 sqrt(n)).
        assert np.abs(shares - 1 / index_dim).max() < 5 / (2 * math.sqrt(count))

    def test_the_one_hot_bank_holds_every_member_once(self) -> None:
        """A mean over the bank is exact."""
        assert np.eye(3).tolist() == indices.index_bank(3, indices.ONE_HOT).tolist()

    def test_the_coordinate_bank_holds_every_signed_direction_once(self) -> None:
        """A mean over the bank is exact, and the entries have variance one."""
        root = np.float32(math.sqrt(2))

        bank = indices.index_bank(2, indices.COORDINATE)

        assert [[root, 0], [-root, 0], [0, root], [0, -root]] == bank.tolist()

    @pytest.mark.parametrize("distribution", discrete)
    def test_a_discrete_index_is_a_row_of_its_bank(self, distribution: Any) -> None:
        """What is drawn is what propensities are computed over."""
        rows = {tuple(row) for row in indices.index_bank(4, distribution).tolist()}

        assert {tuple(row) for row in draws(200, 4, distribution).tolist()} == rows

    @pytest.mark.parametrize("distribution", [*continuous, *discrete])
    def test_a_model_without_an_index_has_one_empty_index(self, distribution: Any) -> None:
        """A plain DQN is served by the same code: its propensity is exactly one."""
        assert (0,) == indices.derive_index(key, step, 0, 0, distribution).shape
        assert (1, 0) == indices.index_bank(0, distribution).shape

    def test_the_bank_cannot_be_changed_by_accident(self) -> None:
        """One caller's mistake does not change the propensities of all others."""
        with pytest.raises(ValueError, match="read-only"):
            indices.index_bank(2, indices.GAUSSIAN)[0, 0] = 5.0

    def test_an_unknown_distribution_is_refused(self) -> None:
        """A version from the future is refused by name instead of being served with a wrong index."""
        with pytest.raises(FieldError, match="reference_distribution"):
            indices.derive_index(key, step, 0, 4, 99)  # type: ignore[arg-type]


class TestUniforms:
    @pytest.mark.parametrize("word", [b"\x00" * 8, b"\xff" * 8])
    def test_the_extreme_words_give_numbers_strictly_between_zero_and_one(
        self, word: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No draw is infinite, however unlikely the hash."""

        class ExtremeHash:
            def digest(self) -> bytes:
                return word * 8

        monkeypatch.setattr("hashlib.blake2b", lambda *_args, **_kwargs: ExtremeHash())

        assert 0.0 < indices.derive_uniform_action(key, step) < 1.0
        assert np.isfinite(indices.derive_index(key, step, 0, 3, indices.GAUSSIAN)).all()

    @pytest.mark.parametrize("num_bytes", [0, 15, 65])
    def test_a_key_of_a_wrong_length_is_refused(self, num_bytes: int) -> None:
        """A truncated key file is noticed at once."""
        with pytest.raises(FieldError, match="16 to 64 bytes"):
            indices.check_key(bytes(num_bytes))


class TestSegments:
    @pytest.mark.parametrize("discount", [0.5, 0.9])
    def test_segments_have_geometric_length(self, discount: float) -> None:
        """A continuing agent follows one index for 1 / (1 - discount) steps in the mean."""
        count = 5000
        starts = [n for n in range(count) if indices.is_segment_start(key, step._replace(number=n), discount)]
        lengths = np.diff(starts)

        probability = 1.0 - discount
        # The number of starts is binomial: standard deviation sqrt(n p (1 - p)).
        assert abs(len(starts) - count * probability) < 5 * math.sqrt(count * probability * discount)
        # A geometric length is 1 with probability p and 2 with probability p (1 - p).
        for length, expected in ((1, probability), (2, probability * discount)):
            deviation = math.sqrt(expected * (1 - expected) / len(lengths))
            assert abs((lengths == length).mean() - expected) < 5 * deviation

    def test_an_episode_begins_with_a_segment(self) -> None:
        """There is an index from the first step on, whatever the discount."""
        assert indices.is_segment_start(key, step, 1.0 - 1e-12)
