"""Every command and client against a service that asks who they are: TLS, tokens, certificates."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr, ValidationError

import toys
from hyperact.clients.connection import AsyncConnection, Connection
from hyperact.clients.errors import AuthenticationError, UnavailableError
from hyperact.clients.policy import connect
from hyperact.clients.sessions import AsyncSession, VectorSession
from hyperact.service.credentials import hash_token
from hyperact.service.settings import ServeSettings
from hyperact.trainer.ingest import StepSource
from hyperact.trainer.log_source import LogUnavailableError
from hyperact.v1.channels import ConnectionSettings, channel_credentials, open_channel
from hyperact.v1.errors import ConnectionSettingsError
from toy_certificates import Authority
from toy_serve import serve

token = "hyperact_a-token-of-these-tests"
observation = np.zeros(3, np.float32)


@dataclass(frozen=True)
class Locked:
    """A service that lets nobody in without a certificate, and a caller's files.

    Attributes:
        both: a caller with all roles by certificate.
        by_token: one with role act by its token, in a file.
    """

    address: str
    directory: Path
    both: ConnectionSettings
    by_token: ConnectionSettings


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """Serve with mTLS and credentials."""
    directory = tmp_path_factory.mktemp("locked")
    authority = Authority()
    certificate, key = authority.issue_for_server().write(directory, "server")
    mine, my_key = authority.issue("operator.example.com").write(directory, "mine")
    other, other_key = authority.issue("nobody").write(directory, "other")
    (directory / "ca.pem").write_bytes(authority.certificate)
    (directory / "credentials.toml").write_text(
        '[callers.operator]\nroles = ["act", "read-log", "operate"]\ncertificates = ["operator.example.com"]\n'
        f'[callers.robots]\nroles = ["act"]\ntokens = ["{hash_token(token)}"]\n'
    )
    (directory / "token").write_text(token + "\n")
    toys.make_registry(directory / "data")
    arguments = {
        "--tls-certificate-file": certificate,
        "--tls-key-file": key,
        "--tls-client-ca-file": directory / "ca.pem",
        "--credentials-file": directory / "credentials.toml",
        "--fallback-num-actions": 2,
    }
    with serve(directory / "data", *(str(word) for pair in arguments.items() for word in pair)) as served:
        address = served.wait_for("serving")["address"]
        common: dict[str, Any] = {"tls_ca_file": directory / "ca.pem"}
        yield Locked(
            address,
            directory,
            ConnectionSettings(**common, client_certificate_file=mine, client_key_file=my_key),
            ConnectionSettings(
                **common,
                client_certificate_file=other,
                client_key_file=other_key,
                api_token_file=directory / "token",
            ),
        )


def hyperact(locked: Locked, connection: ConnectionSettings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with a connection in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "hyperact.command_line", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **connection.to_environment()},
        cwd=locked.directory,
        capture_output=True,
        text=True,
        check=False,
    )


class TestClients:
    @pytest.mark.parametrize("name", ["both", "by_token"])
    def test_an_agent_plays(self, locked: Locked, name: str) -> None:
        """By certificate or by token, single calls and streams alike."""
        credentials = channel_credentials(getattr(locked, name))
        with connect(locked.address, session=f"single-{name}", credentials=credentials) as policy:
            action = policy(observation)
            policy.observe(observation, 1.0, terminated=True, truncated=False)
        with (
            Connection(locked.address, credentials=credentials) as connection,
            VectorSession(connection, [f"row-{name}-{row}" for row in range(3)], max_batch=3) as sessions,
        ):
            decisions = sessions.act(np.zeros((3, 3), np.float32))

        assert action in (0, 1)
        assert 3 == len(decisions)

    async def test_an_agent_plays_in_asyncio(self, locked: Locked) -> None:
        """The same for the other library."""
        async with (
            AsyncConnection(locked.address, credentials=channel_credentials(locked.by_token)) as connection,
            AsyncSession(connection, "async") as session,
        ):
            assert (await session.act(observation)).action in (0, 1)

    def test_a_token_in_a_file_may_change(self, locked: Locked, tmp_path: Path) -> None:
        """A long-lived client learns a new token without a restart, and is told when it is not the right one."""
        path = tmp_path / "token"
        shutil.copy(locked.directory / "token", path)
        settings = locked.by_token.model_copy(update={"api_token_file": path})
        with Connection(locked.address, credentials=channel_credentials(settings)) as connection:
            connection.get_spec()
            path.write_text("another-one")
            with pytest.raises(AuthenticationError) as refused:
                connection.get_spec()
            path.write_text(token)
            connection.get_spec()

        assert "UNKNOWN_CALLER" == refused.value.reason
        assert "another-one" not in str(refused.value)

    def test_who_comes_without_tls_is_told_to_look_at_it(self, locked: Locked) -> None:
        """A handshake that fails looks like nobody at home; the message says both."""
        with Connection(locked.address) as connection, pytest.raises(UnavailableError, match="TLS on at both ends"):
            connection.wait_until_reachable(0.5)

    def test_the_trainer_reads_the_log(self, locked: Locked) -> None:
        """With role read-log, and waits without it: a token may be mended."""
        with open_channel(locked.address, locked.both) as channel:
            assert StepSource(channel, "default").extent()
        with open_channel(locked.address, locked.by_token) as channel, pytest.raises(LogUnavailableError, match="role"):
            StepSource(channel, "default").extent()


class TestCommands:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("status",),
            ("health",),
            ("log", "range"),
            ("log", "tail"),
            ("play", "deepsea", "--size", "3", "--episodes", "1", "--plot", ""),
        ],
    )
    def test_a_command_takes_its_connection_from_the_environment(
        self, locked: Locked, arguments: tuple[str, ...]
    ) -> None:
        """What is set once holds for every command."""
        done = hyperact(locked, locked.both, *arguments, "--address", locked.address)

        assert 0 == done.returncode, done.stderr

    def test_a_command_that_may_not_says_so(self, locked: Locked) -> None:
        """In one line, with the role that is missing."""
        done = hyperact(locked, locked.by_token, "log", "forget", "--reader", "r", "--address", locked.address)

        assert 1 == done.returncode
        assert "PERMISSION_DENIED: robots has not the role operate" in done.stderr
        assert 1 == done.stderr.count("\n")

    def test_an_audit_reads_over_the_same_connection(self, locked: Locked) -> None:
        """As far as the log: this one has no version to compute anything with."""
        done = hyperact(locked, locked.both, "audit", "--address", locked.address, "--data-dir", "data")

        assert "UNAVAILABLE" not in done.stderr
        assert "UNAUTHENTICATED" not in done.stderr


class TestSettings:
    def test_nothing_set_is_no_tls(self) -> None:
        """Loopback in plain text, as before."""
        assert channel_credentials(ConnectionSettings()) is None

    def test_a_token_alone_switches_tls_on(self) -> None:
        """It is never sent in plain text."""
        assert channel_credentials(ConnectionSettings(api_token=SecretStr(token))) is not None

    def test_half_a_pair_is_refused(self, tmp_path: Path) -> None:
        """A certificate without its key proves nothing."""
        with pytest.raises(ValidationError, match="give both or none"):
            ConnectionSettings(client_key_file=tmp_path / "key")

    @pytest.mark.parametrize("name", ["tls_ca_file", "api_token_file"])
    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path, name: str) -> None:
        """Before any call is made."""
        with pytest.raises(ConnectionSettingsError, match="nowhere: No such file"):
            channel_credentials(ConnectionSettings.model_validate({name: tmp_path / "nowhere"}))

    @pytest.mark.parametrize("content", ["", "two\nlines", "not ascii \u2713"])
    def test_a_file_that_holds_no_token_is_named_and_not_shown(self, tmp_path: Path, content: str) -> None:
        """What stands there may be half a secret."""
        path = tmp_path / "token"
        path.write_text(content)

        with pytest.raises(ConnectionSettingsError, match="expected one line") as error:
            channel_credentials(ConnectionSettings(api_token_file=path))

        assert not content or content not in str(error.value)

    @pytest.mark.parametrize(
        "command",
        [
            ("-m", "hyperact.service"),
            ("-m", "hyperact.command_line", "serve"),
            ("-m", "hyperact.command_line", "serve", "--print-config"),
            ("-m", "hyperact.command_line", "audit", "--print-config"),
            ("-m", "hyperact.command_line", "retrain", "--print-config"),
        ],
    )
    def test_no_secret_is_printed(self, tmp_path: Path, command: tuple[str, ...]) -> None:
        """Not with the settings, and not with a complaint about another one."""
        secrets = {"HYPERACT_INDEX_KEY": "ab" * 32, "HYPERACT_TOKEN_KEY": "cd" * 32, "HYPERACT_API_TOKEN": token}
        wrong = {} if "--print-config" in command else {"HYPERACT_ADDRESS": "0.0.0.0:1"}
        if command[1] == "hyperact.service":
            del secrets["HYPERACT_API_TOKEN"]

        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **secrets, **wrong},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

        assert (2 if wrong else 0) == done.returncode
        assert not [secret for secret in secrets.values() if secret in done.stdout + done.stderr]


@pytest.mark.parametrize("make", [channel_credentials, lambda settings: settings])
def test_secrets_do_not_show_in_what_is_printed_of_them(make: Callable[[Any], Any]) -> None:
    """Not in a traceback, not in a log line."""
    shown = repr(make(ConnectionSettings(api_token=SecretStr(token))))
    served = repr(ServeSettings.model_validate({"index_key": "ab" * 32}))

    assert token not in shown
    assert "ab" * 32 not in served
