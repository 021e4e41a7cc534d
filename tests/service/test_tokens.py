"""Session tokens and keys."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperact.service import tokens
from hyperact.service.errors import InvalidRequestError, UnauthenticatedError
from hyperact.service.keys import Keys, load_keys, load_or_make_key, parse_key
from hyperact.service.settings import ServeSettings
from hyperact.v1.decision_pb2 import Position, SessionState

KEY = bytes(range(32))
STATE = SessionState(
    model="m", session="s", run="r", episode=3, number=4, version="7", deployment=2, last_position=Position(episode=3)
)


def verify(token: bytes, key: bytes = KEY, model: str = "m", session: str = "s") -> SessionState:
    """Verify a token of the session that the tests are about."""
    return tokens.verify(key, token, model=model, session=session)


class TestTokens:
    def test_what_was_signed_is_read(self) -> None:
        """A token carries the whole state."""
        assert STATE == verify(tokens.sign(KEY, STATE))

    @given(position=st.integers(0), bit=st.integers(0, 7))
    def test_no_bit_can_be_changed(self, position: int, bit: int) -> None:
        """Whatever is edited, the signature does not fit."""
        token = bytearray(tokens.sign(KEY, STATE))
        token[position % len(token)] ^= 1 << bit

        with pytest.raises(UnauthenticatedError, match="token"):
            verify(bytes(token))

    @given(st.binary(max_size=100))
    def test_garbage_is_not_a_token(self, garbage: bytes) -> None:
        """Nothing that this service did not sign is read."""
        with pytest.raises(UnauthenticatedError):
            verify(garbage)

    def test_another_key_signs_nothing_here(self) -> None:
        """A token is worth what its key is."""
        with pytest.raises(UnauthenticatedError):
            verify(tokens.sign(b"x" * 32, STATE))

    def test_a_huge_token_is_not_even_hashed(self) -> None:
        """Work is bounded before it begins."""
        with pytest.raises(UnauthenticatedError, match="at most 4096"):
            verify(b"x" * 5000)

    @pytest.mark.parametrize("names", [{"model": "n"}, {"session": "t"}])
    def test_a_token_is_its_session_s_alone(self, names: dict[str, str]) -> None:
        """A good token of somebody else is the request's fault."""
        with pytest.raises(InvalidRequestError, match="token"):
            verify(tokens.sign(KEY, STATE), **names)  # type: ignore[arg-type]


class TestKeys:
    def test_a_missing_key_is_made_once_and_for_the_owner_alone(self, tmp_path: Path) -> None:
        """The first start makes it; every later one finds it."""
        path = tmp_path / "keys" / "index.key"

        made = load_or_make_key(path)

        assert 32 == len(made)
        assert made == load_or_make_key(path)
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert [path] == list(path.parent.iterdir())

    def test_workers_that_start_together_agree(self, tmp_path: Path) -> None:
        """One key, whoever was first."""
        with ThreadPoolExecutor(8) as pool:
            keys = set(pool.map(lambda _: load_or_make_key(tmp_path / "k"), range(32)))

        assert 1 == len(keys)

    def test_a_setting_goes_over_the_file(self, tmp_path: Path) -> None:
        """A secret from the environment needs no file."""
        keys = load_keys(ServeSettings.model_validate({"data_dir": tmp_path, "index_key": "11" * 32}))

        assert b"\x11" * 32 == keys.index
        assert not (tmp_path / "keys" / "index.key").exists()
        assert (tmp_path / "keys" / "token.key").exists()

    @pytest.mark.parametrize("text", ["", "zz", "11" * 15, "11" * 65])
    def test_a_bad_key_is_refused_without_showing_it(self, text: str) -> None:
        """A message names the source; the content may be half a secret."""
        with pytest.raises(ValueError, match="the source") as caught:
            parse_key(text, "the source")

        assert not text or text not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"\xff\xfe" * 20, "expected hexadecimal digits"), (b"abcd", "expected 16 to 64 bytes, got 2")],
    )
    def test_a_file_that_holds_no_key_is_named(self, tmp_path: Path, content: bytes, problem: str) -> None:
        """Whoever put a wrong file there learns which one, and the log shows none of it."""
        (tmp_path / "secret").write_bytes(content)
        settings = ServeSettings.model_validate({"data_dir": tmp_path, "token_key_file": str(tmp_path / "secret")})

        with pytest.raises(ValueError, match="secret") as caught:
            load_keys(settings)

        assert f"{tmp_path}/secret: {problem}" == str(caught.value)

    def test_keys_do_not_print(self) -> None:
        """A log line with the settings or the keys gives nothing away."""
        settings = ServeSettings.model_validate({"index_key": "11" * 32})

        keys = Keys(index=b"\x11" * 32, token=b"\x11" * 32)

        assert "11" * 8 not in repr(settings) + settings.model_dump_json()
        assert "x11" not in repr(keys)
