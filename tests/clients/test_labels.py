import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from hyperact.clients.labels import Labels, data_names, load_rows


def shown(rows: Labels, number: int, seed: int) -> list[bytes]:
    """Return the observations of some steps, from a seeded reset on."""
    found = []
    for place in range(number):
        observation, _ = rows.reset(seed=seed if place == 0 else None)
        rows.step(0)
        found.append(observation.tobytes())
    return found


@pytest.mark.parametrize("data", data_names)
def test_features_are_standardised(data: str) -> None:
    """Every data set comes on one scale, so that one prior fits them all."""
    observations, labels = load_rows(data)

    np.testing.assert_allclose(observations.mean(0), 0, atol=1e-4)
    assert set(np.round(observations.std(0), 3)) <= {0.0, 1.0}
    assert set(range(labels.max() + 1)) == set(labels)


def test_an_unknown_data_set_is_told() -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match="digits, breast_cancer, wine, iris, got 'letters'"):
        Labels("letters")


class TestLabels:
    def test_it_is_a_gymnasium_environment(self) -> None:
        """Any client or trainer can take it by its name."""
        environment = gymnasium.make("hyperact.clients.labels:hyperact/Labels-v0", data="wine")

        check_env(environment.unwrapped, skip_render_check=True)

    def test_only_the_right_label_is_rewarded(self) -> None:
        """One for it and nothing for the others, and the step is over."""
        rows = Labels("iris")
        rewards = []
        for action in range(3):
            rows.reset(seed=5)
            label = rows.label
            _, reward, terminated, truncated, _ = rows.step(action)
            assert (True, False) == (terminated, truncated)
            rewards.append(reward)

        assert [float(action == label) for action in range(3)] == rewards

    def test_each_pass_shows_each_row_once(self) -> None:
        """In an order of its own."""
        seen = shown(Labels("iris"), 300, seed=1)
        first, second = seen[:150], seen[150:]

        assert sorted(first) == sorted(second)
        assert first != second

    def test_a_seed_decides_the_order(self) -> None:
        """Whatever was done before it."""
        rows = Labels("wine")
        before = shown(rows, 10, seed=3)

        assert before == shown(rows, 10, seed=3)
        assert before != shown(rows, 10, seed=4)

    def test_a_step_needs_a_row(self) -> None:
        """An answer without a question is a slip."""
        rows = Labels("wine")
        rows.reset(seed=0)
        rows.step(0)

        with pytest.raises(gymnasium.error.ResetNeeded):
            rows.step(0)
