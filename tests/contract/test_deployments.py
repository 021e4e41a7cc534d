"""The deployment ledger: numbered without gaps, written by whoever moves the alias or finds it moved."""

from datetime import UTC, datetime, timedelta

import pytest

from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.deployments import entry_for, observed, read_ledger, to_tag

now = datetime(2024, 5, 14, 3, 0, tzinfo=UTC)


def after(moves: list[tuple[str, str]]) -> dict[str, str]:
    """Return the tags after the alias moved to each version by each actor."""
    tags: dict[str, str] = {}
    for position, (version, actor) in enumerate(moves):
        name, value = to_tag(entry_for(read_ledger(tags), version, actor, now + timedelta(hours=position)))
        tags[name] = value
    return tags


class TestLedger:
    def test_the_first_deployment_is_number_one(self) -> None:
        """Zero stands for the fallback, before anything was deployed."""
        (entry,) = read_ledger(after([("7", "ann")]))

        assert (1, "", "7", "ann") == (entry.number, entry.from_version, entry.to_version, entry.actor)
        assert now == entry.time.ToDatetime(tzinfo=UTC)

    def test_each_move_is_numbered_and_says_from_where(self) -> None:
        """A rollback is a deployment like any other."""
        ledger = read_ledger(after([("1", "ann"), ("2", "trainer"), ("1", "bob")]))

        assert [(1, "", "1"), (2, "1", "2"), (3, "2", "1")] == [
            (entry.number, entry.from_version, entry.to_version) for entry in ledger
        ]

    def test_finding_what_was_written_writes_nothing_new(self) -> None:
        """Mover and service see one deployment, whoever comes first."""
        assert after([("1", "ann")]) == after([("1", "ann"), ("1", observed)])

    def test_an_observed_move_takes_the_name_of_its_actor(self) -> None:
        """The service may be faster than the writer of the entry; the name is not lost."""
        (entry,) = read_ledger(after([("1", observed), ("1", "ann")]))

        assert (1, "ann") == (entry.number, entry.actor)
        assert now == entry.time.ToDatetime(tzinfo=UTC)

    def test_a_claimed_move_keeps_its_actor(self) -> None:
        """Nobody takes over another's deployment."""
        (entry,) = read_ledger(after([("1", "ann"), ("1", "bob")]))

        assert "ann" == entry.actor

    def test_an_entry_keeps_everything_it_says(self) -> None:
        """Transitions, gates and returns come back as they were written."""
        entry = Deployment(
            number=12,
            to_version="3",
            actor="trainer",
            num_transitions=200,
            gate_report="ok",
            mean_return=0.0,
            num_episodes=20,
        )

        (found,) = read_ledger(dict([to_tag(entry)]))

        assert entry == found
        assert found.HasField("mean_return")

    def test_entries_come_by_number(self) -> None:
        """Whatever the order of the tags, and beyond 999999."""
        entries = [Deployment(number=number, to_version="1") for number in (1_000_000, 2, 10)]

        assert [2, 10, 1_000_000] == [entry.number for entry in read_ledger(dict(map(to_tag, entries)))]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("owner", "ann"),
            ("hyperact.deployment.000001", "not json"),
            ("hyperact.deployment.000001", "[]"),
            ("hyperact.deployment.000001", "{}"),
            ("hyperact.deployment.000001", '{"number": "2", "toVersion": "9"}'),
            ("hyperact.deployment.1", '{"number": "1", "toVersion": "9"}'),
            ("hyperact.deployment.x", '{"number": "1", "toVersion": "9"}'),
        ],
    )
    def test_a_tag_that_is_no_entry_is_passed_over(self, name: str, value: str) -> None:
        """A tag edited by hand stops neither the service nor the numbering."""
        assert [] == read_ledger({name: value})

    def test_fields_of_a_later_release_are_passed_over(self) -> None:
        """An older service reads what a newer trainer wrote."""
        tags = {"hyperact.deployment.000001": '{"number": "1", "toVersion": "9", "colour": "blue"}'}

        assert ["9"] == [entry.to_version for entry in read_ledger(tags)]
