"""The Atari benchmark: runs, their checkpoints, scores, the table and the figure."""

import json
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from hyperact.trainer.bench.atari import AtariRun, columns, make_runs
from hyperact.trainer.bench.atari_figure import atari_figure
from hyperact.trainer.bench.atari_scores import curve, human_normalised, published_curve
from hyperact.trainer.bench.atari_table import make_table
from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.settings import AtariSettings
from hyperact.trainer.environments import Environment, make_environment
from hyperact.v1.model_pb2 import IndexSchedule

quick = json.dumps({"batch_size": 4, "min_replay_size": 20, "replay_capacity": 300})


def outcome(variant: str = "hyperagent", seed: int = 0, returns: tuple[float, ...] = (20.0, 22.0)) -> Row:
    """Return a row of two evaluations; the first had half of the last returns."""
    points = [[50_000, [value / 2 for value in returns]], [100_000, list(returns)]]
    found = {"variant": variant, "game": "Freeway", "seed": seed, "steps": 100_000, "seconds": 7200}
    rest = {"curve": json.dumps(points), "configuration": _configuration(variant)}
    return {name: str((found | rest).get(name, "")) for name in columns}


def _configuration(variant: str) -> str:
    run = AtariRun(variant, "Freeway", 0, 100_000)
    config = run.make_config(run.make_spec()).model_dump(exclude_defaults=True)
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


class ShortRun(AtariRun):
    """Games that are cut after thirty steps."""

    def make_environment(self, *, is_training: bool) -> Environment:
        """Return such a game."""
        return make_environment(f"ALE/{self.game}-v5", {"training": is_training, "max_frames": 120})


class TestAtariRun:
    def test_the_index_is_held_for_a_geometric_number_of_steps(self) -> None:
        """As in the released code: an episode of Freeway is longer than what one index should decide."""
        run = AtariRun("hyperagent", "Freeway", 0, 100)

        assert IndexSchedule.INDEX_SCHEDULE_GEOMETRIC == run.make_spec().index_schedule

    def test_double_dqn_has_the_papers_settings(self) -> None:
        """The same network without prior and index; ten rewards are summed; few random actions in evaluations."""
        run = AtariRun("ddqn", "Freeway", 0, 100)
        spec = run.make_spec()
        config = run.make_config(spec)

        assert (0, 0.0, (256,), 10) == (
            spec.index_dim,
            config.network.prior_scale,
            config.network.hidden_sizes,
            config.num_td_steps,
        )
        assert (1.0, 0.1, 0.05) == (config.epsilon.begin, config.epsilon.end, config.epsilon.evaluation)

    def test_a_row_finishes_its_own_run_only(self) -> None:
        """Another seed, torso or more interactions are runs of their own; fewer are not."""
        assert AtariRun("hyperagent", "Freeway", 0, 100_000).is_finished_by(outcome())
        assert AtariRun("hyperagent", "Freeway", 0, 50_000).is_finished_by(outcome())
        assert not AtariRun("hyperagent", "Freeway", 0, 200_000).is_finished_by(outcome())
        assert not AtariRun("hyperagent", "Freeway", 1, 100_000).is_finished_by(outcome())
        assert not AtariRun("ddqn", "Freeway", 0, 100_000).is_finished_by(outcome())
        assert not AtariRun("hyperagent", "Freeway", 0, 100_000, torso="nature").is_finished_by(outcome())

    def test_seeds_come_in_turn(self) -> None:
        """A campaign that is cut short has compared the variants on something."""
        runs = make_runs(AtariSettings(games=["Freeway", "Boxing"], seeds=[0, 1], variants=["hyperagent", "ddqn"]))

        labels = ["hyperagent-Freeway-atari-0", "ddqn-Freeway-atari-0", "hyperagent-Freeway-atari-1"]
        assert labels == [run.label for run in runs[:3]]
        assert 8 == len(runs)

    def test_an_interrupted_run_goes_on(self, tmp_path: Path) -> None:
        """Its evaluations and its seconds add up, it learns on from where it stood, and its best policy is kept."""
        first = ShortRun("hyperagent", "Freeway", 0, 60, 30, 1, 30, "data_efficient", quick, str(tmp_path / "kept"))
        words: list[str] = []

        before = first.play(tmp_path / "run", lambda mark: None)
        after = replace(first, num_steps=90).play(tmp_path / "run", lambda mark: words.append(mark.words))

        assert set(columns) == set(after)
        assert [30, 60] == [num_steps for num_steps, _ in json.loads(str(before["curve"]))]
        assert [30, 60, 90] == [num_steps for num_steps, _ in json.loads(str(after["curve"]))]
        assert int(str(before["learner_steps"])) + 30 == after["learner_steps"]
        assert (tmp_path / "kept" / f"{first.label}.npz").exists()


class TestReport:
    def test_a_curve_is_the_mean_over_seeds(self) -> None:
        """With the least and the most of the seeds' own means."""
        points = curve([outcome(seed=0, returns=(20.0, 22.0)), outcome(seed=1, returns=(24.0, 26.0))])

        assert [(50_000, 11.5, 10.5, 12.5, 2), (100_000, 23.0, 21.0, 25.0, 2)] == [astuple(point) for point in points]

    def test_published_curves_stand_beside_ours(self) -> None:
        """Freeway at 100,000 interactions: 25.7 by HyperAgent, 11.6 by Double DQN."""
        assert 25.7 == dict(published_curve("Freeway", "hyperagent"))[100_000]
        assert 11.6 == dict(published_curve("Freeway", "ddqn"))[100_000]
        assert 31.8 == dict(published_curve("Freeway", "hyperagent"))[2_000_000]
        assert [] == published_curve("Freeway", "epinet")

    def test_scores_are_put_on_the_human_scale(self) -> None:
        """A human plays Freeway at 29.6, chance at 0; of an unknown game nothing is said."""
        assert human_normalised("Freeway", 14.8) == pytest.approx(0.5)
        assert human_normalised("Chess", 1.0) is None

    def test_the_table_has_a_line_for_each_game_and_variant(self) -> None:
        """The last evaluation counts."""
        rows = [outcome(), outcome(seed=1, returns=(24.0, 26.0)), outcome(variant="ddqn", returns=(9.0, 11.0))]

        first, second = make_table(rows).cells

        assert ("hyperagent", "Freeway", "2", "100,000", "23.0", "21.0 to 25.0", "25.7", "0.78", "2.0") == first
        assert ("ddqn", "10.0", "11.6") == (second[0], second[4], second[6])

    def test_the_figure_has_our_curves_and_the_published_ones(self) -> None:
        """A panel a game, two lines a variant; then the panel of all games."""
        axis, _ = atari_figure([outcome(), outcome(variant="ddqn")]).axes

        labels = axis.get_legend_handles_labels()[1]
        assert {"hyperagent, 1 seeds", "hyperagent, published", "ddqn, 1 seeds", "ddqn, published"} == set(labels)
