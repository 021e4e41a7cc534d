"""The credentials file: whose a token or a certificate is."""

from pathlib import Path

import pytest

from hyperact.service.access import Role
from hyperact.service.credentials import Credentials, hash_token, read_credentials

TOKEN = "a-token-that-somebody-drew"
DIGEST = hash_token(TOKEN)


def read(directory: Path, text: str) -> Credentials:
    """Write a credentials file and read it."""
    path = directory / "credentials.toml"
    path.write_text(text)
    path.chmod(0o600)
    return read_credentials(path)


class TestReading:
    def test_tokens_and_certificates_lead_to_their_caller(self, tmp_path: Path) -> None:
        """Each proof is one caller's."""
        found = read(
            tmp_path,
            f"""
            [callers.robots]
            roles = ["act"]
            tokens = ["{DIGEST}"]
            [callers.trainer]
            roles = ["read-log", "operate"]
            certificates = ["trainer.example.com", "spiffe://example.com/trainer"]
            """,
        )

        assert "robots" == found.find_token(TOKEN)
        assert "" == found.find_token(TOKEN + "x")
        assert "" == found.find_token("")
        assert "trainer" == found.find_certificate(["other", "spiffe://example.com/trainer"])
        assert "" == found.find_certificate(["other"])
        assert "" == found.find_certificate([])
        assert {Role.READ_LOG, Role.OPERATE} == found.callers["trainer"].roles

    def test_a_star_stands_for_every_certificate(self, tmp_path: Path) -> None:
        """An authority of one's own may vouch for all at once; one that is named goes before."""
        found = read(
            tmp_path,
            '[callers.all]\nroles = ["act"]\ncertificates = ["*"]\n'
            '[callers.boss]\nroles = ["operate"]\ncertificates = ["boss"]\n',
        )

        assert "all" == found.find_certificate(["anybody"])
        assert "boss" == found.find_certificate(["boss"])

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("", "callers"),
            ("[callers]", "callers"),
            ('[callers.a]\ntokens = ["sha256:00"]\nroles = ["act"]', "callers.a.tokens"),
            (f'[callers.a]\ntokens = ["{TOKEN}"]\nroles = ["act"]', "callers.a.tokens"),
            ("[callers.a]\nroles = []", "callers.a.roles"),
            ('[callers.a]\nroles = ["root"]', "callers.a.roles"),
            ('[callers.a]\nroles = ["act"]\nrights = 1', "callers.a.rights"),
            (f'[callers.a]\nroles = ["act"]\ntokens = ["{DIGEST}", "{DIGEST}"]', "callers.a.tokens"),
            (
                '[callers.a]\nroles=["act"]\ncertificates=["x"]\n[callers.b]\nroles=["act"]\ncertificates=["x"]',
                "b.cert",
            ),
            ("what is this", "not TOML"),
        ],
    )
    def test_what_is_wrong_is_named_and_never_shown(self, tmp_path: Path, text: str, place: str) -> None:
        """Whoever writes a token itself into the file does not find it in the service's log as well."""
        with pytest.raises(ValueError, match=place) as error:
            read(tmp_path, text)

        assert TOKEN not in str(error.value)
        assert DIGEST not in str(error.value)

    def test_a_file_that_everyone_may_write_is_refused(self, tmp_path: Path) -> None:
        """Else everyone could make themselves a caller."""
        path = tmp_path / "credentials.toml"
        path.write_text('[callers.a]\nroles = ["act"]')
        path.chmod(0o666)

        with pytest.raises(ValueError, match="everyone may write"):
            read_credentials(path)
