"""The names by which the log travels on a stream."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from hyperact.v1.errors import FieldError
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.streams import (
    StreamAccess,
    connect_options,
    is_same_record,
    message_id,
    model_subjects,
    parse_stream_address,
    second_message_id,
    stream_partition,
    subject_of,
)
from toy_steps import toy_report, toy_step

made = datetime(2026, 11, 21, 4, 5, 6, 789, UTC)


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "servers", "stream"),
        [
            ("nats://one", ("nats://one:4222",), "hyperact"),
            ("nats://one:1/", ("nats://one:1",), "hyperact"),
            ("tls://one:1,10.0.0.2/steps-2", ("tls://one:1", "tls://10.0.0.2:4222"), "steps-2"),
            ("nats://[::1],[::2]:5", ("nats://[::1]:4222", "nats://[::2]:5"), "hyperact"),
        ],
    )
    def test_servers_and_stream_are_read_from_a_url(self, text: str, servers: tuple[str, ...], stream: str) -> None:
        """Several servers of one cluster, and the stream's name behind them; what is left out is filled in."""
        address = parse_stream_address(text)

        assert (servers, stream) == (address.servers, address.stream)
        assert address == parse_stream_address(str(address))

    @pytest.mark.parametrize(
        "text", ["", "one:1", "http://one", "nats://", "nats://one,", "nats://one/a.b", "nats:one"]
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        """The message names the field and what was expected."""
        with pytest.raises(FieldError, match="expected") as caught:
            parse_stream_address(text)

        assert "log" == caught.value.field

    def test_a_password_in_the_url_is_refused_and_not_repeated(self) -> None:
        """URLs are printed; secrets have settings of their own."""
        with pytest.raises(FieldError) as caught:
            parse_stream_address("nats://me:secret@one")

        assert "secret" not in str(caught.value)


class TestAccess:
    def test_nothing_given_demands_nothing(self) -> None:
        """A server without users on the loopback needs no settings."""
        assert {} == connect_options(StreamAccess())

    def test_secrets_are_not_shown(self) -> None:
        """Whoever prints the access sees the user and no more."""
        access = StreamAccess(user="me", password="secret", token="secret")

        assert {"user": "me", "password": "secret", "token": "secret"} == connect_options(access)
        assert "secret" not in repr(access)

    def test_a_certificate_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        """An operator sees at once which file it is."""
        with pytest.raises(OSError, match="No such file"):
            connect_options(StreamAccess(ca_file=str(tmp_path / "none.pem")))


class TestNames:
    @pytest.mark.parametrize(
        ("model", "token"),
        [("default", "default"), ("a.b", "a%2Eb"), ("*", "%2A"), ("> x", "%3E%20x"), ("é", "%C3%A9")],
    )
    def test_a_models_name_is_one_token_of_the_subject(self, model: str, token: str) -> None:
        """No name of a model reaches another's subjects, or all of them."""
        entry = LogEntry(step=toy_step(0, model=model))

        assert f"steps.{token}.step" == subject_of("steps", entry)
        assert f"steps.{token}.*" == model_subjects("steps", model)

    def test_kinds_have_subjects_of_their_own(self) -> None:
        """Steps to learn from can be counted without reading them."""
        step = toy_step(0)

        assert "s.default.step" == subject_of("s", LogEntry(step=step))
        assert "s.default.evaluation" == subject_of("s", LogEntry(step=toy_step(0, evaluation=True)))
        assert "s.default.report" == subject_of("s", LogEntry(report=toy_report(step)))

    def test_ids_differ_where_records_do(self) -> None:
        """A step, two reports on it, and what another replica logged of it."""
        step = toy_step(3)
        entries = [LogEntry(step=step), *(LogEntry(report=toy_report(step, name)) for name in ("a", "b/ c"))]

        assert ["default/s/r/0/3", "default/s/r/0/3/a", "default/s/r/0/3/b%2F%20c"] == list(map(message_id, entries))
        assert "default/s/r/0/3@p" == second_message_id(LogEntry(partition="p", step=step))

    def test_a_step_is_the_same_if_the_same_was_decided(self) -> None:
        """Time and place may differ, version and action may not."""
        entry = LogEntry(partition="p", offset=1, step=toy_step(0))

        assert is_same_record(entry, LogEntry(partition="q", offset=9, step=toy_step(0, seconds=9)))
        assert not is_same_record(entry, LogEntry(step=toy_step(0, action=0)))
        assert not is_same_record(entry, LogEntry(report=toy_report(toy_step(0))))

    def test_a_stream_made_anew_is_another_partition(self) -> None:
        """Its id depends on its name and its making, and not on how a server writes the time down."""
        same = made.astimezone(timezone(timedelta(hours=2)))

        assert stream_partition("s", made) == stream_partition("s", same)
        assert 3 == len(
            {
                stream_partition("s", made),
                stream_partition("t", made),
                stream_partition("s", made + timedelta(seconds=1)),
            }
        )
        assert 32 == len(stream_partition("s", made))
