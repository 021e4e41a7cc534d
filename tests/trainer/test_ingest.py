from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from hyperact.trainer.ingest import Ingest, StepSource, dataset
from hyperact.trainer.log_source import LogLostError, LogUnavailableError, Positions
from hyperact.v1.log_pb2 import LogEntry
from toy_entries import in_partitions, key, model_spec, one_shot, outcome, report, start_seconds, step
from toy_log_service import DeepSeaPlayer, ToyLog, served
from toys import toy_spec


def never(error: LogUnavailableError) -> None:
    raise error


@pytest.fixture
def log() -> ToyLog:
    """Two sessions of DeepSea in two partitions, two episodes each."""
    log = ToyLog(entries_per_message=7)
    for partition in (0, 1):
        DeepSeaPlayer(log, size=3, session=f"agent-{partition}", partition=partition).play(2)
    return log


@pytest.fixture
def source(log: ToyLog) -> Iterator[StepSource]:
    with served(log) as address, grpc.insecure_channel(address) as channel:
        yield StepSource(channel, "default")


def read(source: StepSource, begins: Positions, ends: Positions) -> list[tuple[str, int]]:
    entries = [entry for some in source.read(begins, ends, source.extent(), never) for entry in some]
    return [(entry.partition[-1], entry.offset) for entry in entries]


class TestStepSource:
    def test_the_extent_covers_every_partition(self, source: StepSource) -> None:
        """Two partitions of six steps and two reports each."""
        extent = source.extent()

        assert [9, 9] == list(extent.ends.values())
        assert 12 == extent.num_training_steps

    def test_partitions_are_read_one_after_the_other(self, source: StepSource) -> None:
        """However messages mix them: the order of a round is a matter of its positions alone."""
        entries = read(source, {}, source.extent().ends)

        assert [(partition, offset) for partition in "01" for offset in range(1, 9)] == entries

    def test_a_round_ends_where_it_says(self, source: StepSource) -> None:
        """What was logged after a round was fixed belongs to the next one."""
        first, second = sorted(source.extent().ends)

        entries = read(source, {first: 3}, {first: 6, second: 2})

        assert [("0", 3), ("0", 4), ("0", 5), ("1", 1)] == entries

    def test_reading_goes_on_after_an_outage(self, log: ToyLog, source: StepSource) -> None:
        """A service that goes away in the middle of a round costs time, and no entry is read twice or lost."""
        extent, pauses = source.extent(), []
        log.is_away = True

        def come_back(error: LogUnavailableError) -> None:
            pauses.append(str(error))
            log.is_away = False

        entries = [entry for some in source.read({}, extent.ends, extent, come_back) for entry in some]

        assert 16 == len(entries)
        assert ["UNAVAILABLE: draining"] == pauses

    def test_the_log_is_told_what_to_keep(self, log: ToyLog, source: StepSource) -> None:
        """A trainer is a registered reader: retention takes nothing from its positions on."""
        source.acknowledge("trainer", {"a": 7})

        assert {"trainer": {"a": 7}} == log.readers

    def test_a_log_that_is_away_is_not_told(self, log: ToyLog, source: StepSource) -> None:
        """The trainer goes on, and tells it at the next round."""
        log.is_away = True

        with pytest.raises(LogUnavailableError, match="draining"):
            source.acknowledge("trainer", {})

    def test_a_partition_that_is_gone_is_told_apart_from_an_outage(self, source: StepSource) -> None:
        """Waiting would not bring it back."""
        with pytest.raises(LogLostError, match="no partition"):
            read(source, {"f" * 32: 3}, {"f" * 32: 6})

    def test_an_address_where_nobody_listens_is_an_outage(self) -> None:
        """A service that is not up yet is waited for."""
        with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(LogUnavailableError):
            StepSource(channel, "default").extent()


class TestIngest:
    def entries(self) -> list[LogEntry]:
        """Return two steps and the end of their episode."""
        steps = [step(0, 0), step(0, 1, outcome(1.0)), report(0, 1, outcome(2.0, terminated=True))]
        return in_partitions(steps, [0, 0, 0])

    def test_steps_become_transitions_and_episodes(self) -> None:
        """Two steps and the end of their episode give two transitions and one return."""
        taken = Ingest(model_spec()).push(self.entries())

        assert [(key(0, 0), False), (key(0, 1), True)] == [(one.key, one.terminated) for one in taken.transitions]
        assert [3.0] == [episode.episode_return for episode in taken.episodes]

    def test_entries_that_come_again_are_counted_and_passed_over(self) -> None:
        """A stream that was taken up a little too early teaches nothing twice."""
        ingest = Ingest(model_spec())

        ingest.push(self.entries())
        again = ingest.push(self.entries())

        assert [] == again.transitions
        assert 3 == ingest.counts.num_repeated_entries

    def test_transitions_that_do_not_fit_are_counted_and_not_learned_from(self) -> None:
        """Before there is a version the service takes any observation; the learner does not."""
        ingest = Ingest(toy_spec(observation_shape=(7,)))

        taken = ingest.push(self.entries())

        assert [] == taken.transitions
        assert 2 == ingest.counts.num_misfits

    @pytest.mark.parametrize("reward", [float("nan"), float("inf")])
    def test_rewards_that_are_not_numbers_are_not_learned_from(self, reward: float) -> None:
        """One of them would spoil every weight."""
        ingest = Ingest(model_spec())

        taken = ingest.push(in_partitions([step(0, 0), report(0, 0, outcome(reward, terminated=True))], [0, 0]))

        assert [] == taken.transitions

    def test_late_rewards_settle_when_their_window_has_closed(self) -> None:
        """A one-shot step with a window of ten seconds is due eleven seconds later, with the sum of its rewards."""
        ingest = Ingest(model_spec(one_shot, window_seconds=10))
        ingest.push(
            in_partitions(
                [
                    step(0, 0, seconds=0),
                    report(0, 0, outcome(1.0), "a", seconds=3),
                    report(0, 0, outcome(2.0), "b", seconds=9),
                    report(0, 0, outcome(4.0), "c", seconds=11),
                ],
                [0, 0, 0, 0],
            )
        )

        early = ingest.close_windows(start_seconds + 9)
        num_due = ingest.num_due(start_seconds + 20)
        settled = ingest.close_windows(start_seconds + 11)

        assert [] == early.transitions
        assert 1 == num_due
        assert [(3.0, True)] == [(one.reward, one.terminated) for one in settled.transitions]

    def test_observations_are_those_of_the_log(self) -> None:
        """Nothing is scaled or cast on the way."""
        first = Ingest(model_spec()).push(self.entries()).transitions[0]

        np.testing.assert_array_equal(np.array([0.0], np.float32), first.observation)
        np.testing.assert_array_equal(np.array([1.0], np.float32), first.next_observation)


def test_a_dataset_names_what_was_read() -> None:
    """Partitions without entries are left out."""
    ranges = dataset({"b": 5, "a": 3, "c": 1})

    assert [("a", 1, 3), ("b", 1, 5)] == [(one.partition, one.begin_offset, one.end_offset) for one in ranges]
