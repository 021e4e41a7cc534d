"""The deployment ledger: numbered without gaps, written by whoever moves the alias or finds it moved."""

from datetime import UTC, datetime, timedelta

import pytest

from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.deployments import (
    CHALLENGER,
    CHAMPION,
    entry_for,
    last_of,
    new_entry,
    observed,
    read_ledger,
    role_of,
    standing_kill,
    standing_share,
    to_tag,
)

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


class TestRoles:
    def test_each_role_has_its_own_chain(self) -> None:
        """Numbers run over all roles; where a champion came from is no matter of canaries."""
        ledger: list[Deployment] = []
        for version, role in (("1", CHAMPION), ("2", CHALLENGER), ("3", CHAMPION), ("", CHALLENGER)):
            ledger.append(new_entry(ledger, version, "ann", now, role))

        assert [(1, "", "1"), (2, "", "2"), (3, "1", "3"), (4, "2", "")] == [
            (entry.number, entry.from_version, entry.to_version) for entry in ledger
        ]

    def test_a_canary_between_does_not_make_a_promotion_new(self) -> None:
        """The champion's alias still stands where its own last entry says."""
        ledger = [new_entry([], "1", "ann", now, CHAMPION)]
        ledger.append(new_entry(ledger, "2", "ann", now, CHALLENGER))

        assert 1 == entry_for(ledger, "1", observed, now).number

    def test_entries_of_before_there_were_roles_are_the_champions(self) -> None:
        """A ledger that was begun earlier goes on."""
        old = Deployment(number=1, to_version="7", actor="ann")

        assert CHAMPION == role_of(old)
        assert last_of([old], CHAMPION) is old
        assert 1 == entry_for([old], "7", observed, now).number

    def test_a_share_is_granted_to_one_version(self) -> None:
        """An alias that was moved on by hand has none."""
        entry = new_entry([], "2", "ann", now, CHALLENGER)
        entry.share = 0.25

        assert [0.25, 0.0, 0.0] == [standing_share([entry], version) for version in ("2", "3", "")]

    def test_the_kill_switch_stands_until_the_champion_is_deployed_again(self) -> None:
        """Whatever happens to other roles."""
        thrown = new_entry([], "", "ann", now, CHAMPION)
        thrown.is_immediate = True
        ledger = [thrown, new_entry([thrown], "2", "ann", now, CHALLENGER)]

        assert standing_kill(ledger) is thrown
        assert standing_kill([*ledger, new_entry(ledger, "1", "ann", now, CHAMPION)]) is None
