"""What episodes amount to: tables, the solved criterion, the plot."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from hyperact.clients.play import returns_table
from hyperact.clients.plots import plot_returns
from hyperact.clients.results import by_deployment


@dataclass(frozen=True)
class Ended:
    """An episode."""

    deployment: int
    episode_return: float
    is_evaluation: bool = False
    num_steps: int = 10

    @property
    def version(self) -> str:
        """The version is numbered as the deployment here."""
        return str(self.deployment or "")


def evaluated(*returns: float) -> list[Ended]:
    """Return evaluation episodes of deployment 1."""
    return [Ended(1, one, is_evaluation=True) for one in returns]


class TestByDeployment:
    def test_training_and_evaluation_are_told_apart(self) -> None:
        """Each with its own mean; steps add up over deployments."""
        episodes = [Ended(0, -0.1), Ended(2, 1.0), Ended(1, 0.5), Ended(1, 0.0), *evaluated(0.75)]

        fallback, first, second = by_deployment(episodes)

        assert (0, "", 1, -0.1, None, 10) == (
            fallback.deployment,
            fallback.version,
            fallback.num_episodes,
            fallback.mean_return,
            fallback.evaluation_return,
            fallback.total_steps,
        )
        assert (2, 0.25, 0.5, 1, 0.75, 40) == (
            first.num_episodes,
            first.mean_return,
            first.best_return,
            first.num_evaluations,
            first.evaluation_return,
            first.total_steps,
        )
        assert (2, 50, None) == (second.deployment, second.total_steps, second.optimal_share(0.99))

    def test_no_episodes_no_results(self) -> None:
        """An empty log is not an error."""
        assert [] == by_deployment([])


class TestSolved:
    def test_all_episodes_must_be_optimal(self) -> None:
        """The mean reaches the best return only then."""
        (all_optimal,) = by_deployment(evaluated(*[0.99 - 1e-9] * 100))
        (one_not,) = by_deployment(evaluated(*[0.99] * 99, 0.0))

        assert all_optimal.is_solved(0.99, 100)
        assert not one_not.is_solved(0.99, 100)
        assert (1.0, 0.99) == (all_optimal.optimal_share(0.99 - 1e-6), one_not.optimal_share(0.99 - 1e-6))

    def test_too_few_episodes_prove_nothing(self) -> None:
        """A measurement that was cut off does not count."""
        (result,) = by_deployment(evaluated(*[0.99] * 99))

        assert not result.is_solved(0.99, 100)

    def test_the_last_measurement_counts(self) -> None:
        """Not the part of one that was cut off before it."""
        (result,) = by_deployment(evaluated(0.0, *[0.99] * 100))

        assert result.is_solved(0.99, 100)


class TestShown:
    @pytest.mark.parametrize(
        "episodes",
        [
            [Ended(0, 0.0)],
            [Ended(0, 0.0), Ended(1, 0.5), *evaluated(0.9), Ended(2, 0.7)],
            evaluated(0.1, 0.2),
            [Ended(n // 20, n / 800) for n in range(800)],
        ],
    )
    def test_a_plot_is_an_image_file(self, tmp_path: Path, episodes: list[Ended]) -> None:
        """For one episode as for many deployments; its folder is made."""
        file = tmp_path / "plots" / "returns.png"

        plot_returns(file, "title", episodes, 0.99)

        assert file.read_bytes().startswith(b"\x89PNG")

    def test_a_table_row_is_a_deployment(self) -> None:
        """With its own steps."""
        table = returns_table("title", by_deployment([Ended(0, 0.0), Ended(3, 0.5)]), evaluation=False)

        assert (2, ["none", "3"], ["10", "10"]) == (
            table.row_count,
            list(table.columns[0].cells),
            list(table.columns[-1].cells),
        )
